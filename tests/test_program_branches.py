"""Branches of a program: what they share, and what is cancelled when one is left."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from sgen.errors import CancelledError, OutputError, ProgramError
from sgen.frontend import Ref, Run, State, program
from sgen.frontend.fake import FakeBackend, prompt_text
from sgen.protocol import RoleStart, Text
from tests.programs import ADA, answering, prompts


@pytest.fixture
def backend() -> Iterator[FakeBackend]:
    with answering(ADA) as fake:
        yield fake


def test_branches_share_the_prefix_and_run_side_by_side(backend: FakeBackend) -> None:
    backend.delay = 0.02

    @program
    async def p(s: State) -> list[str]:
        s += "prefix "
        async with s.fork(8) as branches:
            assert len(branches) == 8

            async def go(b: State, i: int) -> str:
                b += f"{i}: "
                return await b.gen(name="name") + str(i)

            return await branches.gather(go)

    start = time.perf_counter()
    run = p.run()
    assert time.perf_counter() - start < 8 * 0.04
    assert run.output == [f"Ada{i}" for i in range(8)]
    assert sorted(prompts(backend)) == [f"prefix {i}: " for i in range(8)]
    assert backend.most_open == 8
    assert run.text == "prefix "
    assert run.vars["3.name"] == "Ada"
    assert [s.text for s in run.spans if s.branch == (5,)] == ["5: ", "Ada"]


def test_a_branch_starts_with_what_was_there_at_the_fork(backend: FakeBackend) -> None:
    @program
    async def p(s: State) -> str:
        name = s.gen(name="name")
        with s.assistant():
            bs = s.fork(2)
            s += " root only"
        bs[0] += "zero "
        inner = bs[1].fork(1)[0]
        inner += f" {name}"
        city = inner.gen(name="city")
        await bs.join()
        s += f" {city} {bs[0]['name']}"
        return await s.gen(name="end")

    run = p.run()
    assert run.text == "Adaassistant:  root only\n London Adaok"
    by_name = {r.id.rsplit(":", 1)[-1]: r for r in backend.requests}
    assert by_name["city"].prompt[1:] == (RoleStart("assistant"), Text(" Ada"))
    assert run.vars["1.0.city"] == "London"


def test_join_ends_the_branches(backend: FakeBackend) -> None:
    @program
    async def p(s: State) -> None:
        async with s.fork(1) as bs:
            bs[0].gen()
        bs[0].gen()

    with pytest.raises(ProgramError, match="joined"):
        p.run()


def test_sync_with_in_an_async_program_is_refused(backend: FakeBackend) -> None:
    @program
    async def p(s: State) -> None:
        with s.fork(1):
            pass

    with pytest.raises(ProgramError, match="async with"):
        p.run()


def test_gather_takes_awaitables_only(backend: FakeBackend) -> None:
    @program
    async def p(s: State) -> None:
        async with s.fork(1) as bs:
            await bs.gather(lambda b, i: i)  # type: ignore[arg-type, return-value]  # wrong on purpose

    with pytest.raises(ProgramError, match="must return a Ref"):
        p.run()


# errors and cancelling


def test_a_backend_failure_fails_the_run_and_names_the_variable(backend: FakeBackend) -> None:
    error = OSError("the model is gone")
    backend.answers["bad"] = error

    @program
    async def nobody_waits(s: State) -> str:
        s.gen(name="bad")
        return "done"

    @program
    async def awaited(s: State) -> str:
        async with s.fork(2) as bs:
            ref = bs[1].gen(name="bad")
            bs[0].gen(name="hold")
            return await ref

    backend.hold = frozenset({"hold"})
    for p in (nobody_waits, awaited):
        with pytest.raises(OSError, match="gone") as caught:
            p.run()
        assert any("bad" in note for note in caught.value.__notes__)
    assert "hold" in backend.cancelled


def test_an_error_that_the_program_handles_does_not_fail_the_run(backend: FakeBackend) -> None:
    backend.answers["bad"] = OSError("gone")

    @program
    async def p(s: State) -> str:
        s += "q "
        async with s.fork(1) as bs:
            ref = bs[0].gen(name="bad")
            later = bs[0].gen(name="after")
            with pytest.raises(OSError, match="gone"):
                await ref
            with pytest.raises(OSError, match="gone"):
                await later
        return await s.gen(name="name")

    run = p.run()
    assert run.output == "Ada"
    assert run.vars == {"name": "Ada"}


def test_an_error_in_a_branch_does_not_touch_other_programs(backend: FakeBackend) -> None:
    backend.delay = 0.005
    backend.answers["x"] = lambda r: "fine" if "good" in prompt_text(r.prompt) else str(1 / 0)

    @program
    async def p(s: State, q: str) -> str:
        s += q
        async with s.fork(3) as bs:
            return (await bs.gather(lambda b, i: b.gen(name="x")))[0]

    async def both() -> list[Run[str] | BaseException]:
        return await asyncio.gather(
            p.arun(q="good"), p.arun(q="bad"), p.arun(q="good"), return_exceptions=True
        )

    a, b, c = asyncio.run(both())
    assert isinstance(a, Run)
    assert a.output == "fine"
    assert isinstance(b, ZeroDivisionError)
    assert isinstance(c, Run)


def test_cut_output_is_an_output_error_that_holds_the_text(backend: FakeBackend) -> None:
    backend.answers["n"] = '[1, 2, 3, "x"]'

    @program
    async def cut(s: State) -> list[int]:
        ref = s.gen(list[int], name="n", max_tokens=4, finish="truncate")
        try:
            return await ref
        except OutputError as error:
            s += f" {error.message}"
            assert ref.text == "[1, "
            s += " again: "
            return [len(await s.gen(name="name"))]

    assert cut.run().text == ("[1,  the output was cut at max_tokens=4: '[1, ' again: Ada")

    @program
    async def wrong(s: State) -> list[int]:
        return await s.gen(list[int], name="n")

    with pytest.raises(OutputError, match="does not fit"):
        wrong.run()


def test_free_text_may_be_cut(backend: FakeBackend) -> None:
    @program
    async def p(s: State) -> tuple[str, str]:
        ref = s.gen(name="long", max_tokens=4)
        return await ref, ref.finish_reason

    assert p.run().output == ("0123", "length")


def test_losers_are_cancelled(backend: FakeBackend) -> None:
    backend.hold = frozenset({"slow"})

    @program
    async def p(s: State) -> str:
        async with s.fork(3) as bs:
            refs: list[Ref[str]] = [b.gen(name="slow" if i else "name") for i, b in enumerate(bs)]
            queued = bs[1].gen(name="queued")
            winner = await refs[0]
            for loser in refs[1:]:
                loser.cancel()
            with pytest.raises(CancelledError):
                await refs[1]
            with pytest.raises(CancelledError):
                await queued
        return winner

    run = p.run()
    assert run.output == "Ada"
    assert backend.cancelled == ["slow", "slow"]
    assert list(run.vars) == ["0.name"]


def test_cancel_before_it_starts_sends_no_request(backend: FakeBackend) -> None:
    @program
    async def p(s: State) -> str:
        s.gen(name="city")
        ref = s.gen(name="name")
        ref.cancel()
        ref.cancel()
        return await s["city"]

    assert p.run().output == "London"
    assert [r.id.rsplit(":", 1)[-1] for r in backend.requests] == ["city"]


@pytest.mark.parametrize("how", ["exception", "timeout", "cancel"])
def test_leaving_a_fork_cancels_all_its_requests(backend: FakeBackend, how: str) -> None:
    backend.hold = frozenset({"slow"})

    @program
    async def p(s: State) -> str:
        try:
            async with s.fork(4) as bs:
                refs = [b.gen(name="slow") for b in bs]
                await asyncio.sleep(0.01)
                if how == "exception":
                    raise KeyError
                async with asyncio.timeout(0.01):
                    await refs[0]
        except (KeyError, TimeoutError):
            await asyncio.sleep(0.01)
            assert not backend.open
            return await s.gen(name="name")
        return ""

    if how == "cancel":

        async def main() -> None:
            async with asyncio.timeout(0.015):
                await p.arun()

        with pytest.raises(TimeoutError):
            asyncio.run(main())
    else:
        assert p.run().output == "Ada"
    assert backend.cancelled == ["slow"] * 4


@pytest.mark.parametrize("sync", [False, True])
def test_cancelling_the_task_ends_the_run(backend: FakeBackend, sync: bool) -> None:
    backend.hold = frozenset({"slow"})
    ended = threading.Event()

    @program
    async def waits(s: State) -> str:
        s.gen(name="slow")
        return await s.gen(name="name")

    @program
    def blocks(s: State) -> str:
        try:
            s.gen(name="slow")
            return s.gen(name="name").value
        finally:
            ended.set()

    async def main() -> None:
        task = asyncio.create_task((blocks if sync else waits).arun())
        await asyncio.sleep(0.05)
        assert len(backend.open) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not backend.open

    asyncio.run(main())
    assert backend.cancelled == ["slow"]
    if sync:
        assert ended.wait(5)


def test_an_error_of_the_program_cancels_its_requests(backend: FakeBackend) -> None:
    backend.hold = frozenset({"slow"})

    @program
    async def p(s: State) -> None:
        s.gen(name="slow")
        await asyncio.sleep(0.01)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        p.run()
    assert backend.cancelled == ["slow"]


def test_a_state_is_dead_after_its_run(backend: FakeBackend) -> None:
    states: list[State] = []

    @program
    async def p(s: State) -> str:
        states.append(s)
        ref = s.gen(name="name")
        return await ref

    p.run()
    with pytest.raises(ProgramError, match="over"):
        states[0].gen()
    assert states[0]["name"].value == "Ada"
