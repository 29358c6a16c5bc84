"""What the engine's own process costs, and what hostile requests do to the others.

    python -m benchmarks.serving overhead [--url http://127.0.0.1:8000]
    python -m benchmarks.serving hostile

`overhead`: tokens per second of 16 streams, with the engine in this process, in one of its own
(the socket alone), and, with a URL, behind a server that was started beside it with the same model
and threads; they take turns.  `hostile`: the time between two tokens of 16 streams while nothing
else runs, and while requests of one kind that should cost nobody else anything come one after the
other; they take turns, too.  Medians; each ratio is of runs next to each other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from itertools import count
from typing import Any
from urllib.parse import urlsplit

from sgen.engine import Engine
from sgen.errors import SgenError
from sgen.protocol import Backend, GenerateRequest, GrammarSpec, SamplingParams, Text
from sgen.runtime.compute import Compute
from sgen.server.link import EngineOptions
from sgen.server.remote import RemoteEngine

STREAMS = 16
TOKENS = 96
WORDS = 40  # of a prompt

_numbers = count()


def prompt() -> str:
    """One that no cache knows."""
    return f"Story {next(_numbers)}: " + "once upon a time there was a small house " * (WORDS // 9)


async def stream(backend: Backend, gaps: list[float] | None = None) -> None:
    """One stream of TOKENS tokens; the seconds between its chunks are added to `gaps`."""
    request = GenerateRequest(
        id=f"b{next(_numbers)}",
        prompt=(Text(prompt()),),
        params=SamplingParams(max_tokens=TOKENS, ignore_eos=True),
    )
    last = 0.0
    async for _ in backend.extend(request):
        now = time.perf_counter()
        if last and gaps is not None:
            gaps.append(now - last)
        last = now


async def http_stream(url: str) -> None:
    """The same from a server, with as little of a client as there can be."""
    parts = urlsplit(url)
    body = json.dumps(
        {"prompt": prompt(), "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True,
         "stream": True}
    ).encode()  # fmt: skip
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    answer = await reader.read(-1)
    writer.close()
    if not answer.startswith(b"HTTP/1.1 200") or b"[DONE]" not in answer:
        raise SystemExit(f"the server said: {answer[:300]!r}")


async def speed(run: Callable[[], Awaitable[None]]) -> float:
    """Tokens per second of STREAMS runs side by side."""
    start = time.perf_counter()
    await asyncio.gather(*(run() for _ in range(STREAMS)))
    return STREAMS * TOKENS / (time.perf_counter() - start)


async def overhead(args: argparse.Namespace, remote: RemoteEngine) -> None:
    with Engine.load(args.model, compute=Compute(threads=args.threads)) as local:
        runs: dict[str, Callable[[], Awaitable[None]]] = {
            "in process": lambda: stream(local),
            "own process": lambda: stream(remote),
        }
        if args.url:
            runs["over HTTP"] = lambda: http_stream(args.url)
        for run in runs.values():
            await speed(run)
        found: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(args.runs):
            for name, run in runs.items():
                found[name].append(await speed(run))
    base = found["in process"]
    for name, speeds in found.items():
        ratio = statistics.median(s / b for s, b in zip(speeds, base, strict=True))
        print(
            f"{name:12} {statistics.median(speeds):7.1f} tok/s "
            f"({min(speeds):.1f} to {max(speeds):.1f}), {ratio:6.1%} of in process"
        )


async def hard_grammars(engine: RemoteEngine) -> None:
    """A grammar that takes as much work as one may, and is refused; a new one each time."""
    ahead = "".join(f"(?=.*{letter}{{50}})" for letter in "abcd")
    await engine.check(GrammarSpec("regex", f"{ahead}[a-d]{{1,{400 + next(_numbers)}}}"))


async def new_schemas(engine: RemoteEngine) -> None:
    """Usual schemas, never the same: compiled, unpacked, and a masker made of each."""
    fields = {f"field_{next(_numbers)}": {"type": "string", "maxLength": 20} for _ in range(10)}
    schema = {"type": "object", "properties": fields, "required": list(fields)}
    await engine.check(GrammarSpec("json_schema", json.dumps(schema)))


async def huge_prompts(engine: RemoteEngine) -> None:
    """4 MB of text, which no context holds."""
    await _refused(engine, "many words " * 370_000)


async def long_prompts(engine: RemoteEngine) -> None:
    """As much text as could just fit by its bytes, but does not by its tokens."""
    await _refused(engine, f"{next(_numbers)} many words " * 40_000)


async def long_tokenize(engine: RemoteEngine) -> None:
    """A megabyte to tokenize."""
    await engine.tokenize((Text("many words " * 90_000),))


async def _refused(engine: RemoteEngine, text: str) -> None:
    chunks: AsyncIterator[object] = engine.extend(
        GenerateRequest(id=f"h{next(_numbers)}", prompt=(Text(text),))
    )
    async for _ in chunks:
        raise SystemExit("a prompt that is too long was taken")


Attack = Callable[[RemoteEngine], Coroutine[Any, Any, None]]

ATTACKS: dict[str, tuple[Attack, float]] = {
    "hard grammars": (hard_grammars, 0.0),
    "new schemas": (new_schemas, 0.1),
    "huge prompts": (huge_prompts, 0.5),
    "long prompts": (long_prompts, 1.0),
    "tokenize": (long_tokenize, 1.0),
}
"""And the seconds between one's end and the next."""


