"""The workloads of `sgen bench`: requests, and what is read off their replies.

Every run has prompts that no earlier one had, so that the cache holds nothing of them.  Times are
those of whoever consumes the chunks: a reply is stamped as its pieces of text arrive.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from sgen.bench_machine import load_average
from sgen.protocol import Backend, GenerateRequest, GrammarSpec, SamplingParams, Text, Usage

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 4},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
KINDS = {"name": str, "age": int, "tags": list}  # what a reply by SCHEMA must hold

_WORDS = ("tree", "lamp", "river", "stone", "cloud", "paper", "glass", "table", "north", "sound")


@dataclass(slots=True)
class Reply:
    """One finished request; times are seconds since it was sent."""

    text: str = ""
    finish: str = ""
    stamps: list[float] = field(default_factory=list)  # when each piece of text arrived
    seconds: float = 0.0
    usage: Usage = field(default_factory=Usage)
    chunks: int = 0  # with text or without

    @property
    def ttft(self) -> float:
        """To the first text; a reply without any has its end instead."""
        return self.stamps[0] if self.stamps else self.seconds

    @property
    def decode_rate(self) -> float:
        """Tokens a second after the first."""
        taken = self.stamps[-1] - self.stamps[0] if self.stamps else 0.0
        return (self.usage.completion_tokens - 1) / taken if taken > 0 else 0.0

    @property
    def prefill_rate(self) -> float:
        """Tokens of the prompt that were computed, a second of the time to the first token."""
        return (self.usage.prompt_tokens - self.usage.cached_tokens) / self.ttft


async def timed(engine: Backend, request: GenerateRequest, reply: Reply | None = None) -> Reply:
    """Run one request; errors are the engine's.

    A `reply` of the caller's is filled as chunks come, so it tells what came before an error.
    """
    reply, start = reply or Reply(), time.perf_counter()
    async for chunk in engine.extend(request):
        reply.chunks += 1
        if chunk.text:
            reply.stamps.append(time.perf_counter() - start)
            reply.text += chunk.text
        reply.finish = chunk.finish_reason or reply.finish
        reply.usage = chunk.usage or reply.usage
    reply.seconds = time.perf_counter() - start
    return reply


async def together(engine: Backend, requests: Sequence[GenerateRequest]) -> list[Reply]:
    return list(await asyncio.gather(*(timed(engine, r) for r in requests)))


async def one_by_one(engine: Backend, requests: Sequence[GenerateRequest]) -> list[Reply]:
    return [await timed(engine, r) for r in requests]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came out of one workload: `score` is the median of the runs, in `unit`."""

    name: str
    what: str
    unit: str
    score: float
    low: float
    high: float
    runs: int
    load_before: float  # 1-minute load average
    context: float = 0.0  # tokens of a request when half of its output was there, on average
    valid: float | None = None  # share of constrained replies that are what was asked for


@dataclass(frozen=True, slots=True)
class Workload:
    """`run` takes a source of words that are new each time; `score` rates a run of `seconds`."""

    what: str
    unit: str
    run: Callable[[Backend, random.Random], Awaitable[list[Reply]]]
    score: Callable[[Sequence[Reply], float], float]
    is_typed: bool = False


def words(rng: random.Random, count: int) -> str:
    """Text of `count` words, which no earlier prompt began with."""
    return f"{rng.getrandbits(48):x} " + " ".join(rng.choice(_WORDS) for _ in range(count - 1))


def request(prompt: str, tokens: int, *, grammar: GrammarSpec | None = None) -> GenerateRequest:
    """Greedy, and of exactly so many tokens unless a grammar ends it."""
    return GenerateRequest(
        id=f"bench-{random.getrandbits(64):x}",
        prompt=(Text(prompt),),
        params=SamplingParams(max_tokens=tokens, ignore_eos=grammar is None),
        grammar=grammar,
    )


async def _single(engine: Backend, rng: random.Random) -> list[Reply]:
    return await one_by_one(engine, [request(words(rng, 100), 128) for _ in range(3)])


