"""Cancelled and failing requests of the engine core: no leak, and no harm to others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from core_bench import GREEDY, RANDOM, Bench
from fakes import (
    DigitsMatcher,
    HashModel,
    Sink,
    encode,
)

from sgen.errors import (
    CancelledError,
    EngineClosedError,
    InvalidRequestError,
    SgenError,
)
from sgen.kernels import sampling as kernel
from sgen.protocol import SamplingParams, Usage
from sgen.runtime.jobs import Handle
from sgen.runtime.sampling import Sampler
from sgen.runtime.scheduler import Limits


@pytest.fixture
def without_native_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "library", lambda: None)


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
