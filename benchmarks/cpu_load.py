"""The workloads of ../shared/peers/load.py, run on servers and on an engine in this process.

- `load.py` is used as it is: its prompts, its client for servers, its figures.  `SgenClient` has
  its client's methods, so the same code drives our engine; what a server would send as an event of
  text is a chunk here, stamped when it comes.
- JSON Schemas are constraints as the specification has them (unknown keywords are annotations),
  and output is kept valid within its tokens, which is sgen's default.
- One workload is added: `ttft`, the first token behind a prefix of 500 tokens that is known.
- Each run has a seed of its own, so no run finds its prompts in a cache.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from sgen import bench_runs
from sgen.engine import Engine
from sgen.errors import GrammarError, InvalidRequestError, SgenError
from sgen.protocol import (
    GenerateRequest,
    GrammarSpec,
    PromptPart,
    Role,
    RoleEnd,
    RoleStart,
    SamplingParams,
    Text,
)

SIZES = {"single": 5, "prefill": 4, "fewshot": 32, "tree": 4, "chat": 16, "json": 16, "json1": 5,
         "ttft": 8}  # fmt: skip
"""Items of a run; the same for all who are compared."""

OWN_SIZES = {"single": 5, "prefill": 4, "fewshot": 64, "tree": 8, "chat": 16, "json": 32,
             "json1": 5}  # fmt: skip
"""load.py's own, which a report names where ours are smaller."""

QUICK = {"single": 2, "prefill": 2, "fewshot": 16, "tree": 2, "chat": 8, "json": 8, "json1": 2,
         "ttft": 4}  # fmt: skip

_ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system"}

TIMEOUT = 900.0  # seconds of one request
WARM_STREAMS = 16


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """The runs of one workload: medians of what load.py gives, lowest and highest score."""

    workload: str
    n: int
    runs: int
    failed_runs: int
    score: float
    low: float
    high: float
    unit: str
    load_before: float  # 1-minute load average
    setting: str  # of the server
    when: str  # UTC
    context: float = 0.0  # tokens of a request when half of its output was there, on average
    more: dict[str, float | None] = {}  # medians, but for what `_row` says of some