async def _prefill(engine: Backend, rng: random.Random) -> list[Reply]:
    return await one_by_one(engine, [request(words(rng, 1000), 1) for _ in range(3)])


async def _batch(engine: Backend, rng: random.Random) -> list[Reply]:
    return await together(engine, [request(words(rng, 100), 64) for _ in range(16)])


async def _fewshot(engine: Backend, rng: random.Random) -> list[Reply]:
    prefix = words(rng, 900)
    rows = [request(f"{prefix}\nQ: {words(rng, 20)}\nA:", 32) for _ in range(32)]
    return await together(engine, rows)


async def _json(engine: Backend, rng: random.Random) -> list[Reply]:
    grammar = GrammarSpec("json_schema", json.dumps(SCHEMA))
    prompts = [f"A person as JSON, {words(rng, 10)}: " for _ in range(8)]
    return await together(engine, [request(p, 60, grammar=grammar) for p in prompts])


async def _ttft(engine: Backend, rng: random.Random) -> list[Reply]:
    prefix = words(rng, 500)
    await timed(engine, request(prefix, 1))
    rows = [request(f"{prefix}\nQ: {words(rng, 10)}\nA:", 2) for _ in range(8)]
    return await one_by_one(engine, rows)


def _median_decode(replies: Sequence[Reply], seconds: float) -> float:
    return statistics.median(r.decode_rate for r in replies)


def _median_prefill(replies: Sequence[Reply], seconds: float) -> float:
    return statistics.median(r.prefill_rate for r in replies)


def _median_ttft(replies: Sequence[Reply], seconds: float) -> float:
    return 1000 * statistics.median(r.ttft for r in replies)


def _output_rate(replies: Sequence[Reply], seconds: float) -> float:
    return sum(r.usage.completion_tokens for r in replies) / seconds


WORKLOADS = {
    "single": Workload("one stream of 128 tokens", "tok/s", _single, _median_decode),
    "prefill": Workload("a new prompt of 1,000 words", "prompt tok/s", _prefill, _median_prefill),
    "batch": Workload("16 streams of 64 tokens", "tok/s", _batch, _output_rate),
    "fewshot": Workload("32 rows behind a prefix of 900 words", "tok/s", _fewshot, _output_rate),
    "json": Workload("8 typed objects at once", "tok/s", _json, _output_rate, is_typed=True),
    "ttft": Workload("first token behind a known prefix of 500 words", "ms", _ttft, _median_ttft),
}


def measure(engine: Backend, name: str, repeat: int, seed: str = "0") -> Result:
    """The median of `repeat` runs, after one that warms up and does not count."""
    workload, rng, load = WORKLOADS[name], random.Random(f"{seed} {name}"), load_average()
    scores, replies = [], []
    for i in range(repeat + 1):
        start = time.perf_counter()
        got = asyncio.run(_awaited(workload.run(engine, rng)))
        if i > 0:
            scores.append(workload.score(got, time.perf_counter() - start))
            replies += got
    return Result(
        name=name,
        what=workload.what,
        unit=workload.unit,
        score=statistics.median(scores),
        low=min(scores),
        high=max(scores),
        runs=repeat,
        load_before=load,
        context=mean_context([r.usage for r in replies]),
        valid=valid_share(replies) if workload.is_typed else None,
    )


async def _awaited(run: Awaitable[list[Reply]]) -> list[Reply]:
    return await run


def mean_context(usages: Sequence[Usage]) -> float:
    """Tokens that a request's decode steps see on average: the prompt and half of the output."""
    return statistics.fmean(u.prompt_tokens + u.completion_tokens / 2 for u in usages)


def valid_share(replies: Sequence[Reply]) -> float:
    return sum(_is_valid(r.text) for r in replies) / len(replies)


def _is_valid(text: str) -> bool:
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return isinstance(value, dict) and {k: type(v) for k, v in value.items()} == KINDS
