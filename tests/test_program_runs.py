"""Ways to run programs: plain ones, inside each other, over many rows, and as streams."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import aclosing

import pytest

from sgen.errors import ProgramError
from sgen.frontend import Event, Run, State, program
from sgen.frontend.fake import FakeBackend, prompt_text
from tests.programs import ADA, answering, ask, ask_plainly


@pytest.fixture
def backend() -> Iterator[FakeBackend]:
    with answering(ADA) as fake:
        yield fake


def test_a_plain_def_program_reads_values_in_the_middle(backend: FakeBackend) -> None:
    @program
    def p(s: State, n: int) -> str:
        s += "a "
        name = s.gen(name="name")
        if name.value == "Ada":
            s += f"yes {name.text} "
        with s.fork(n) as bs:
            cities = bs.gather(lambda b, i: b.gen(name="city")).value
        assert s.text == "a Adayes Ada "
        return "/".join(cities)

    run = p.run(n=3)
    assert run.output == "London/London/London"
    assert run.text == "a Adayes Ada "
    assert asyncio.run(p.arun(n=2)).output == "London/London"


def test_branches_need_no_threads(backend: FakeBackend) -> None:
    backend.delay = 0.01

    @program
    def p(s: State) -> int:
        with s.fork(50) as bs:
            for b in bs:
                b.gen(name="name")
            return threading.active_count()

    before = threading.active_count()
    assert p.run().output <= before + 1
    assert backend.most_open == 50


def test_an_error_in_a_plain_def_program(backend: FakeBackend) -> None:
    backend.answers["bad"] = OSError("gone")
    backend.hold = frozenset({"slow"})

    @program
    def p(s: State) -> str:
        with s.fork(2) as bs:
            bs[0].gen(name="slow")
            return bs[1].gen(name="bad").value

    with pytest.raises(OSError, match="gone"):
        p.run()
    assert backend.cancelled == ["slow"]

    @program
    def stops(s: State) -> str:
        return next(iter([]))

    with pytest.raises((RuntimeError, StopIteration)):
        stops.run()


# programs in programs


@pytest.mark.parametrize("part", [ask, ask_plainly])
def test_a_program_inside_another_writes_to_its_state(backend: FakeBackend, part) -> None:
    @program
    async def outer(s: State) -> str:
        s.system("x")
        return await part(s, "who?") + await part(s, q="again?")

    @program
    def outer_plain(s: State) -> str:
        s.system("x")
        return part(s, "who?").value + part(s, q="again?").value

    expected = "system: x\nuser: who?\nassistant: Ada\nuser: again?\nassistant: Ada\n"
    for p in (outer, outer_plain):
        run = p.run()
        assert run.output == "AdaAda"
        assert run.text == expected


def test_run_inside_an_async_program_says_to_await(backend: FakeBackend) -> None:
    @program
    async def outer(s: State) -> str:
        with pytest.raises(ProgramError, match="arun"):
            ask.run(q="x")
        return (await ask.arun(q="y")).output

    assert outer.run().output == "Ada"


def test_runs_nest_in_plain_programs(backend: FakeBackend) -> None:
    @program
    def inner(s: State, depth: int) -> int:
        s.gen(name="name").value.upper()
        return 1 + inner.run(depth=depth - 1).output if depth else 0

    assert inner.run(depth=5).output == 5


def test_many_plain_programs_that_wait_for_each_other(backend: FakeBackend) -> None:
    """More than the pool has threads, each waiting for others that need threads too."""

    @program
    def leaf(s: State) -> str:
        return s.gen(name="name").value

    @program
    async def middle(s: State) -> str:
        return (await leaf.arun()).output

    @program
    def top(s: State) -> str:
        return middle.run().output

    async def main() -> list[Run[str]]:
        return await asyncio.gather(*(top.arun() for _ in range(300)))

    assert {run.output for run in asyncio.run(main())} == {"Ada"}


# map


def test_map_keeps_order_and_concurrency(backend: FakeBackend) -> None:
    backend.delay = 0.001
    backend.answers["x"] = lambda r: "y" * (1 + int(prompt_text(r.prompt)) * 7 % 11)
    active = 0
    most = 0

    @program
    async def p(s: State, n: int) -> int:
        nonlocal active, most
        active += 1
        most = max(most, active)
        s += str(n)
        text = await s.gen(name="x")
        await asyncio.sleep(0.001 * (n % 5))
        active -= 1
        return len(text)

    runs = list(p.map(({"n": i} for i in range(200)), concurrency=16))
    assert [r.output for r in runs] == [1 + i * 7 % 11 for i in range(200)]
    assert most == 16
    assert backend.most_open <= 16


def test_map_takes_rows_as_needed(backend: FakeBackend) -> None:
    taken = 0

    def rows() -> Iterator[dict[str, str]]:
        nonlocal taken
        while True:
            taken += 1
            yield {"q": str(taken)}

    runs = ask.map(rows(), concurrency=3)
    assert next(runs).text == "user: 1\nassistant: Ada\n"
    assert taken <= 3 * 4 + 1
    assert isinstance(runs, Generator)
    runs.close()
    assert not backend.open


def test_map_of_plain_programs_and_of_runs(backend: FakeBackend) -> None:
    first = ask_plainly.map([{"q": str(i)} for i in range(20)], concurrency=4)
    second = ask.map(({"q": run.output + "!"} for run in first), concurrency=3)
    assert [r.text for r in second] == ["user: Ada!\nassistant: Ada\n"] * 20


def test_map_raises_at_the_row_that_failed_and_cancels_the_rest(backend: FakeBackend) -> None:
    backend.answers["name"] = lambda r: "Ada" if "2" not in prompt_text(r.prompt) else str(1 / 0)
    backend.delay = 0.002
    rows = [{"q": str(i)} for i in range(6)]
    runs = ask.map(rows, concurrency=2)
    assert [next(runs).output, next(runs).output] == ["Ada", "Ada"]
    with pytest.raises(ZeroDivisionError) as caught:
        next(runs)
    assert "row 2" in caught.value.__notes__[-1]
    assert not backend.open

    every = list(ask.map([*rows, {"nope": 1}], return_exceptions=True))
    assert [type(r) for r in every[1:4]] == [Run, ZeroDivisionError, Run]
    assert isinstance(every[-1], ProgramError)


def test_map_refuses_a_concurrency_of_none(backend: FakeBackend) -> None:
    for bad in (0, -1, True, 1.5):
        with pytest.raises(ProgramError, match="concurrency"):
            ask.map([], concurrency=bad)  # type: ignore[arg-type]  # wrong on purpose
    assert list(ask.map([])) == []


def test_map_shows_progress(backend: FakeBackend, capsys: pytest.CaptureFixture[str]) -> None:
    list(ask.map([{"q": "a"}, {"q": "b"}], progress=True))
    assert "2/2 rows" in capsys.readouterr().err


# streams


def test_events_put_together_are_the_text(backend: FakeBackend) -> None:
    @program
    async def p(s: State) -> str:
        s.user("hi")
        with s.assistant():
            s += "N: "
            name = s.gen(name="name")
            s += "; "
            s.select(["a", "b"])
        async with s.fork(2) as bs:
            await bs.gather(lambda b, i: b.gen(name="long"))
        return await name

    events = list(p.stream())
    run = events[-1].value
    assert isinstance(run, Run)
    assert "".join(e.delta for e in events if e.branch == ()) == run.text
    for branch in [(0,), (1,)]:
        assert "".join(e.delta for e in events if e.branch == branch) == "0123456789" * 3
    kinds = [e.kind for e in events]
    assert kinds[-1] == "done"
    assert kinds.count("var.start") == kinds.count("var.end") == 4
    assert kinds.index("fork") < kinds.index("join")
    ends = {(e.branch, e.name): e.value for e in events if e.kind == "var.end"}
    assert ends[(), "name"] == "Ada"


def test_an_error_is_an_event_and_then_raised(backend: FakeBackend) -> None:
    backend.answers["bad"] = OSError("gone")

    @program
    async def p(s: State) -> None:
        await s.gen(name="bad")

    events: list[Event] = []
    with pytest.raises(OSError, match="gone"):  # noqa: PT012  (it comes after some events)
        for event in p.stream():
            events.append(event)
    assert [(e.kind, e.name) for e in events] == [
        ("var.start", "bad"),
        ("error", "bad"),
        ("error", None),
    ]


def test_leaving_a_stream_cancels_the_run(backend: FakeBackend) -> None:
    backend.hold = frozenset({"slow"})

    @program
    async def p(s: State) -> str:
        return await s.gen(name="slow")

    for event in p.stream():
        if event.kind == "var.delta":
            break
    else:
        pytest.fail("no delta came")
    for _ in range(100):
        if not backend.open:
            break
        time.sleep(0.01)
    assert backend.cancelled == ["slow"]

    async def main() -> None:
        async with aclosing(p.astream()) as events:
            async for event in events:
                if event.kind == "var.delta":
                    return

    asyncio.run(main())
    assert backend.cancelled == ["slow", "slow"]


def test_a_stream_of_a_plain_program(backend: FakeBackend) -> None:
    events = list(ask_plainly.stream(q="x"))
    assert "".join(e.delta for e in events) == "user: x\nassistant: Ada\n"
