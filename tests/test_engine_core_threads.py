"""The engine core among threads, to its end, and through random lives: no waiting for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from core_bench import GREEDY, PROMPTS, Bench, Score
from fakes import (
    EOS,
    VOCABULARY,
    Sink,
    encode,
    history_logits,
    solo_tokens,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sgen.errors import (
    EngineClosedError,
)
from sgen.protocol import SamplingParams
from sgen.runtime.request import Request
from sgen.runtime.scheduler import Limits

# -- close and threads -------------------------------------------------------------------------


def test_close_ends_everybody_and_is_final() -> None:
    bench = Bench(4)
    sinks = [bench.submit("x" * 20, SamplingParams(max_tokens=40)) for _ in range(3)]
    bench.core.step()
    bench.core.close()
    bench.core.close()
    assert [str(s.errors[0]) for s in sinks] == ["the engine was closed"] * 3
    with pytest.raises(EngineClosedError):
        bench.submit("y")
    bench.assert_idle()


def test_close_from_a_callback() -> None:
    bench = Bench()
    other = bench.submit("other")
    bench.core.submit(
        encode("x"),
        GREEDY,
        request_id="closer",
        on_chunk=lambda chunk: bench.core.close(),
        on_error=lambda error: None,
    )
    while not other.done:
        bench.core.step()
    assert isinstance(other.errors[0], EngineClosedError)


def test_the_thread_sleeps_wakes_and_ends() -> None:
    bench = Bench()
    bench.core.start()
    thread = bench.core._thread
    assert thread is not None
    for _ in range(3):
        done = threading.Event()
        sink = Sink()

        def on_chunk(chunk: object, sink: Sink = sink, done: threading.Event = done) -> None:
            sink.on_chunk(chunk)  # type: ignore[arg-type]
            if sink.done:
                done.set()

        bench.core.submit(
            encode("hello"), GREEDY, request_id="r", on_chunk=on_chunk, on_error=sink.on_error
        )
        assert done.wait(10)
        assert sink.tokens == bench.expected("hello")
    steps = len(bench.model.batches)
    time.sleep(0.05)
    assert len(bench.model.batches) == steps, "an idle engine steps"
    bench.core.close()
    assert not thread.is_alive()


def test_close_from_the_engines_own_thread() -> None:
    bench = Bench()
    bench.core.start()
    closed = threading.Event()

    def on_chunk(chunk: object) -> None:
        bench.core.close()
        closed.set()

    bench.core.submit(
        encode("x"), GREEDY, request_id="a", on_chunk=on_chunk, on_error=lambda error: None
    )
    assert closed.wait(10)
    bench.core.close()
    assert bench.core._thread is not None
    assert not bench.core._thread.is_alive()


def test_counts_are_never_zero_while_a_request_is_on_its_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    scheduler = bench.core._scheduler
    add, finish = scheduler.add, scheduler.finish
    seen: list[int] = []

    def look() -> None:
        stats = bench.core.stats()
        seen.append(stats.num_running + stats.num_waiting)

    def watched_add(request: Request) -> None:
        look()  # taken from the arrivals, not yet the scheduler's
        add(request)

    def watched_finish(request: Request) -> None:
        finish(request)
        look()

    monkeypatch.setattr(scheduler, "add", watched_add)
    monkeypatch.setattr(scheduler, "finish", watched_finish)
    bench.submit("x", SamplingParams(max_tokens=1))
    bench.submit("y", SamplingParams(max_tokens=1))
    bench.run()
    assert seen == [2, 2, 2, 1]
    bench.assert_idle()


BUSY = """
import atexit, sys, threading, time
import torch
from fakes import VOCABULARY, HashModel
from sgen.protocol import SamplingParams
from sgen.runtime.engine import EngineCore

started = threading.Event()

class Slow(HashModel):
    def forward(self, batch, cache):
        started.set()
        x = torch.ones(700, 700)
        for _ in range(60):  # C++ inside which the interpreter must not go away
            x = x @ x / 700
        return super().forward(batch, cache)

