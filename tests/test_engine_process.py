"""The engine in a process of its own: answers, errors, deaths, restarts, and what is left behind.

Most tests talk to a process without a model (engine_child.py); the last ones to a real engine.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

import sgen
from sgen.errors import (
    EngineClosedError,
    GrammarError,
    InvalidRequestError,
    ModelNotFoundError,
    SgenError,
)
from sgen.protocol import (
    Chunk,
    GenerateRequest,
    GrammarSpec,
    SamplingParams,
    ScoreRequest,
    Text,
)
from sgen.server.engine_host import Outbox
from sgen.server.link import EngineOptions, Frames, news_of
from sgen.server.remote import RemoteEngine

CHILD = (sys.executable, "-m", "tests.engine_child")
PAUSE = 0.01
MOMENT = 20.0  # seconds that nothing here takes, however busy the machine is


def request(text: str, name: str = "r") -> GenerateRequest:
    return GenerateRequest(id=name, prompt=(Text(text),))


@asynccontextmanager
async def child(model: str = "", patience: float = MOMENT) -> AsyncIterator[RemoteEngine]:
    options = EngineOptions(model=model)
    engine = RemoteEngine(options, command=CHILD, pause=PAUSE, patience=patience)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def run(
    test: Callable[[RemoteEngine], Awaitable[None]], model: str = "", patience: float = MOMENT
) -> None:
    async def main() -> None:
        async with asyncio.timeout(2 * MOMENT), child(model, patience) as engine:
            await test(engine)

    asyncio.run(main())


async def text_of(engine: RemoteEngine, wanted: GenerateRequest) -> str:
    return "".join([chunk.text async for chunk in engine.extend(wanted)])


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(MOMENT):
        while not true():
            await asyncio.sleep(0.005)


async def nothing_runs(engine: RemoteEngine) -> None:
    async with asyncio.timeout(MOMENT):
        while (await engine.stats()).num_running:
            await asyncio.sleep(0.005)


def test_requests_run_side_by_side_and_each_gets_its_own() -> None:
    async def test(engine: RemoteEngine) -> None:
        texts = await asyncio.gather(
            *(text_of(engine, request(f"count {i + 1}", f"r{i}")) for i in range(16))
        )
        assert texts == ["".join(f"{k} " for k in range(i + 1)) for i in range(16)]
        assert engine.info.context_length == 99
        assert engine.state == "ready"

    run(test)


def test_questions_have_answers_and_errors_arrive_whole() -> None:
    async def test(engine: RemoteEngine) -> None:
        assert await engine.tokenize((Text("hé"),)) == [104, 195, 169]
        assert await engine.detokenize([104, 105]) == "hi"
        assert await engine.apply_template((Text("hi"),)) == "hi"
        assert await engine.check(GrammarSpec("regex", "known")) == 5
        with pytest.raises(GrammarError) as caught:
            await engine.check(GrammarSpec("regex", "bad"))
        assert (caught.value.keyword, caught.value.pointer) == ("w", "/a/0")
        with pytest.raises(InvalidRequestError) as refused:
            await engine.score(ScoreRequest(id="s", prompt=(), options=("a",)))
        assert refused.value.param == "options"
        with pytest.raises(SgenError, match="ZeroDivisionError"):
            await text_of(engine, request("bug"))
        with pytest.raises(InvalidRequestError, match="cannot be sent"):
            await engine.tokenize((Text("\ud800"),))
        assert await text_of(engine, request("count 1")) == "0 "

    run(test)


def test_other_threads_may_wait_for_answers() -> None:
    async def test(engine: RemoteEngine) -> None:
        assert await asyncio.to_thread(engine.count_tokens, (Text("abc"),)) == 3
        assert await asyncio.to_thread(engine.check_grammar, GrammarSpec("regex", "ab")) == 2

    run(test)


def test_closing_an_iterator_ends_the_request_and_its_late_chunks_are_nobodys() -> None:
    async def test(engine: RemoteEngine) -> None:
        async with aclosing(engine.extend(request("hold"))) as chunks:
            assert (await anext(chunks)).text == "0 "
            assert (await engine.stats()).num_running == 1
        await nothing_runs(engine)
        assert await text_of(engine, request("count 2")) == "0 1 "

    run(test)


def test_cancel_by_id_ends_a_request_with_a_last_chunk() -> None:
    async def test(engine: RemoteEngine) -> None:
        chunks = engine.extend(request("hold", "a"))
        await anext(chunks)
        engine.cancel("unknown")
        engine.cancel("a")
        assert (await anext(chunks)).finish_reason == "cancelled"
        await nothing_runs(engine)

    run(test)


def test_an_id_may_be_that_of_a_request_that_still_ends() -> None:
    async def test(engine: RemoteEngine) -> None:
        held = [engine.extend(request("hold", "same")) for _ in range(2)]
        for chunks in held:
            await anext(chunks)
        assert (await engine.stats()).num_running == 2, "the engine has both"
        engine.cancel("same")
        for chunks in held:
            assert (await anext(chunks)).finish_reason == "cancelled"
        await nothing_runs(engine)

    run(test)


def test_a_process_that_hangs_is_killed_and_followed_by_another() -> None:
    async def test(engine: RemoteEngine) -> None:
        first, held = engine.pid, engine.extend(request("hold"))
        assert first is not None
        await anext(held)
        await asyncio.sleep(0.5)
        assert engine.pid == first, "one that answers may take its time"
        os.kill(first, signal.SIGSTOP)
        with pytest.raises(EngineClosedError):
            await anext(held)
        await until(lambda: engine.state == "ready")
        assert engine.pid != first

    run(test, patience=0.2)


def test_a_request_that_is_cancelled_while_it_is_prepared_never_runs(tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    async def test(engine: RemoteEngine) -> None:
        cancelled = asyncio.create_task(text_of(engine, request("slow", "a")))
        dropped = asyncio.create_task(text_of(engine, request("slow", "b")))
        await asyncio.sleep(0)  # both are sent
        assert await text_of(engine, request("count 1", "c")) == "0 ", "others go on meanwhile"
        engine.cancel("a")
        dropped.cancel()
        await engine.stats()  # the process has read both
        gate.touch()
        assert await cancelled == "", "its only chunk is its last"
        await nothing_runs(engine)

    run(test, str(gate))


@pytest.mark.parametrize("how", ["killed", "die", "garbage", "huge"])
def test_when_the_process_dies_all_its_requests_end_and_another_takes_over(how: str) -> None:
    async def test(engine: RemoteEngine) -> None:
        first, held = engine.pid, engine.extend(request("hold", "h"))
        await anext(held)
        lost = engine.extend(request(how if how != "killed" else "hold", "l"))
        if how == "killed":
            assert first is not None
            os.kill(first, signal.SIGKILL)
        for chunks in (lost, held):
            with pytest.raises(EngineClosedError):
                async for _ in chunks:
                    pass
        assert engine.state != "ready"
        with pytest.raises(EngineClosedError):
            await engine.tokenize((Text("a"),))
        await until(lambda: engine.state == "ready")
        assert engine.pid != first
        assert await text_of(engine, request("count 2")) == "0 1 "

    run(test)


def test_it_is_started_again_until_it_stays(tmp_path: Path) -> None:
    left = tmp_path / "left"
    left.write_bytes(b"")

    async def test(engine: RemoteEngine) -> None:
        left.write_bytes(b"xxx")  # the next three die of their start
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        await until(lambda: engine.state == "restarting")
        await until(lambda: engine.state == "ready")
        assert left.read_bytes() == b""

    run(test, f"fails:{left}")


def test_a_model_that_is_gone_is_given_up(tmp_path: Path) -> None:
    left = tmp_path / "left"
    left.touch()

    async def test(engine: RemoteEngine) -> None:
        engine._options = EngineOptions(model="missing")
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        await until(lambda: engine.state == "failed")
        with pytest.raises(EngineClosedError):
            await engine.stats()

    run(test)


def test_a_start_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    left = tmp_path / "left"
    left.write_bytes(b"x")
    seen = []

    async def main() -> None:
        missing = RemoteEngine(
            EngineOptions(model="missing"), command=CHILD, progress=lambda *a: seen.append(a)
        )
        with pytest.raises(EngineClosedError):
            await missing.stats()
        with pytest.raises(ModelNotFoundError, match="look elsewhere"):
            await missing.start()
        assert missing.state == "failed"
        dying = RemoteEngine(EngineOptions(model=f"fails:{left}"), command=CHILD)
        with pytest.raises(EngineClosedError, match="before it was ready"):
            await dying.start()
        await missing.close()

    asyncio.run(main())
    assert seen == [("reading", 1, 2)]


def test_interrupts_are_for_the_parent_and_close_ends_it() -> None:
    async def test(engine: RemoteEngine) -> None:
        pid = engine.pid
        assert pid is not None
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
        assert await text_of(engine, request("count 1")) == "0 "
        held = engine.extend(request("hold"))
        await anext(held)
        await engine.close()
        assert engine.state == "closed"
        with pytest.raises(EngineClosedError):
            await anext(held)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    run(test)


def test_it_ends_by_itself_when_the_parent_is_gone() -> None:
    async def test(engine: RemoteEngine) -> None:
        connection = engine._connection
        assert connection is not None
        assert connection._transport is not None
        connection._transport.abort()  # what the system does when a process is killed
        assert await asyncio.to_thread(connection.process.wait, MOMENT) == 0

    run(test)


def test_nothing_is_left_behind() -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def test(engine: RemoteEngine) -> None:
        await text_of(engine, request("count 3"))
        before = descriptors(), len(asyncio.all_tasks())
        for _ in range(3):
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGKILL)
            await until(lambda: engine.state != "ready")
            await until(lambda: engine.state == "ready")
        assert (descriptors(), len(asyncio.all_tasks())) == before

    before = descriptors()
    run(test)
    assert descriptors() == before


def test_chunks_of_a_step_are_one_frame_and_keep_their_order() -> None:
    ours, theirs = socket.socketpair()
    outbox = Outbox(theirs)
    for i in range(16):
        outbox.put((i, Chunk(text=str(i))))
    outbox.deliver()
    outbox.close()
    (body,) = Frames().feed(ours.recv(1 << 16))
    news = news_of(body)
    assert [(n, c.text) for n, c in news.items] == [(i, str(i)) for i in range(16)]  # type: ignore[union-attr] # or else it fails
    ours.close()
    outbox = Outbox(theirs)
    outbox.send(bytearray(b"to nobody"))
    outbox.close()
    theirs.close()
    assert not any(t.name == "sgen-outbox" and t.is_alive() for t in threading.enumerate())


def test_the_real_engine_gives_the_tokens_that_it_gives_in_this_process(
    smollm2_path: Path, engine: sgen.Engine
) -> None:
    """Free and constrained, sampled by a seed; scores too; and a hostile prompt is refused."""
    params = SamplingParams(max_tokens=24, temperature=0.8, seed=7)
    prompt = (Text("The capital of France is"),)
    wanted = [
        GenerateRequest(id="a", prompt=prompt, params=params),
        GenerateRequest(
            id="b", prompt=prompt, params=params, grammar=GrammarSpec("regex", "[a-z ]{5,30}")
        ),
    ]
    score = ScoreRequest(id="s", prompt=prompt, options=(" Paris", " Rome"))

    async def tokens(backend: sgen.Engine | RemoteEngine, one: GenerateRequest) -> list[int]:
        return [t async for chunk in backend.extend(one) for t in chunk.token_ids]

    async def main() -> None:
        remote = RemoteEngine(EngineOptions(model=str(smollm2_path)))
        await remote.start()
        try:
            for one in wanted:
                assert await tokens(remote, one) == await tokens(engine, one)
            ours, theirs = await engine.score(score), await remote.score(score)
            assert [o.tree for o in theirs.options] == pytest.approx([o.tree for o in ours.options])
            assert remote.info == engine.info
            ids = await remote.tokenize((Text("hello world"),))
            assert await remote.detokenize(ids) == "hello world"
            with pytest.raises(InvalidRequestError, match="vocabulary"):
                await remote.detokenize([10**6])
            with pytest.raises(InvalidRequestError, match="no 8,192 tokens can hold"):
                await tokens(remote, GenerateRequest(id="c", prompt=(Text("x " * (1 << 20)),)))
            await nothing_runs(remote)
            stats = await remote.stats()
            assert stats.free_pages + stats.tree_pages == stats.num_pages
        finally:
            await remote.close()

    asyncio.run(main())
