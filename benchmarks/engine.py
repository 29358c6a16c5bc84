"""What the engine does today on this machine: `python -m benchmarks.engine [MODEL] [--json FILE]`.

Workloads, each the median of `--repeat` runs (the first, which warms up, is not counted):
single (one stream of 64 tokens), batch (16 streams of 32), prefill (one new prompt of 512
tokens), fewshot (64 rows behind one prefix of about 900 tokens, 8 new tokens each), json (8
streams of a typed object).  The 1-minute load average before each is printed: above 0.3 something
else was running, and the figures say little.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import time
from collections.abc import Callable

import sgen
from sgen.protocol import Chunk, GenerateRequest, GrammarSpec, SamplingParams, Text, Usage

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


def words(rng: random.Random, count: int) -> str:
    """Text of `count` words that no earlier run has put into the cache."""
    known = ["tree", "lamp", "river", "stone", "cloud", "paper", "glass", "table", "north", "sound"]
    return " ".join(rng.choice(known) for _ in range(count))


def requests(kind: str, rng: random.Random) -> list[GenerateRequest]:
    """The requests of one run of a workload."""
    fixed = SamplingParams(max_tokens=64, ignore_eos=True)
    match kind:
        case "single":
            prompts, params = [words(rng, 100)], fixed
        case "batch":
            prompts = [words(rng, 100) for _ in range(16)]
            params = SamplingParams(max_tokens=32, ignore_eos=True)
        case "prefill":
            prompts, params = [words(rng, 512)], SamplingParams(max_tokens=1)
        case "fewshot":
            prefix = words(rng, 900)
            prompts = [f"{prefix}\nQ: {words(rng, 20)}\nA:" for _ in range(64)]
            params = SamplingParams(max_tokens=8, ignore_eos=True)
        case _:
            prompts = [f"A person as JSON, {words(rng, 10)}: " for _ in range(8)]
            params = SamplingParams(max_tokens=60)
    grammar = GrammarSpec("json_schema", json.dumps(SCHEMA)) if kind == "json" else None
    return [
        GenerateRequest(id=f"{kind}-{i}", prompt=(Text(p),), params=params, grammar=grammar)
        for i, p in enumerate(prompts)
    ]


async def generate(engine: sgen.Engine, batch: list[GenerateRequest]) -> Usage:
    async def one(request: GenerateRequest) -> Chunk:
        return [chunk async for chunk in engine.extend(request)][-1]

    total = Usage()
    for chunk in await asyncio.gather(*map(one, batch)):
        assert chunk.usage is not None
        total = total + chunk.usage
    return total


def measure(engine: sgen.Engine, kind: str, repeat: int) -> dict[str, float]:
    """Medians of a workload: output tok/s, prefilled tok/s, share of the prompts from the cache."""
    rng = random.Random(kind)
    load = os.getloadavg()[0]
    output, prefill, cached = [], [], []
    for i in range(repeat + 1):
        start = time.perf_counter()
        usage = asyncio.run(generate(engine, requests(kind, rng)))
        seconds = time.perf_counter() - start
        if i > 0:
            output.append(usage.completion_tokens / seconds)
            prefill.append((usage.prompt_tokens - usage.cached_tokens) / seconds)
            cached.append(usage.cached_tokens / usage.prompt_tokens)
    of: Callable[[list[float]], float] = statistics.median
    return {
        "output tok/s": of(output),
        "prefilled tok/s": of(prefill),
        "cached": of(cached),
        "load before": load,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    start = time.perf_counter()
    with sgen.Engine.load(args.model) as engine:
        print(f"{engine.info.name} loaded in {time.perf_counter() - start:.1f} s\n")
        print("| workload | output tok/s | prefilled tok/s | from the cache | load before |")
        print("| --- | --- | --- | --- | --- |")
        results = {}
        for kind in ("single", "batch", "prefill", "fewshot", "json"):
            r = results[kind] = measure(engine, kind, args.repeat)
            print(
                f"| {kind} | {r['output tok/s']:.1f} | {r['prefilled tok/s']:.0f} "
                f"| {r['cached']:.0%} | {r['load before']:.1f} |",
                flush=True,
            )
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"model": args.model or "smollm2", "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
