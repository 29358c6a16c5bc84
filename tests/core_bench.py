"""An engine core on a model that hashes what it reads, and requests whose outcome is known."""

from __future__ import annotations

from itertools import count

import torch
from fakes import (
    VOCABULARY,
    DigitsMatcher,
    HashModel,
    Sink,
    encode,
    solo_tokens,
)

from sgen.errors import (
    SgenError,
)
from sgen.protocol import SamplingParams, Usage
from sgen.runtime.engine import EngineCore
from sgen.runtime.scheduler import Limits

GREEDY = SamplingParams(max_tokens=24)
RANDOM = SamplingParams(max_tokens=24, temperature=0.9, top_p=0.95, seed=5)
PROMPTS = [f"{'a common prefix of some length, ' * (i % 4)}then number {i}" for i in range(20)]


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
