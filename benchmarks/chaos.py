"""What abuse does to a server: `sgen serve` in a process of its own, and clients that behave badly.

    python -m benchmarks.chaos [--seconds 20] [--connections 200] [--only load,slow,kill,...]

Prints a table of goal and measured, and ends with 1 where a goal was missed.

- load: so many connections, half of them streaming, 30 % dropping at random, in three rounds.  The
  first warms up; what is held after the second is the baseline of what is held after the third.
- slow: four streams, alone and beside a client that asks for a long text and does not read it.
- malformed: each of malformed.py, one after the other.
- hostile: 16 streams, alone and beside schemas that are made to take long.
- kill: the engine's process dies (SIGKILL) under streams.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import signal
import statistics
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.malformed import BROKEN, MALFORMED, is_error
from benchmarks.raw_http import Answer, chat, connected, request, send
from benchmarks.served import Served, serve

DROPPED = 0.3
STREAMED = 0.5
IDLE_SECONDS = 60.0
CACHE_TOKENS = 12_288  # few, so that the cache is full when the memory is looked at


class Line(NamedTuple):
    """One line of the table."""

    what: str
    goal: str
    measured: str
    met: bool


class Held(NamedTuple):
    """What the two processes hold when nothing runs: file descriptors, threads, resident memory
    (MiB), and pages that belong neither to the tree nor to the free ones."""

    descriptors: int
    threads: int
    memory: float
    pages: int


def held(served: Served, stats: dict[str, Any]) -> Held:
    descriptors = threads = 0
    memory = 0.0
    for pid in (served.process.pid, served.engine_pid):
        place = Path(f"/proc/{pid}")
        descriptors += len(list((place / "fd").iterdir()))
        threads += len(list((place / "task").iterdir()))
        resident = int((place / "statm").read_text().split()[1])
        memory += resident * os.sysconf("SC_PAGE_SIZE") / 2**20
    pages = stats["num_pages"] - stats["free_pages"] - stats["tree_pages"]
    return Held(descriptors, threads, memory, pages)


async def idle(served: Served) -> Held:
    """Waits until the engine runs nothing; TimeoutError after a minute."""
    async with asyncio.timeout(IDLE_SECONDS):
        while True:
            answer = await send(served.url, request("/server_info"))
            [stats] = json.loads(answer.body)["internal_states"] or [None]
            if stats and not stats["num_running"] and not stats["num_waiting"]:
                await asyncio.sleep(0.5)  # connections that are closed by now are put away
                return held(served, stats)
            await asyncio.sleep(0.2)


async def load(served: Served, seconds: float, connections: int) -> list[Line]:
    await rush(served, seconds, connections, 0)
    await _fill(served.url)
    await rush(served, seconds, connections, 1)
    before = await idle(served)
    answers, health = await rush(served, seconds, connections, 2)
    after = await idle(served)
    health.sort()
    p99 = 1000 * health[int(0.99 * len(health))]
    odd = [a.status for a in answers if a.status not in (0, 200, 429)]
    grown = after.memory / before.memory - 1
    done = sum(a.status == 200 for a in answers)
    return [
        Line("load: answers of another status", "none", f"{len(odd)} of {len(answers)}", not odd),
        Line("load: answered or begun", "some", str(done), done > 0),
        Line("load: p99 of /health", "< 50 ms", f"{p99:.1f} ms of {len(health)}", p99 < 50),
        Line("load: pages held by nobody", "0", str(after.pages), after.pages == 0),
        _same("load: file descriptors", before.descriptors, after.descriptors),
        _same("load: threads", before.threads, after.threads),
        Line(
            "load: memory of both processes",
            "within 2 %",
            f"{before.memory:.0f} -> {after.memory:.0f} MiB ({grown:+.1%})",
            grown < 0.02,
        ),
    ]


def _same(what: str, before: int, after: int) -> Line:
    return Line(what, "as before", f"{before} -> {after}", after <= before)


async def rush(
    served: Served, seconds: float, connections: int, number: int
) -> tuple[list[Answer], list[float]]:
    """All answers, and how long each GET /health took meanwhile."""
    until = time.monotonic() + seconds
    answers: list[Answer] = []

    async def client(index: int) -> None:
        rng = random.Random(f"{number} {index}")
        while time.monotonic() < until:
            body = chat(
                f"Count from {rng.randrange(1000)}.",
                rng.choice((4, 8, 16)),
                stream=rng.random() < STREAMED,
            )
            leave = rng.uniform(0, 2.0) if rng.random() < DROPPED else None
            answers.append(await send(served.url, body, leave_after=leave))
            if answers[-1].status == 429:
                await asyncio.sleep(rng.uniform(0.2, 0.6))

    probing = asyncio.create_task(asyncio.to_thread(_probe, served.url, until))
    await asyncio.gather(*map(client, range(connections)))
    return answers, await probing


def _probe(url: str, until: float) -> list[float]:
    """Seconds of each GET /health; in a thread, so that the clients' own work is not in them."""
    seconds: list[float] = []
    while time.monotonic() < until:
        started = time.perf_counter()
        with urllib.request.urlopen(f"{url}/health", timeout=30) as reply:
            reply.read()
        seconds.append(time.perf_counter() - started)
        time.sleep(0.05)
    return seconds


