"""The process whose memory `sgen bench` reports: `python -m sgen.bench_memory MODEL
CACHE_TOKENS COMPUTE`, the last as JSON.

It imports torch, notes its size, loads the model, fills the whole cache with 16 requests at once,
and prints a `Memory` as JSON.
"""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

import torch


def resident_bytes(*, peak: bool = False) -> int:
    """Of this process, now or at most so far; where there is no /proc, always at most so far."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    found = re.search(rf"^{'VmHWM' if peak else 'VmRSS'}:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


assert torch.__version__  # imported for its size, before whatever else sgen needs
AFTER_TORCH = resident_bytes()

import asyncio  # noqa: E402
import random  # noqa: E402

import msgspec  # noqa: E402

from sgen.bench_machine import Memory  # noqa: E402
from sgen.bench_runs import together  # noqa: E402
from sgen.engine import Engine  # noqa: E402
from sgen.protocol import GenerateRequest, SamplingParams, Tokens  # noqa: E402
from sgen.runtime.compute import Compute  # noqa: E402

STREAMS = 16
OUTPUT = 16  # tokens of each stream


def main() -> None:
    model, cache_tokens = sys.argv[1], int(sys.argv[2])
    compute = msgspec.json.decode(sys.argv[3], type=Compute)
    rng = random.Random("memory")
    with Engine.load(model, cache_tokens=cache_tokens, compute=compute, progress=False) as engine:
        room = min(cache_tokens // STREAMS, engine.info.context_length) - OUTPUT
        requests = [
            GenerateRequest(
                id=str(i),
                prompt=(Tokens(tuple(rng.choices(range(300, 1000), k=room)), ""),),
                params=SamplingParams(max_tokens=OUTPUT, ignore_eos=True),
            )
            for i in range(STREAMS)
        ]
        asyncio.run(together(engine, requests))
    memory = Memory(AFTER_TORCH, resident_bytes(peak=True), cache_tokens)
    print(msgspec.json.encode(memory).decode())


if __name__ == "__main__":
    main()