core = EngineCore(Slow(), VOCABULARY, 64)
core.start()
core.submit(
    [1] * 600, SamplingParams(ignore_eos=True), request_id="a",
    on_chunk=lambda chunk: None, on_error=lambda error: print("ended:", error),
)
started.wait()
"""


@pytest.mark.parametrize(
    ("end", "status"), [("raise SystemExit(3)", 3), ("raise KeyError(1)", 1), ("", 0)]
)
def test_a_script_that_ends_while_the_engine_steps_ends_well(end: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BUSY + end],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert done.stdout == "ended: the engine was closed\n"
    assert "terminate" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_is_told_to_load_its_own_engine() -> None:
    bench = Bench()
    bench.core.start()
    with bench.core._wake:  # as if another thread held the lock at the fork
        child = os.fork()
        if child == 0:
            status = 1
            try:
                bench.core.cancel("x")
                bench.core.withdraw(())
                bench.core.close()
                bench.submit("x")
            except EngineClosedError as error:
                status = 0 if "parent process" in str(error) and error.hint else 2
            finally:
                os._exit(status)
    deadline = time.monotonic() + 10
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            raise AssertionError("the child hangs")
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(ended[1]) == 0
    bench.core.close()


def test_four_threads_submit_and_cancel() -> None:
    bench = Bench(24, Limits(max_running=6, max_batch_tokens=64, prefill_chunk=16))
    bench.core.start()
    params = SamplingParams(max_tokens=12, temperature=0.8, seed=2)
    outcome: list[tuple[str, Sink]] = []
    ended = threading.Semaphore(0)

    def worker(number: int) -> None:
        rng = np.random.default_rng(number)
        for i in range(25):
            name, prompt = f"{number}-{i}", f"shared words {'x' * int(rng.integers(40))}{i % 5}"
            sink = Sink()

            def on_chunk(chunk: object, sink: Sink = sink) -> None:
                sink.on_chunk(chunk)  # type: ignore[arg-type]
                if sink.done:
                    ended.release()

            bench.core.submit(
                encode(prompt), params, request_id=name, on_chunk=on_chunk, on_error=sink.on_error
            )
            outcome.append((prompt, sink))
            if rng.random() < 0.3:
                time.sleep(float(rng.random()) * 0.002)
                bench.core.cancel(name)

    threads = [threading.Thread(target=worker, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for _ in range(100):
        assert ended.acquire(timeout=20)
    bench.core.close()
    bench.assert_idle()
    for prompt, sink in outcome:
        whole = bench.expected(prompt, params)
        if sink.finish == "cancelled":
            assert sink.tokens == whole[: len(sink.tokens)]
        else:
            assert sink.tokens == whole


# -- random lives ------------------------------------------------------------------------------


class EngineMachine(RuleBasedStateMachine):
    """Random requests, forks and cancels over a pool that is always too small."""

    def __init__(self) -> None:
        super().__init__()
        limits = Limits(max_running=4, max_batch_tokens=20, prefill_chunk=9, max_score_rows=4)
        self.bench = Bench(9, limits)
        self.sent: list[tuple[list[int], SamplingParams, Sink, str]] = []
        self.scores: list[tuple[list[int], int, Score]] = []
        self.counter = count()

    def send(self, prompt: list[int], max_tokens: int, seed: int, salt: str = "") -> None:
        temperature = 0.0 if seed % 2 else 0.9
        params = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed)
        name = f"r{next(self.counter)}"
        sink = self.bench.submit(prompt, params, request_id=name, salt=salt)
        self.sent.append((prompt, params, sink, name))

    @rule(
        run=st.lists(st.integers(0, 2), min_size=1, max_size=5),
        rest=st.integers(0, 15),
        max_tokens=st.integers(1, 40),
        seed=st.integers(0, 3),
        salt=st.sampled_from(["", "", "x"]),
    )
    def submit(self, run: list[int], rest: int, max_tokens: int, seed: int, salt: str) -> None:
        self.send([t for t in run for _ in range(16)] + [9] * rest, max_tokens, seed, salt)

    @rule(index=st.integers(0, 30), more=st.integers(0, 20), max_tokens=st.integers(1, 30))
    def fork(self, index: int, more: int, max_tokens: int) -> None:
        """A new request that goes on from what another one has sent so far."""
        if not self.sent:
            return
        prompt, _, sink, _ = self.sent[index % len(self.sent)]
        tokens = [*prompt, *sink.tokens, *[3] * more]
        if len(tokens) + max_tokens <= 9 * 16:
            self.send(tokens, max_tokens, index)

    @rule(run=st.lists(st.integers(0, 2), min_size=1, max_size=5), start=st.floats(0, 0.999))
    def score(self, run: list[int], start: float) -> None:
        tokens = [t for t in run for _ in range(16)]
        score_from = int(start * len(tokens))
        score = Score(self.bench, tokens, score_from, f"s{next(self.counter)}")
        self.scores.append((tokens, score_from, score))

    @rule(index=st.integers(0, 30))
    def cancel(self, index: int) -> None:
        if self.sent:
            self.bench.core.cancel(self.sent[index % len(self.sent)][3])

    @rule(steps=st.integers(1, 12))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.bench.core.step()
            self.bench.core._scheduler.check_integrity()

    @rule(pages=st.integers(1, 4))
    def evict(self, pages: int) -> None:
        self.bench.core._cache.evict(pages)

    @invariant()
    def accounts_agree(self) -> None:
        self.bench.core._scheduler.check_integrity()

    def teardown(self) -> None:
        self.bench.run()
        self.bench.assert_idle()
        for prompt, params, sink, _ in self.sent:
            whole = solo_tokens(self.bench.model, prompt, params)
            assert sink.done
            assert not sink.errors
            if sink.finish == "cancelled":
                assert sink.tokens == whole[: len(sink.tokens)]
            else:
                assert sink.tokens == whole
        for tokens, score_from, score in self.scores:
            assert list(score.rows) == list(range(score_from, len(tokens)))
            assert torch.equal(score.rows[len(tokens) - 1], self.bench.model.logits(tokens))
        self.bench.core._cache.evict(9)
        assert self.bench.core._pool.num_free == 9
        assert not self.bench.core._cache._roots


TestEngineMachine = EngineMachine.TestCase
TestEngineMachine.settings = settings(
    max_examples=40, stateful_step_count=30, derandomize=True, deadline=None
)


def test_the_fake_model_notices_a_wrong_page() -> None:
    """The judge is judged: a page copied to the wrong place is seen."""
    bench = Bench()
    bench.submit(PROMPTS[3])
    bench.run()
    kv = bench.core._kv
    kv.positions[:] = np.roll(kv.positions, 16)  # type: ignore[attr-defined]
    sink = bench.submit(PROMPTS[3])
    bench.run()
    assert "KV of another position" in str(sink.errors[0])
    assert history_logits([1, 2], 50).shape == (50,)
    assert EOS in VOCABULARY.eos_ids
