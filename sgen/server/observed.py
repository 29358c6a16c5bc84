"""A backend that counts what goes through it: latencies, tokens, ends, and who gave up.

Every request to the engine passes here, from whichever endpoint: so metrics and log lines need
nothing of the endpoints.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import cast

from sgen.protocol import (
    Chunk,
    GenerateRequest,
    GrammarSpec,
    ModelInfo,
    PromptPart,
    ScoreRequest,
    Scores,
    Usage,
)
from sgen.runtime.stats import EngineStats
from sgen.server.backend import EngineState, ServerBackend
from sgen.server.exchange import current
from sgen.server.metrics import Metrics


class ObservedBackend:
    """`inner`, with `metrics` kept."""

    def __init__(self, inner: ServerBackend, metrics: Metrics) -> None:
        self._inner = inner
        self._metrics = metrics

    @property
    def info(self) -> ModelInfo:
        return self._inner.info

    @property
    def state(self) -> EngineState:
        return self._inner.state

    @property
    def restarts(self) -> int:
        return getattr(self._inner, "restarts", 0)

    async def extend(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        """The chunks of `inner`; closing the iterator closes that one."""
        metrics = self._metrics
        started = last = time.perf_counter()
        latency = metrics.first_token
        ended = False
        exchange = current.get()
        if exchange is not None:
            exchange.max_tokens = request.params.max_tokens
        stream = cast(AsyncGenerator[Chunk, None], self._inner.extend(request))
        try:
            async with aclosing(stream) as chunks:
                async for chunk in chunks:
                    now = time.perf_counter()
                    if chunk.token_ids:
                        latency.observe(now - last)
                        latency, last = metrics.inter_token, now
                    if chunk.finish_reason is not None:
                        ended = True
                        metrics.finished.labels(chunk.finish_reason).inc()
                        metrics.generation.observe(now - started)
                        self._count(chunk.usage)
                        if exchange is not None:
                            exchange.finished.append(chunk.finish_reason)
                    yield chunk
        finally:
            if not ended:
                metrics.aborted.inc()

    async def score(self, request: ScoreRequest) -> Scores:
        scores = await self._inner.score(request)
        self._count(scores.usage)
        return scores

    def cancel(self, request_id: str) -> None:
        self._inner.cancel(request_id)

    def check_grammar(self, grammar: GrammarSpec) -> int:
        return self._inner.check_grammar(grammar)

    def count_tokens(self, prompt: Sequence[PromptPart]) -> int:
        return self._inner.count_tokens(prompt)

    async def check(self, grammar: GrammarSpec) -> int:
        return await self._inner.check(grammar)

    async def tokenize(self, prompt: Sequence[PromptPart]) -> list[int]:
        return await self._inner.tokenize(prompt)

    async def detokenize(self, ids: Sequence[int]) -> str:
        return await self._inner.detokenize(ids)

    async def apply_template(self, prompt: Sequence[PromptPart]) -> str:
        return await self._inner.apply_template(prompt)

    async def stats(self) -> EngineStats:
        return await self._inner.stats()

    def _count(self, usage: Usage | None) -> None:
        if usage is not None:
            self._metrics.tokens(usage)
            exchange = current.get()
            if exchange is not None:
                exchange.usage = exchange.usage + usage
