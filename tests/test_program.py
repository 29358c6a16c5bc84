"""Programs themselves: what can be one, what calls of it mean, and the threads behind it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sgen.errors import InvalidRequestError, ProgramError
from sgen.frontend import State, program
from sgen.frontend.bridge import Job, Pool
from sgen.frontend.defaults import DefaultEngine
from sgen.frontend.fake import FakeBackend
from tests.programs import ADA, answering, ask, ask_plainly


@pytest.fixture
def backend() -> Iterator[FakeBackend]:
    with answering(ADA) as fake:
        yield fake


def test_variants_leave_the_program_as_it_was(backend: FakeBackend) -> None:
    bound = ask.bind(q="bound")
    assert bound.run().text == "user: bound\nassistant: Ada\n"
    assert "q" in ask.signature.parameters
    assert not bound.signature.parameters
    other = FakeBackend({"name": "Bob"})
    assert ask.with_options(engine=other).run(q="x").output == "Bob"
    assert ask.run(q="x").output == "Ada"
    with pytest.raises(ProgramError, match="no argument 'nope'"):
        ask.bind(nope=1)
    with pytest.raises(InvalidRequestError, match="temperature"):
        ask.with_options(temperature=-1)


def test_wrong_arguments_of_a_program(backend: FakeBackend) -> None:
    with pytest.raises(ProgramError, match=r"ask: missing.*'q'[\s\S]*q: "):
        ask.run()  # type: ignore[call-arg]  # wrong on purpose
    with pytest.raises(ProgramError, match="no argument"):
        ask.run(q="x", z=1)  # type: ignore[call-arg]  # wrong on purpose


def test_exits_are_the_callers(backend: FakeBackend) -> None:
    """`sys.exit()` in a program ends its caller, not the loop that all programs run on."""

    @program
    async def leaves(s: State) -> None:
        s.gen(name="name")
        sys.exit(3)

    @program
    async def leaves_in_a_branch(s: State) -> None:
        async def leave(b: State, i: int) -> None:
            sys.exit(3)

        async with s.fork(2) as bs:
            await bs.gather(leave)

    @program
    def leaves_plainly(s: State) -> None:
        s.gen(name="name")
        sys.exit(3)

    for p in (leaves, leaves_in_a_branch, leaves_plainly):
        with pytest.raises(SystemExit):
            p.run()
        assert ask.run(q="x").output == "Ada"
    with pytest.raises(ProgramError, match="ended by"):
        next(leaves_plainly.map([{}]))
    assert ask_plainly.run(q="x").output == "Ada"


@pytest.mark.parametrize("left", ["stream", "plain stream", "map"])
def test_the_interpreter_can_exit_while_programs_run(left: str) -> None:
    code = f"""
from sgen.frontend import program
from sgen.frontend.fake import FakeBackend
fake = FakeBackend(hold=("x",))
async def waits(s): return await s.gen(name="x")
def blocks(s): return s.gen(name="x").value
p = program(blocks if {left!r} == "plain stream" else waits).with_options(engine=fake)
if {left!r} == "map":
    import threading
    rows = p.map([{{}}] * 3)
    threading.Thread(target=lambda: next(rows, None), daemon=True).start()
    while not fake.open: pass
else:
    events = p.stream()
    while next(events).kind != "var.delta": pass
"""
    subprocess.run([sys.executable, "-c", code], timeout=30, check=True, capture_output=True)


def test_functions_that_wrap_async_ones_are_programs(backend: FakeBackend) -> None:
    async def inner(s: State) -> str:
        return await s.gen(name="name")

    @program
    def p(s: State) -> Any:
        return inner(s)

    assert p.run().output == "Ada"
    assert p.compile().run().output == "Ada"
    assert p.compile().plan.complete


def test_what_no_program_can_be_made_of() -> None:
    def star(s: State, *rest: str) -> None: ...
    def bare() -> None: ...
    def yields(s: State) -> Iterator[int]:
        yield 1

    for bad in (star, bare, yields, len):
        with pytest.raises(ProgramError):
            program(bad)  # type: ignore[arg-type]  # wrong on purpose


def test_without_an_engine_the_factory_makes_one_once() -> None:
    made: list[FakeBackend] = []

    def factory() -> FakeBackend:
        made.append(FakeBackend())
        return made[-1]

    holder = DefaultEngine()
    with pytest.raises(ProgramError, match=r"sgen\.use"):
        holder.current()
    holder.set_factory(factory)
    assert holder.current() is asyncio.run(holder.get())
    assert len(made) == 1


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, even where the tests were started with it ignored, as
    shells start what they run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupt_cancels_the_run_that_is_waited_for(backend: FakeBackend) -> None:
    backend.hold = frozenset({"slow"})

    @program
    async def waits(s: State) -> str:
        return await s.gen(name="slow")

    @program
    def blocks(s: State) -> str:
        return s.gen(name="slow").value

    for p in (waits, blocks):
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            p.run()
        assert not backend.open
    assert backend.cancelled == ["slow", "slow"]


def test_beginners_mistakes_say_what_to_do(backend: FakeBackend) -> None:
    @program
    async def p(s: State, q: str, how: str = "") -> object:
        ref = s.gen(name="name")
        match how:
            case "plus":
                return ref + 1
            case "attribute":
                return ref.city
        return await ref

    for how in ("plus", "attribute"):
        with pytest.raises(ProgramError, match="await it"):
            p.run(q="x", how=how)
    with pytest.raises(ProgramError, match="no argument 'question'"):
        p.run(question="x")
    with pytest.raises(ProgramError, match="a row is a dict"):
        list(p.map(["a"]))
    with pytest.raises(ProgramError, match=r"p\.run\(\.\.\.\) runs it"):
        p("x")


# the pool of threads


def test_idle_threads_of_the_pool_end() -> None:
    pool = Pool(4, idle_seconds=0.02)
    threads: set[threading.Thread] = set()
    for _ in range(2):
        jobs = [Job(lambda: threads.add(threading.current_thread())) for _ in range(8)]
        for job in jobs:
            pool.submit(job)
        for job in jobs:
            job.future.result(timeout=5)
        for thread in threads:
            thread.join(timeout=5)
            assert not thread.is_alive()


def test_the_pool_is_bounded_and_uses_its_threads_again() -> None:
    pool = Pool(2)
    lock = threading.Lock()
    names: set[str] = set()
    active = most = 0

    def work() -> None:
        nonlocal active, most
        with lock:
            active += 1
            most = max(most, active)
            names.add(threading.current_thread().name + str(threading.get_ident()))
        time.sleep(0.002)
        with lock:
            active -= 1

    async def in_this_pool() -> None:
        for _ in range(3):
            jobs = [Job(work) for _ in range(7)]
            for job in jobs:
                pool.submit(job)
            await asyncio.gather(*(asyncio.wrap_future(job.future) for job in jobs))

    asyncio.run(in_this_pool())
    assert most == 2
    assert len(names) == 2
