"""The executor on backends that fail, hang, or break their promises."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from sgen.errors import CancelledError, EngineClosedError, GrammarError, ProgramError, SgenError
from sgen.frontend import Ref, State, ir, program
from sgen.frontend.events import Event
from sgen.frontend.executor import Executor, Terms
from sgen.frontend.fake import FakeBackend
from sgen.frontend.values import Cell, Failure, Outcome
from sgen.protocol import (
    Chunk,
    GenerateRequest,
    GrammarSpec,
    OptionScore,
    ScoreRequest,
    Scores,
    Usage,
)

NO_SCORES = Scores((), Usage())


def gen(branch: int, var: int, name: str = "v", **rest: Any) -> ir.Gen:
    return ir.Gen(branch=branch, var=var, name=name, **rest)


def lit(branch: int, text: str) -> ir.Text:
    return ir.Text(branch, (ir.Lit(text),))


def on_loop(
    backend: FakeBackend,
    body: Callable[[Executor, list[Event]], Awaitable[None]],
    terms: Terms | None = None,
) -> list[Event]:
    """Run a test on an executor, which is closed in the end."""
    events: list[Event] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        executor = Executor(backend, loop=loop, emit=events.append, terms=terms)
        try:
            await asyncio.wait_for(body(executor, events), 10)
        finally:
            await executor.close()
        assert not backend.open

    asyncio.run(main())
    return events


def test_terms_name_the_requests_and_salt_them() -> None:
    backend = FakeBackend(default="x")

    async def body(executor: Executor, events: list[Event]) -> None:
        executor.feed(lit(ir.ROOT, "a"))
        executor.feed(gen(ir.ROOT, 0))
        executor.feed(ir.Select(branch=ir.ROOT, var=1, name="s", options=("b", "c")))
        await executor.settle()
        executor.raise_unseen()

    on_loop(backend, body, Terms("run", "salt"))
    assert [(r.id, r.cache_salt) for r in backend.requests] == [
        ("run#1:v", "salt"),
        ("run#2:s", "salt"),
    ]


@pytest.mark.parametrize(("most", "fits"), [(8, True), (7, False)])
def test_terms_bound_what_is_written_and_handed_on(most: int, fits: bool) -> None:
    async def body(executor: Executor, events: list[Event]) -> None:
        executor.feed(lit(ir.ROOT, "abcd"))
        executor.feed(ir.Fork(ir.ROOT, (1,)))  # its branch begins with the four
        await executor.settle()
        with contextlib.nullcontext() if fits else pytest.raises(ProgramError, match="than 7"):
            executor.raise_unseen()

    on_loop(FakeBackend(), body, Terms(characters=most))


class Broken(FakeBackend):
    """Streams these chunks, and gives these scores."""

    def __init__(self, *chunks: Chunk, scores: Scores = NO_SCORES) -> None:
        super().__init__()
        self.chunks = chunks
        self.scores = scores

    async def extend(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        self.requests.append(request)
        for chunk in self.chunks:
            yield chunk

    async def score(self, request: ScoreRequest) -> Scores:
        return self.scores

    def cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)


@pytest.mark.parametrize(
    ("chunks", "error", "words", "cancels"),
    [
        ((), EngineClosedError, "before its last piece", 1),
        ((Chunk(text="a"),), EngineClosedError, "before its last piece", 1),
        ((Chunk(text="a"), Chunk(finish_reason="error")), SgenError, "by an error", 0),
        ((Chunk(finish_reason="cancelled"),), CancelledError, "engine cancelled", 0),
    ],
)
def test_an_answer_that_breaks_off_is_no_answer(chunks, error, words: str, cancels: int) -> None:
    backend = Broken(*chunks)

    async def body(executor: Executor, events: list[Event]) -> None:
        cell = Cell()
        executor.feed(gen(0, 0), cell)
        with pytest.raises(error, match=words):
            await cell
        assert len(backend.cancelled) == cancels

    events = on_loop(backend, body)
    assert events[-1].kind == "error"


def test_nothing_after_the_last_chunk_counts() -> None:
    backend = Broken(
        Chunk(text="a"),
        Chunk(text="b", finish_reason="stop", usage=Usage(1, 0, 2)),
        Chunk(text="c"),
    )

    async def body(executor: Executor, events: list[Event]) -> None:
        executor.feed(gen(0, 0))
        assert await executor.value(0) == "ab"
        await executor.settle()
        assert executor.text() == "ab"
        assert executor.usage == Usage(1, 0, 2)

    on_loop(backend, body)


def test_scores_for_some_options_only_are_an_error() -> None:
    async def body(executor: Executor, events: list[Event]) -> None:
        executor.feed(ir.Select(branch=0, var=0, name="s", options=("a", "b")))
        with pytest.raises(EngineClosedError, match="all options"):
            await executor.value(0)

    on_loop(Broken(scores=Scores((OptionScore(1.0, ()),), Usage())), body)


def test_an_iterator_that_cannot_be_closed_is_cancelled_by_its_id() -> None:
    class Plain:
        def __aiter__(self) -> Plain:
            return self

        async def __anext__(self) -> Chunk:
            await asyncio.Event().wait()
            raise AssertionError

    class Backend(Broken):
        def extend(self, request: GenerateRequest) -> Any:
            self.requests.append(request)
            return Plain()

    backend = Backend()

    async def body(executor: Executor, events: list[Event]) -> None:
        cell = Cell()
        executor.feed(gen(0, 0), cell)
        await asyncio.sleep(0.01)
        executor.cancel(cell)
        with pytest.raises(CancelledError):
            await cell
        await executor.settle()
        assert backend.cancelled == [backend.requests[0].id]

    on_loop(backend, body)


def test_a_refused_grammar_fails_the_variable_and_what_follows() -> None:
    error = GrammarError("no backreferences", position=3)
    backend = FakeBackend({"a": error})

    async def body(executor: Executor, events: list[Event]) -> None:
        first, second = Cell(), Cell()
        executor.feed(gen(0, 0, "a", grammar=GrammarSpec("regex", r"(a)\1")), first)
        executor.feed(lit(0, "x"))
        executor.feed(gen(0, 1, "b"), second)
        await executor.settle()
        assert first.failure is second.failure
        with pytest.raises(GrammarError, match="backreferences"):
            executor.raise_unseen()
        executor.raise_unseen()
        assert len(backend.requests) == 1

    on_loop(backend, body)


def test_a_text_that_reads_a_failed_variable_of_another_branch_fails_its_own() -> None:
    backend = FakeBackend({"bad": OSError("gone")})

    async def body(executor: Executor, events: list[Event]) -> None:
        cells = [Cell() for _ in range(3)]
        executor.feed(ir.Fork(0, (1, 2)))
        executor.feed(gen(1, 0, "bad"), cells[0])
        executor.feed(ir.Text(2, (ir.Var(0),)))
        executor.feed(gen(2, 1), cells[1])
        executor.feed(gen(0, 2), cells[2])
        await executor.settle()
        assert cells[1].failure is cells[0].failure
        assert cells[2].succeeded
        assert len(executor.variables()) == 1

    on_loop(backend, body)


def test_branches_of_a_failed_branch_fail_too() -> None:
    backend = FakeBackend({"bad": OSError("gone")})

    async def body(executor: Executor, events: list[Event]) -> None:
        cell = Cell()
        executor.feed(gen(0, 0, "bad"))
        executor.feed(ir.Fork(0, (1,)))
        executor.feed(ir.Fork(1, (2,)))
        executor.feed(gen(2, 1), cell)
        executor.feed(ir.Join(0, (1,)))
        with pytest.raises(OSError, match="gone"):
            await cell
        await executor.settle()

    on_loop(backend, body)


def test_a_join_holds_the_parent_until_the_branches_are_done() -> None:
    backend = FakeBackend(delay=0.005)

    async def body(executor: Executor, events: list[Event]) -> None:
        executor.feed(ir.Fork(0, (1,)))
        executor.feed(ir.Fork(1, (2,)))
        executor.feed(gen(2, 0, "inner"))
        executor.feed(ir.Join(0, (1,)))
        executor.feed(gen(0, 1, "outer"))
        await executor.settle()

    events = on_loop(backend, body)
    order = [(e.kind, e.name) for e in events if e.kind in ("var.start", "var.end", "join")]
    assert order == [
        ("var.start", "inner"),
        ("var.end", "inner"),
        ("join", None),
        ("var.start", "outer"),
        ("var.end", "outer"),
    ]


@pytest.mark.parametrize("pause", [None, 0.0, 0.01])
def test_branches_can_be_cancelled_at_any_moment(pause: float | None) -> None:
    backend = FakeBackend(hold=("slow",), delay=0.001)

    async def body(executor: Executor, events: list[Event]) -> None:
        cells = [Cell() for _ in range(4)]
        executor.feed(gen(0, 0, "first"), cells[0])
        executor.feed(ir.Fork(0, (1, 2)))
        executor.feed(gen(1, 1, "slow"), cells[1])
        executor.feed(ir.Fork(2, (3,)))
        executor.feed(gen(3, 2, "slow"), cells[2])
        executor.feed(ir.Join(2, (3,)))
        executor.feed(gen(2, 3), cells[3])
        if pause is not None:
            await asyncio.sleep(pause)
        executor.cancel_branches([1, 2])
        for cell in cells[1:]:
            with pytest.raises(CancelledError):
                await cell
        await executor.settle()
        assert (await cells[0]).text == "ok"
        executor.raise_unseen()

    on_loop(backend, body)


def test_close_finishes_everything_and_takes_nothing_more() -> None:
    backend = FakeBackend(hold=("slow",))

    async def body(executor: Executor, events: list[Event]) -> None:
        cells = [Cell() for _ in range(3)]
        executor.feed(gen(0, 0, "slow"), cells[0])
        executor.feed(gen(0, 1), cells[1])
        await asyncio.sleep(0.01)
        assert len(backend.open) == 1
        await executor.close()
        assert not backend.open
        executor.feed(gen(0, 2), cells[2])
        assert all(cell.finished and not cell.succeeded for cell in cells)

    on_loop(backend, body)


def test_ids_are_unique_and_say_which_variable() -> None:
    backend = FakeBackend()

    async def body(executor: Executor, events: list[Event]) -> None:
        executor.feed(ir.Fork(0, tuple(range(1, 50))))
        for i in range(1, 50):
            executor.feed(gen(i, i, "same name"))
        await executor.settle()

    on_loop(backend, body)
    ids = [r.id for r in backend.requests]
    assert len(set(ids)) == 49
    assert all(i.endswith(":same name") for i in ids)


# cells


def test_a_cell_wakes_those_who_wait_on_other_loops_and_threads() -> None:
    cell = Cell()

    async def main() -> None:
        async def wait() -> Outcome:
            return await cell

        def elsewhere() -> str:
            return asyncio.run(wait()).text

        async def streamed() -> list[str]:
            return [piece async for piece in cell.stream()]

        waiting = [
            asyncio.create_task(wait()),
            asyncio.create_task(asyncio.to_thread(elsewhere)),
            asyncio.create_task(asyncio.to_thread(cell.block)),
            asyncio.create_task(streamed()),
        ]
        await asyncio.sleep(0.02)
        cell.push("a")
        await asyncio.sleep(0)
        cell.push("b")
        cell.finish(Outcome(1, "ab"))
        first, text, blocked, pieces = await asyncio.gather(*waiting)
        assert first is blocked
        assert (text, pieces) == ("ab", ["a", "b"])

    asyncio.run(main())


def test_cancelling_a_waiter_leaves_the_cell_alone() -> None:
    async def main() -> None:
        cell = Cell()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await cell
        assert not cell.finished
        cell.finish(Outcome("v", "v"))
        assert (await cell).value == "v"

    asyncio.run(main())


def test_a_failure_is_seen_when_it_is_read() -> None:
    async def main() -> None:
        cell, failure = Cell(), Failure(OSError("gone"))
        cell.push("half")
        cell.fail(failure)
        cell.fail(Failure(KeyError()))
        await cell.settled()
        assert not failure.seen
        pieces: list[str] = []
        with pytest.raises(OSError, match="gone"):  # noqa: PT012  (it comes after a piece)
            async for piece in cell.stream():
                pieces.append(piece)
        assert failure.seen
        assert pieces == ["half"]

    asyncio.run(main())


# anything at any time


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_no_request_and_no_task_is_left(seed: int) -> None:
    """Random programs, some requests failing, some never ending, refs cancelled at random, and
    now and then the whole run is cancelled."""
    chance = random.Random(seed)
    backend = FakeBackend({"bad": OSError("gone")}, hold=("slow",), delay=0.0005)

    async def grow(s: State, depth: int) -> str:
        refs: list[Ref[str]] = []
        for _ in range(chance.randrange(4)):
            s += f"text {refs[-1] if refs else ''}"
            name = chance.choice(["a", "a", "a", "slow", "bad"])
            refs.append(s.gen(name=name))
            if name == "slow" or chance.random() < 0.2:
                refs[-1].cancel()
            if chance.random() < 0.3:
                await asyncio.sleep(0.002 * chance.random())
            if chance.random() < 0.3:
                with contextlib.suppress(OSError, CancelledError):
                    await refs[-1]
        if depth < 3 and chance.random() < 0.8:
            async with s.fork(chance.randrange(1, 4)) as branches:
                await branches.gather(lambda b, i: grow(b, depth + 1))
                if chance.random() < 0.2:
                    raise KeyError
        return "end"

    @program
    async def p(s: State) -> str:
        return await grow(s, 0)

    async def main() -> None:
        run = asyncio.create_task(p.with_options(engine=backend).arun())
        if seed % 3 == 0:
            await asyncio.sleep(0.004 * chance.random())
            run.cancel()
        await asyncio.wait([run], timeout=10)
        assert run.done()
        if not run.cancelled() and run.exception() is not None:
            assert isinstance(run.exception(), (OSError, CancelledError, KeyError))
        assert not backend.open
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