async def itl(
    remote: RemoteEngine, attack: Attack | None = None, pause: float = 0.0
) -> tuple[list[float], int]:
    """Seconds between tokens of STREAMS streams, and how many attacks there were meanwhile."""
    gaps: list[float] = []
    attacks = 0

    async def attacking() -> None:
        nonlocal attacks
        while attack is not None:
            with suppress(SgenError):
                await attack(remote)
            attacks += 1
            await asyncio.sleep(pause)

    task = asyncio.create_task(attacking())
    await asyncio.gather(*(stream(remote, gaps) for _ in range(STREAMS)))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return gaps, attacks


async def hostile(args: argparse.Namespace, remote: RemoteEngine) -> None:
    await itl(remote)
    for name in [args.only] if args.only else ATTACKS:
        changes, rows = [], []
        for _ in range(args.runs):
            alone, _ = await itl(remote)
            beside, attacks = await itl(remote, *ATTACKS[name])
            changes.append(statistics.median(beside) / statistics.median(alone) - 1)
            rows.append((*map(_milliseconds, (alone, beside)), attacks))
        before, after, attacks = (statistics.median(column) for column in zip(*rows, strict=True))
        print(
            f"{name:13} {attacks:3.0f} a run, ITL {before:6.2f} -> {after:6.2f} ms "
            f"({statistics.median(changes):+.1%}, of runs {min(changes):+.1%} to "
            f"{max(changes):+.1%})",
            flush=True,
        )


def _milliseconds(gaps: list[float]) -> float:
    return 1e3 * statistics.median(gaps)


async def run(args: argparse.Namespace) -> None:
    remote = RemoteEngine(EngineOptions(model=args.model, threads=args.threads))
    await remote.start()
    try:
        print(f"{remote.info.name}, {remote.info.compute}; load {os.getloadavg()[0]:.1f}")
        await (overhead if args.what == "overhead" else hostile)(args, remote)
        print(f"load {os.getloadavg()[0]:.1f}")
    finally:
        await remote.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("what", choices=["overhead", "hostile"])
    parser.add_argument("--model", help="default: the embedded one")
    parser.add_argument("--threads", type=int, help="of the engine (default: the cores)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--url", help="of a server with the same model and threads")
    parser.add_argument("--only", choices=ATTACKS, help="one kind of hostile requests")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