async def _fill(url: str) -> None:
    """Fills the cache: its memory is taken page by page, which is no leak."""
    for number in range(CACHE_TOKENS // 1000):
        await send(url, chat(f"{number} " * 600, 1))


async def streams(url: str, count: int, tokens: int) -> list[Answer]:
    """So many streams side by side, each with a prompt of its own."""
    bodies = [chat(f"Tell story {i}.", tokens, stream=True) for i in range(count)]
    return await asyncio.gather(*(send(url, body) for body in bodies))


def gap(answers: Sequence[Answer]) -> float:
    """The median time between two events."""
    pairs = [(a.stamps, a.stamps[1:]) for a in answers]
    return statistics.median(y - x for one, two in pairs for x, y in zip(one, two, strict=False))


async def slow(served: Served) -> list[Line]:
    async def beside() -> list[Answer]:
        async with connected(served.url, receive_buffer=4096) as (_, writer):
            writer.write(chat("Tell a long story.", 4000, stream=True, n=4, logprobs=True))
            await writer.drain()
            return await streams(served.url, 4, 48)

    await streams(served.url, 8, 48)
    alone = await streams(served.url, 8, 48)  # as many rows a step as beside the slow one
    answers = await beside()
    await idle(served)
    ratio = gap(answers) / gap(alone)
    complete = sum(a.status == 200 and a.events[-1:] == ["[DONE]"] for a in answers)
    return [
        Line("slow reader: others are answered", "4 of 4", f"{complete} of 4", complete == 4),
        Line("slow reader: ITL of others", "< 1.25x", f"{ratio:.2f}x", ratio < 1.25),
    ]


async def malformed(served: Served) -> list[Line]:
    wrong: list[str] = []
    for name, data in MALFORMED.items():
        answer = await send(served.url, data, leave_after=30)
        if not (400 <= answer.status < 500 and is_error(answer.body)):
            wrong.append(f"{name}: {answer.status} {answer.body[:120]!r}")
    for name, data in BROKEN.items():
        answer = await send(served.url, data, leave_after=10)
        if not (answer.status == 0 or 400 <= answer.status < 500) or answer.seconds >= 10:
            wrong.append(f"{name}: {answer.status} {answer.body[:120]!r}")
    alive = await send(served.url, chat("hi", 2))
    for text in wrong:
        print(f"  {text}", file=sys.stderr)
    count = len(MALFORMED) + len(BROKEN)
    return [
        Line("malformed: refused with a 4xx", "all", f"{count - len(wrong)} of {count}", not wrong),
        Line("malformed: a sound request after", "200", str(alive.status), alive.status == 200),
    ]


def hostile_body(number: int) -> bytes:
    """A schema within the limits that takes as much work as one may; each number has another."""
    ahead = "".join(f"(?=.*{letter}{{50}})" for letter in "abcd")
    return constrained({"type": "string", "pattern": f"^{ahead}[a-d]{{1,{400 + number}}}$"})


def refused_body(number: int) -> bytes:
    """A schema that is refused at once, by a limit; each number has another."""
    pattern = f"^({'|'.join(f'a{{0,40}}b{number}{i}c{{0,40}}' for i in range(20))}){{1,8}}$"
    return constrained({"type": "array", "items": {"type": "string", "pattern": pattern}})


def constrained(schema: object) -> bytes:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return chat("hi", 4, response_format=form)


async def hostile(served: Served) -> list[Line]:
    hard, statuses = await beside(served, hostile_body)
    flood, others = await beside(served, refused_body)
    statuses |= others
    told = ", ".join(map(str, sorted(statuses))) or "no answer meanwhile"
    return [
        Line("hostile schemas: ITL of 16 streams", "< 1.10x", f"{hard:.2f}x", hard < 1.10),
        Line("refused schemas, a flood: the same", "(no goal)", f"{flood:.2f}x", True),
        Line("hostile schemas: no 5xx", "none", told, not any(s >= 500 for s in statuses)),
    ]


async def beside(
    served: Served, body: Callable[[int], bytes], rounds: int = 5
) -> tuple[float, set[int]]:
    """How much longer 16 streams wait for a token while one client sends such bodies, each as
    soon as the one before it is answered; and these answers."""
    ratios: list[float] = []
    statuses: set[int] = set()
    numbers = itertools.count()

    async def attack() -> None:
        for number in numbers:
            statuses.add((await send(served.url, body(number))).status)

    await streams(served.url, 16, 16)
    for _ in range(rounds):
        alone = gap(await streams(served.url, 16, 64))
        attacking = asyncio.create_task(attack())
        ratios.append(gap(await streams(served.url, 16, 64)) / alone)
        attacking.cancel()
        with suppress(asyncio.CancelledError):
            await attacking
        await idle(served)
    return statistics.median(ratios), statuses


async def kill(served: Served) -> list[Line]:
    running = asyncio.create_task(streams(served.url, 4, 2000))
    await asyncio.sleep(2.0)
    os.kill(served.engine_pid, signal.SIGKILL)
    killed = time.monotonic()
    answers = await running
    told = sum(any('"error"' in event for event in a.events) for a in answers)
    refused = await send(served.url, chat("hi", 2))
    retry = refused.headers.get("retry-after", "none")
    down = await send(served.url, request("/health"))
    async with asyncio.timeout(IDLE_SECONDS):
        while (await send(served.url, request("/ready"))).status != 200:
            await asyncio.sleep(0.05)
    seconds = time.monotonic() - killed
    after = await send(served.url, chat("hi", 2))
    is_refused = refused.status == 503 and retry != "none" and is_error(refused.body)
    return [
        Line("killed: streams told by an error event", "4 of 4", f"{told} of 4", told == 4),
        Line(
            "killed: requests meanwhile",
            "503, Retry-After",
            f"{refused.status}, {retry}",
            is_refused,
        ),
        Line("killed: /health meanwhile", "503", str(down.status), down.status == 503),
        Line("killed: ready again", "< 30 s", f"{seconds:.1f} s", seconds < 30),
        Line("killed: a request after", "200", str(after.status), after.status == 200),
    ]


def show(lines: Sequence[Line]) -> str:
    """The table."""
    rows = [f"{'':42} {'goal':18} {'measured':30}"]
    rows += [
        f"{line.what:42} {line.goal:18} {line.measured:30} {'' if line.met else 'MISSED'}".rstrip()
        for line in lines
    ]
    return "\n".join(rows)


async def run(served: Served, only: Sequence[str], seconds: float, connections: int) -> list[Line]:
    """The parts that are named, in the order of PARTS."""
    parts: dict[str, Callable[[], Awaitable[list[Line]]]] = {
        "load": lambda: load(served, seconds, connections),
        "slow": lambda: slow(served),
        "malformed": lambda: malformed(served),
        "hostile": lambda: hostile(served),
        "kill": lambda: kill(served),
    }
    lines: list[Line] = []
    for name in PARTS:
        if name in only:
            lines += await parts[name]()
    return lines


PARTS = ("load", "slow", "malformed", "hostile", "kill")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of a round of the load")
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--only", default=",".join(PARTS), help=",".join(PARTS))
    parser.add_argument("--model")
    args = parser.parse_args(argv)
    print(f"load average before: {os.getloadavg()[0]:.1f}")
    with serve(args.model, "--cache-tokens", str(CACHE_TOKENS)) as served:
        only = args.only.split(",")
        lines = asyncio.run(run(served, only, args.seconds, args.connections))
    print(show(lines))
    return int(not all(line.met for line in lines))


if __name__ == "__main__":
    sys.exit(main())
