"""The engine core on a model that hashes what it reads: the same text, however it was computed.

And: no leak, no harm to others when something fails, no waiting for ever.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import (
    EOS,
    VOCAB_SIZE,
    VOCABULARY,
    DigitsMatcher,
    HashModel,
    Sink,
    encode,
    history_logits,
    solo_tokens,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sgen.errors import (
    CancelledError,
    CapacityError,
    EngineClosedError,
    InvalidRequestError,
    SgenError,
)
from sgen.kernels import sampling as kernel
from sgen.protocol import SamplingParams, Usage
from sgen.runtime.engine import EngineCore
from sgen.runtime.jobs import Handle
from sgen.runtime.request import Request
from sgen.runtime.sampling import Sampler
from sgen.runtime.scheduler import Limits

GREEDY = SamplingParams(max_tokens=24)
RANDOM = SamplingParams(max_tokens=24, temperature=0.9, top_p=0.95, seed=5)


@pytest.fixture
def without_native_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "library", lambda: None)


class Bench:
    """An engine without a thread, and requests whose outcome is known beforehand."""

    def __init__(
        self, num_pages: int = 64, limits: Limits | None = None, model: HashModel | None = None
    ) -> None:
        self.model = model or HashModel()
        self.core = EngineCore(self.model, VOCABULARY, num_pages, limits=limits, debug=True)
        self.ids = count()

    def submit(
        self,
        prompt: str | list[int],
        params: SamplingParams = GREEDY,
        *,
        request_id: str | None = None,
        matcher: DigitsMatcher | None = None,
        salt: str = "",
    ) -> Sink:
        sink = Sink()
        self.core.submit(
            encode(prompt) if isinstance(prompt, str) else prompt,
            params,
            request_id=request_id or f"r{next(self.ids)}",
            on_chunk=sink.on_chunk,
            on_error=sink.on_error,
            matcher=matcher,
            salt=salt,
        )
        return sink

    def run(self, max_steps: int = 5000) -> int:
        for steps in range(max_steps):
            if not self.core.step():
                return steps
            self.core._scheduler.check_integrity()
        raise AssertionError("it does not come to an end")

    def expected(self, prompt: str, params: SamplingParams = GREEDY) -> list[int]:
        return solo_tokens(self.model, encode(prompt), params)

    def assert_idle(self) -> None:
        stats = self.core.stats()
        assert (stats.num_running, stats.num_waiting) == (0, 0)
        assert stats.free_pages + stats.tree_pages == stats.num_pages
        self.core._scheduler.check_integrity()


# -- promise 2: the same text ------------------------------------------------------------------

PROMPTS = [f"{'a common prefix of some length, ' * (i % 4)}then number {i}" for i in range(20)]


@pytest.mark.parametrize("params", [GREEDY, RANDOM], ids=["greedy", "seeded"])
@pytest.mark.parametrize(
    ("num_pages", "limits"),
    [
        (200, Limits(max_running=1)),  # one after the other, with cache hits
        (200, Limits()),  # all together
        (200, Limits(max_running=20, max_batch_tokens=27, prefill_chunk=7)),
        (22, Limits(max_running=20, max_batch_tokens=64, prefill_chunk=16)),  # preemption
    ],
    ids=["alone", "together", "chunks", "tiny-pool"],
)
def test_text_is_that_of_a_solo_run(params: SamplingParams, num_pages: int, limits: Limits) -> None:
    bench = Bench(num_pages, limits)
    sinks = [bench.submit(p, params) for p in PROMPTS]
    bench.run()
    for prompt, sink in zip(PROMPTS, sinks, strict=True):
        assert sink.tokens == bench.expected(prompt, params)
    if num_pages == 22:
        assert bench.core.stats().counters.preemptions > 0
    bench.assert_idle()


@pytest.mark.usefixtures("without_native_sampler")
def test_text_is_the_same_without_the_sampler_in_c() -> None:
    bench = Bench(200)
    sinks = [bench.submit(p, RANDOM) for p in PROMPTS[:6]]
    bench.run()
    for prompt, sink in zip(PROMPTS, sinks, strict=False):
        assert sink.tokens == bench.expected(prompt, RANDOM)


def test_a_cache_hit_changes_nothing_and_is_counted() -> None:
    bench = Bench()
    first = bench.submit(PROMPTS[3])
    bench.run()
    again = bench.submit(PROMPTS[3])
    bench.run()
    assert again.tokens == first.tokens == bench.expected(PROMPTS[3])
    length = len(encode(PROMPTS[3]))
    assert first.usage == Usage(length, 0, first.usage.completion_tokens)
    assert again.usage.cached_tokens == length - 1


def test_penalties_and_logprobs_survive_preemption() -> None:
    params = SamplingParams(
        max_tokens=40,
        temperature=0.7,
        seed=3,
        repetition_penalty=1.3,
        frequency_penalty=0.5,
        ignore_eos=True,
        logprobs=2,
    )
    bench = Bench(9, Limits(max_running=4))
    prompts = ["the first prompt is this", "the second prompt is that", "a third"]
    sinks = [bench.submit(p, params) for p in prompts]
    bench.run()
    assert bench.core.stats().counters.preemptions > 0
    for prompt, sink in zip(prompts, sinks, strict=True):
        assert sink.tokens == bench.expected(prompt, params)
        history = encode(prompt)
        for item in (lp for c in sink.chunks for lp in c.logprobs):
            raw = torch.log_softmax(bench.model.logits(history), 0)
            assert item.logprob == pytest.approx(float(raw[item.token]), abs=1e-4)
            history.append(item.token)
        assert history[len(encode(prompt)) :] == sink.tokens


def test_forty_requests_in_a_pool_for_two_and_a_half() -> None:
    """Each needs 4 pages at its end; the pool has 10."""
    bench = Bench(10, Limits(max_running=40))
    params = SamplingParams(max_tokens=24, temperature=0.8, seed=1, ignore_eos=True)
    prompts = [f"request {i:2d} has a prompt of 36 bytes" for i in range(40)]
    assert {-(-(len(p) + 24) // 16) for p in prompts} == {4}
    sinks = [bench.submit(p, params) for p in prompts]
    bench.run()
    for prompt, sink in zip(prompts, sinks, strict=True):
        assert sink.tokens == bench.expected(prompt, params)
        assert sink.finish == "length"
    bench.assert_idle()


def test_a_common_prefix_of_64_requests_is_computed_once() -> None:
    bench = Bench(600, Limits(prefill_chunk=100))
    prefix = "Question: how many? Answer: some. " * 30
    prompts = [f"{prefix}No. {i}: and now?" for i in range(64)]
    sinks = [bench.submit(p, SamplingParams(max_tokens=4)) for p in prompts]
    bench.run()
    counters = bench.core.stats().counters
    own = sum(len(p) - len(prefix) for p in prompts)
    assert counters.prompt_tokens == 64 * len(prefix) + own
    # The prefix once; of its last, partial page each may compute its own.
    assert counters.prefilled_tokens <= len(prefix) + 63 * (len(prefix) % 16) + own
    assert counters.cached_tokens >= 63 * (len(prefix) // 16 * 16)
    assert counters.preemptions == 0
    assert [s.tokens for s in sinks[:3]] == [
        bench.expected(p, SamplingParams(max_tokens=4)) for p in prompts[:3]
    ]


def test_without_a_seed_the_engine_draws_one() -> None:
    bench = Bench()
    params = SamplingParams(max_tokens=30, temperature=2.0, ignore_eos=True)
    sinks = [bench.submit("x", params) for _ in range(4)]
    bench.run()
    assert len({tuple(s.tokens) for s in sinks}) > 1


# -- ends --------------------------------------------------------------------------------------


def test_a_stop_string_ends_a_request() -> None:
    bench = Bench()
    tokens = bench.expected("stop here", SamplingParams(max_tokens=24, ignore_eos=True))
    text = b"".join(VOCABULARY.token_bytes[t] for t in tokens).decode("utf-8", "replace")
    stop = text[6:9]
    params = SamplingParams(max_tokens=24, ignore_eos=True, stop=(stop,))
    sink = bench.submit("stop here", params)
    bench.run()
    assert sink.text == text[: text.index(stop)]
    assert sink.chunks[-1].stop == stop
    assert sink.finish == "stop"


def test_constrained_output_is_never_cut() -> None:
    for max_tokens in (3, 4, 9, 50):
        bench = Bench()
        sinks = [
            bench.submit(
                f"digits {i}",
                SamplingParams(max_tokens=max_tokens, temperature=1.0, seed=i),
                matcher=DigitsMatcher(3, 8),
            )
            for i in range(5)
        ]
        bench.run()
        for sink in sinks:
            assert sink.finish == "stop"
            assert sink.text.isdigit()
            assert 3 <= len(sink.text) <= min(8, max_tokens)


def test_a_grammar_that_cannot_close_in_time_is_refused_with_the_minimum() -> None:
    bench = Bench()
    with pytest.raises(InvalidRequestError, match="takes 5 tokens, but max_tokens is 4"):
        bench.submit("x", SamplingParams(max_tokens=4), matcher=DigitsMatcher(5, 8))
    sink = bench.submit(
        "x", SamplingParams(max_tokens=4, finish="truncate"), matcher=DigitsMatcher(5, 8)
    )
    bench.run()
    assert (sink.finish, len(sink.text)) == ("length", 4)


def test_max_tokens_none_goes_to_the_end_of_context_or_pool() -> None:
    params = SamplingParams(ignore_eos=True)
    bench = Bench(4, model=HashModel(context_length=500))
    sink = bench.submit("x" * 20, params)
    bench.run()
    assert (sink.finish, sink.usage.completion_tokens) == ("length", 44)
    bench = Bench(40, model=HashModel(context_length=50))
    sink = bench.submit("x" * 20, params)
    bench.run()
    assert sink.usage.completion_tokens == 30


# -- the door ----------------------------------------------------------------------------------


def test_what_can_never_fit_is_refused_at_once() -> None:
    bench = Bench(4, model=HashModel(context_length=100))
    with pytest.raises(CapacityError, match=r"need 5 pages of 16 tokens.*has 4") as e:
        bench.submit("x" * 60, SamplingParams(max_tokens=5))
    assert "at most 4" in e.value.hint
    with pytest.raises(CapacityError, match="model's context is 100"):
        bench.submit("x" * 60, SamplingParams(max_tokens=41))
    with pytest.raises(CapacityError, match="shorten the prompt"):
        bench.submit("x" * 64, SamplingParams())
    bench.submit("x" * 60, SamplingParams(max_tokens=4))
    bench.run()
    bench.assert_idle()


@pytest.mark.parametrize(
    ("tokens", "params", "message"),
    [
        ([], GREEDY, "no tokens"),
        ([1, VOCAB_SIZE], GREEDY, f"token {VOCAB_SIZE} is outside"),
        ([1, -1], GREEDY, "token -1 is outside"),
        ([1], SamplingParams(max_tokens=1, logit_bias={9999: 1.0}), "logit_bias names token 9999"),
        ([1], SamplingParams(max_tokens=1, stop_token_ids=(-3,)), "stop_token_ids names token -3"),
    ],
)
def test_invalid_requests_are_refused(
    tokens: list[int], params: SamplingParams, message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        Bench().submit(tokens, params)


def test_an_id_in_use_is_refused_and_free_again_afterwards() -> None:
    bench = Bench()
    bench.submit("a", request_id="same")
    with pytest.raises(InvalidRequestError, match="in use"):
        bench.submit("b", request_id="same")
    bench.run()
    sink = bench.submit("b", request_id="same")
    bench.run()
    assert sink.tokens == bench.expected("b")


# -- cancellation ------------------------------------------------------------------------------


def test_cancel_frees_pages_within_a_step() -> None:
    bench = Bench(7)
    params = SamplingParams(max_tokens=60, ignore_eos=True)
    running = bench.submit("x" * 40, params, request_id="running")
    for _ in range(5):
        bench.core.step()
    queued = bench.submit("y" * 50, params, request_id="queued")  # no room for it yet
    bench.core.step()
    assert bench.core.stats().num_waiting == 1
    bench.core.cancel("running")
    bench.core.cancel("nobody")
    bench.core.step()
    assert running.finish == "cancelled"
    assert running.usage.completion_tokens == 6
    assert bench.core.stats().num_waiting == 0
    bench.core.cancel("queued")
    assert not bench.core.step()
    assert queued.finish == "cancelled"
    bench.assert_idle()


def test_cancel_before_the_first_step_and_twice() -> None:
    bench = Bench()
    sink = bench.submit("x", request_id="a")
    bench.core.cancel("a")
    bench.core.cancel("a")
    assert not bench.core.step()
    assert sink.finish == "cancelled"
    assert bench.model.batches == []
    bench.assert_idle()


def test_cancel_from_a_callback() -> None:
    bench = Bench()
    params = SamplingParams(max_tokens=50, ignore_eos=True)
    other = bench.submit("other", params, request_id="other")
    sink = Sink()

    def on_chunk(chunk: object) -> None:
        bench.core.cancel("other")

    bench.core.submit(
        encode("first"), GREEDY, request_id="a", on_chunk=on_chunk, on_error=sink.on_error
    )
    bench.run()
    assert other.finish == "cancelled"
    assert len(other.tokens) < 50


def test_a_late_cancel_does_not_hit_the_next_request_of_that_name() -> None:
    bench = Bench()
    bench.submit("a", SamplingParams(max_tokens=1), request_id="same")
    bench.core.step()
    bench.core.cancel("same")  # it has ended
    sink = bench.submit("b", request_id="same")
    bench.run()
    assert sink.finish in ("stop", "length")


def test_a_handle_cancels_what_it_stands_for_and_nothing_else() -> None:
    bench = Bench()
    sink = Sink()

    def submit() -> Handle:
        return bench.core.submit(
            encode("a"),
            SamplingParams(max_tokens=3, ignore_eos=True),
            request_id="same",
            on_chunk=sink.on_chunk,
            on_error=sink.on_error,
        )

    old = submit()
    bench.run()
    sink = Sink()
    new = submit()
    bench.core.withdraw(old)
    bench.core.step()
    assert not sink.done
    bench.core.withdraw(new)
    bench.core.withdraw(new)
    bench.run()
    assert sink.finish == "cancelled"
    bench.assert_idle()


def test_an_id_cancels_all_sequences_of_a_score_and_is_free_again() -> None:
    bench = Bench(limits=Limits(max_running=1))
    errors: list[SgenError] = []
    done: list[Usage] = []

    def submit() -> None:
        bench.core.submit_score(
            [[1, 2, 3], [1, 2, 4], [1, 2, 5]],
            1,
            request_id="s",
            on_row=lambda i, position, row: None,
            on_done=done.append,
            on_error=errors.append,
        )

    submit()
    bench.core.step()  # the first runs, two wait
    assert len(done) == 1
    with pytest.raises(InvalidRequestError, match="in use"):
        bench.submit("x", request_id="s")
    bench.core.cancel("s")
    bench.run()
    assert [type(e) for e in errors] == [CancelledError] * 2
    submit()
    bench.run()
    assert len(done) == 4
    bench.assert_idle()


# -- failures ----------------------------------------------------------------------------------


def test_a_failing_model_ends_the_requests_of_that_step_only() -> None:
    bench = Bench(model=HashModel(fail_on=ord("!")))
    bench.model.eos_bias = -100.0
    params = SamplingParams(max_tokens=8, logit_bias={ord("!"): -100.0})
    first = bench.submit("fine", params)
    bench.core.step()
    bad = bench.submit("bad!", params)
    bench.core.step()
    late = bench.submit("late", params)
    bench.run()
    for sink in (first, bad):
        (error,) = sink.errors
        assert "fell off the bus" in str(error)
        assert isinstance(error.__cause__, RuntimeError)
    assert late.tokens == bench.expected("late", params)
    bench.assert_idle()


def test_a_model_that_keeps_failing_kills_the_engine_clearly() -> None:
    bench = Bench(model=HashModel(fail_on=ord("!")), limits=Limits(max_running=1))
    sinks = [bench.submit("!") for _ in range(5)]
    while bench.core.has_work:
        bench.core.step()
    assert [len(s.errors) for s in sinks] == [1] * 5
    assert "died" in str(sinks[4].errors[0])
    assert isinstance(sinks[4].errors[0], EngineClosedError)
    with pytest.raises(EngineClosedError, match="fell off the bus") as e:
        bench.submit("fine")
    assert isinstance(e.value.__cause__, RuntimeError)
    with pytest.raises(EngineClosedError):
        bench.core.step()


def test_failures_in_between_do_not_add_up() -> None:
    bench = Bench(model=HashModel(fail_on=ord("!")), limits=Limits(max_running=1))
    for _ in range(6):
        assert bench.submit("!", GREEDY) is not None
        bench.core.step()
        sink = bench.submit("fine", SamplingParams(max_tokens=1))
        bench.core.step()
        assert sink.finish is not None


def test_nan_logits_fail_their_request_only() -> None:
    bench = Bench(model=HashModel(nan_on=ord("~")))
    params = SamplingParams(max_tokens=8, logit_bias={ord("~"): -100.0})
    good, bad = bench.submit("good", params), bench.submit("bad~", params)
    bench.run()
    assert "not finite" in str(bad.errors[0])
    assert good.tokens == bench.expected("good", params)
    bench.assert_idle()


class Explosive(DigitsMatcher):
    """A matcher that raises in one of its methods."""

    def __init__(self, method: str) -> None:
        super().__init__(1, 9)
        setattr(self, method, self.explode)

    def explode(self, *args: object) -> bool:
        raise ZeroDivisionError("matcher")


@pytest.mark.parametrize("method", ["allowed", "accept", "is_finished"])
def test_a_failing_matcher_fails_its_request_only(method: str) -> None:
    bench = Bench()
    bad = bench.submit("bad", matcher=Explosive(method))
    good = bench.submit("good")
    bench.run()
    assert isinstance(bad.errors[0].__cause__, ZeroDivisionError)
    assert good.tokens == bench.expected("good")
    bench.assert_idle()


def test_a_failing_callback_fails_its_request_only() -> None:
    bench = Bench()
    errors: list[SgenError] = []

    def explode(*args: object) -> None:
        raise ZeroDivisionError("callback")

    def submit(name: str, on_error: Callable[[SgenError], None], params: SamplingParams) -> None:
        bench.core.submit(encode("x"), params, request_id=name, on_chunk=explode, on_error=on_error)

    submit("a", errors.append, GREEDY)
    submit("b", explode, GREEDY)
    submit("c", explode, SamplingParams(max_tokens=1))  # in its last chunk
    good = bench.submit("good")
    bench.run()
    assert isinstance(errors[0].__cause__, ZeroDivisionError)
    assert good.tokens == bench.expected("good")
    bench.assert_idle()


@pytest.mark.parametrize("error", [TypeError, FloatingPointError])
@pytest.mark.usefixtures("without_native_sampler")
def test_a_failing_sampler_fails_its_request_only(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    bench = Bench()
    choose = Sampler._choose

    def broken(self: Sampler, *args: Any) -> int:
        if self._params.top_k == 3:
            raise error("this sampler")
        return choose(self, *args)

    monkeypatch.setattr(Sampler, "_choose", broken)
    bad = bench.submit("bad", SamplingParams(max_tokens=9, temperature=1.0, top_k=3))
    good = bench.submit("good", RANDOM)
    bench.run()
    assert isinstance(bad.errors[0], SgenError)
    assert isinstance(bad.errors[0].__cause__, error)
    assert good.tokens == bench.expected("good", RANDOM)
    bench.assert_idle()


def test_an_error_of_the_step_itself_ends_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    sink = bench.submit("x")

    def broken() -> None:
        raise AssertionError("no request can go on")

    monkeypatch.setattr(bench.core._scheduler, "schedule", broken)
    bench.core.step()
    assert isinstance(sink.errors[0], EngineClosedError)
    assert isinstance(sink.errors[0].__cause__, AssertionError)
    bench.core.close()


# -- scoring -----------------------------------------------------------------------------------


class Score:
    def __init__(self, bench: Bench, tokens: list[int], score_from: int, name: str = "s") -> None:
        self.rows: dict[int, torch.Tensor] = {}
        self.usage: list[Usage] = []
        self.errors: list[SgenError] = []
        bench.core.submit_score(
            [tokens],
            score_from,
            request_id=name,
            on_row=self.on_row,
            on_done=self.usage.append,
            on_error=self.errors.append,
        )

    def on_row(self, index: int, position: int, row: torch.Tensor) -> None:
        assert index == 0
        assert position not in self.rows, "a row came twice"
        assert row.dtype == torch.float32
        self.rows[position] = row.clone()


@pytest.mark.parametrize("score_from", [0, 15, 16, 47, 63])
@pytest.mark.parametrize("warm", [False, True])
def test_scoring_gives_each_row_once_and_right(score_from: int, warm: bool) -> None:
    bench = Bench(limits=Limits(prefill_chunk=20, max_score_rows=6))
    tokens = encode("a text of sixty-four bytes, that is four pages of sixteen each..")
    assert len(tokens) == 64
    if warm:
        bench.submit(tokens)
        bench.run()
    score = Score(bench, tokens, score_from)
    bench.run()
    assert list(score.rows) == list(range(score_from, 64))
    for position, row in score.rows.items():
        assert torch.equal(row, bench.model.logits(tokens[: position + 1]))
    assert score.usage == [Usage(64, score_from if warm else 0, 0)]
    assert bench.model.max_logit_rows <= 7
    bench.assert_idle()


def test_scoring_among_generations_in_a_tiny_pool() -> None:
    bench = Bench(8, Limits(max_running=8, max_batch_tokens=24, prefill_chunk=9, max_score_rows=3))
    params = SamplingParams(max_tokens=40, temperature=0.9, seed=5, ignore_eos=True)
    prompts = [f"some prompt, number {i}" for i in range(8)]
    tokens = [encode(f"{'score this text ' * 5}{i}") for i in range(6)]
    sinks, scores = [], []
    for i, p in enumerate(prompts):
        sinks.append(bench.submit(p, params))
        if i < 6:
            scores.append(Score(bench, tokens[i], 50 + i, f"s{i}"))
    bench.run()
    for p, sink in zip(prompts, sinks, strict=True):
        assert sink.tokens == bench.expected(p, params)
    for i, score in enumerate(scores):
        assert list(score.rows) == list(range(50 + i, len(tokens[i])))
        for position, row in score.rows.items():
            assert torch.equal(row, bench.model.logits(tokens[i][: position + 1]))
    assert bench.core.stats().counters.preemptions > 0
    bench.assert_idle()


def test_a_preempted_scoring_request_goes_on_where_it_was() -> None:
    bench = Bench(7, Limits(max_score_rows=1))
    bench.submit("x" * 30, SamplingParams(max_tokens=60, ignore_eos=True))
    bench.core.step()
    tokens = encode("some words that are to be scored, sixty bytes of them, or so.")
    score = Score(bench, tokens, 4)
    while bench.core.stats().counters.preemptions == 0:
        assert len(score.rows) < len(tokens) - 4, "it was not preempted in time"
        bench.core.step()
    assert score.rows
    bench.run()
    assert list(score.rows) == list(range(4, len(tokens)))  # and none came twice
    bench.assert_idle()


def test_scoring_refuses_and_cancels() -> None:
    bench = Bench(4)
    with pytest.raises(InvalidRequestError, match="score_from is 3"):
        Score(bench, [1, 2, 3], 3)
    with pytest.raises(CapacityError):
        Score(bench, [1] * 65, 3)
    score = Score(bench, [1] * 30, 3)
    bench.core.cancel("s")
    bench.run()
    assert "cancelled" in str(score.errors[0])
    assert score.usage == []
    bench.assert_idle()


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