def load_module(shared: Path) -> ModuleType:
    """../shared/peers/load.py with our workload added."""
    path = shared / "peers" / "load.py"
    spec = importlib.util.spec_from_file_location("load", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.WORK["ttft"] = (_ttft, SIZES["ttft"])
    return module


async def _ttft(client: Any, data: Any, n: int, rep: int, args: Any) -> Any:
    """Requests one by one behind one prefix of about 500 tokens, which a first one has put into
    the cache; the score is the median time to the first token, in milliseconds."""
    prefix = data.prose(max(8, round(500 / client.per_word)), f"{args.seed}-t{rep}")
    first = await client.complete(prefix, 1)
    replies = [
        await client.complete(f"{prefix}\n\nQuestion: {row['question'][:80]}\nAnswer:", 2)
        for row in data.gsm[rep * n : rep * n + n]
    ]
    if not first.ok:
        replies.append(first)
    return replies, {"score": 1000 * statistics.median(r.ttft for r in replies), "unit": "ms"}


class SgenClient:
    """load.py's `Client` over an engine in this process."""

    per_word = 1.0  # tokens; the warm-up measures it

    def __init__(self, engine: Engine, reply: type[Any]) -> None:
        """`reply` is load.py's `Reply`."""
        self._engine = engine
        self._reply = reply
        self._count = 0

    async def complete(self, prompt: str, n: int, fixed: bool = True) -> Any:
        return await self._send((Text(prompt),), n, fixed, None)

    async def chat(
        self,
        messages: str | Sequence[dict[str, str]],
        n: int,
        fixed: bool = False,
        response_format: dict[str, Any] | None = None,
    ) -> Any:
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        parts: list[PromptPart] = []
        for message in messages:
            role = _ROLES[message["role"]]
            parts += [RoleStart(role), Text(message["content"]), RoleEnd()]
        grammar = None
        if response_format is not None:
            schema = response_format["json_schema"]["schema"]
            grammar = GrammarSpec("json_schema", json.dumps(schema), unknown="note")
        return await self._send((*parts, RoleStart("assistant")), n, fixed, grammar)

    async def _send(
        self, prompt: tuple[PromptPart, ...], n: int, fixed: bool, grammar: GrammarSpec | None
    ) -> Any:
        """A refusal before the first chunk is a server's 400; any other failure its 500."""
        self._count += 1
        answer, got = self._reply(), bench_runs.Reply()
        try:
            request = GenerateRequest(
                id=str(self._count),
                prompt=prompt,
                params=SamplingParams(max_tokens=n, ignore_eos=fixed),
                grammar=grammar,
            )
            await bench_runs.timed(self._engine, request, got)
        except SgenError as error:
            refused = not got.chunks and isinstance(error, (GrammarError, InvalidRequestError))
            answer.status = 400 if refused else 500
            answer.error = f"{type(error).__name__}: {error}"
            return answer
        if got.finish == "error":
            answer.status, answer.error = 500, "the engine ended it with an error"
            return answer
        answer.status, answer.text, answer.finish = 200, got.text, got.finish
        answer.stamps, answer.latency = got.stamps, got.seconds
        answer.usage = {
            "prompt_tokens": got.usage.prompt_tokens,
            "completion_tokens": got.usage.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": got.usage.cached_tokens},
        }
        return answer


async def warm_up(load: ModuleType, client: Any, data: Any, seed: str) -> None:
    """Make code and pages ready, and learn how many tokens a word has; RuntimeError if it fails."""
    for i in range(2):
        reply = await client.complete(data.prose(400, f"warm {seed}-{i}"), 16)
        if not reply.ok:
            raise RuntimeError(f"the warm-up failed: {reply.status} {reply.error}")
        client.per_word = reply.prompt / 400
    jobs = [lambda i=i: client.complete(data.prose(30, f"warmb{seed}{i}"), 8)
            for i in range(WARM_STREAMS)]  # fmt: skip
    await load.gather(jobs, WARM_STREAMS)


async def run(
    load: ModuleType,
    client: Any,
    data: Any,
    name: str,
    n: int,
    repeat: int,
    seed: str,
    setting: str,
) -> Row:
    """The runs of one workload on one client; RuntimeError if not one of them worked."""
    before, runs = os.getloadavg()[0], []
    for rep in range(repeat):
        args = argparse.Namespace(seed=f"{seed}.{rep}", concurrency=None)
        try:
            runs.append(await load.once(client, data, name, n, rep, args))
        except Exception as error:  # whatever a reply made its workload do: load.py's own rule
            runs.append({"status": "failed", "reason": f"{type(error).__name__}: {error}"})
    return _row(load.merge(runs), runs, name, n, before, setting)


def _row(
    merged: dict[str, Any],
    runs: Sequence[dict[str, Any]],
    name: str,
    n: int,
    before: float,
    setting: str,
) -> Row:
    """Of `errors`, requests that failed, the row has the sum of the runs that count; of what must
    be true of every run, also the worst: a median hides the one run that was bad."""
    if merged["status"] != "ok":
        raise RuntimeError(f"{name}: {merged['status']}, {merged.get('reason')}")
    requests = merged["n"]
    prompt, output = merged["prompt_tokens"] / requests, merged["output_tokens"] / requests
    own = {"workload", "n", "score", "score_min", "score_max", "runs", "failed_runs"}
    more: dict[str, float | None] = {}
    more |= {k: v for k, v in merged.items() if k not in own and isinstance(v, (int, float))}
    good = [r for r in runs if r["status"] == "ok"]
    more["errors"] = sum(r.get("errors", 0) for r in good)
    for key, worst in (("valid", min), ("refused", max)):
        if key in more:
            more[f"{key}_worst"] = worst(r[key] for r in good)
    now = datetime.now(UTC)
    return Row(
        workload=name,
        n=n,
        runs=merged["runs"],
        failed_runs=merged["failed_runs"],
        score=merged["score"],
        low=merged["score_min"],
        high=merged["score_max"],
        unit=merged["unit"],
        load_before=round(before, 2),
        setting=setting,
        when=now.isoformat(timespec="seconds"),
        context=prompt + output / 2,
        more=more,
    )
