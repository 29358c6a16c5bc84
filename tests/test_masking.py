"""Masks are made while the model runs: beside it, for everybody, and without harm to anybody."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from fakes import VOCABULARY, DigitsMatcher, HashCache, HashModel, Sink, encode
from numpy.typing import NDArray

from sgen.protocol import SamplingParams
from sgen.runtime.batch import Batch
from sgen.runtime.engine import EngineCore

PARAMS = SamplingParams(max_tokens=6)
MASKS = "sgen-masks"


def submit(core: EngineCore, name: str, matcher: DigitsMatcher | None = None) -> Sink:
    sink = Sink()
    core.submit(
        encode(name), PARAMS, request_id=name, matcher=matcher,
        on_chunk=sink.on_chunk, on_error=sink.on_error,
    )  # fmt: skip
    return sink


def run(core: EngineCore) -> None:
    while core.step():
        pass


def mask_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith(MASKS)]


class MeetingModel(HashModel):
    """Does not go on before the masks of its step are being made."""

    barrier: threading.Barrier

    def forward(self, batch: Batch, cache: HashCache) -> torch.Tensor:  # type: ignore[override]
        self.barrier.wait(10)
        return super().forward(batch, cache)


class MeetingMatcher(DigitsMatcher):
    """Makes no mask before the model runs (`accept`, after the model, may look at one)."""

    def __init__(self, barrier: threading.Barrier) -> None:
        super().__init__(1, 4)
        self.barrier = barrier

    def allowed(self, remaining: int | None = None) -> NDArray[np.uint32]:
        if threading.current_thread() in mask_threads():
            self.barrier.wait(10)
        return super().allowed(remaining)


def test_the_model_and_the_masks_wait_for_each_other() -> None:
    model = MeetingModel()
    model.barrier = threading.Barrier(2)
    core = EngineCore(model, VOCABULARY, 64)
    sink = submit(core, "r", MeetingMatcher(model.barrier))
    run(core)
    assert sink.text.isdigit()
    core.close()


def test_the_thread_comes_with_a_grammar_and_goes_with_the_engine() -> None:
    before = len(mask_threads())
    core = EngineCore(HashModel(), VOCABULARY, 64)
    submit(core, "free")
    run(core)
    assert len(mask_threads()) == before
    sinks = [submit(core, f"r{i}", DigitsMatcher(1, 4)) for i in range(8)]
    run(core)
    assert len(mask_threads()) == before + 1
    assert all(sink.text.isdigit() for sink in sinks)
    core.close()
    assert len(mask_threads()) == before


def test_an_engine_that_nobody_closes_leaves_no_thread() -> None:
    before = len(mask_threads())
    core = EngineCore(HashModel(), VOCABULARY, 64)
    submit(core, "r", DigitsMatcher(1, 4))
    run(core)
    del core
    for _ in range(100):
        if len(mask_threads()) == before:
            break
        time.sleep(0.02)
    assert len(mask_threads()) == before


class SlowMatcher(DigitsMatcher):
    """Takes its time over a mask; `busy` meanwhile."""

    busy = False

    def allowed(self, remaining: int | None = None) -> NDArray[np.uint32]:
        self.busy = True
        time.sleep(0.05)
        self.busy = False
        return super().allowed(remaining)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_step_waits_for_its_masks(error: type[BaseException]) -> None:
    """Nobody is told of an end while their matcher is still in use."""

    class Broken(HashModel):
        def forward(self, batch: Batch, cache: HashCache) -> torch.Tensor:  # type: ignore[override]
            if not self.batches:
                self.batches.append((0, 0))
                raise error
            return super().forward(batch, cache)

    core = EngineCore(Broken(), VOCABULARY, 64)
    matcher = SlowMatcher(1, 4)
    ended: list[bool] = []
    sink = Sink()
    core.submit(
        encode("r"), PARAMS, request_id="r", matcher=matcher,
        on_chunk=sink.on_chunk, on_error=lambda error: ended.append(matcher.busy),
    )  # fmt: skip
    if error is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            core.step()
        run(core)  # the step is done again
        assert sink.text.isdigit()
    else:
        core.step()
        assert ended == [False]
    core.close()


def test_masks_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    core = EngineCore(HashModel(), VOCABULARY, 64)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        sink = submit(core, "r", DigitsMatcher(1, 4))
        run(core)
    assert sink.text.isdigit()
    core.close()
