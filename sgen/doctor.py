"""`sgen doctor`: does everything that sgen needs work on this machine?

Each check says what it found; one that fails says what to do.  The last ones really load the
model and generate constrained text with it.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Literal

import msgspec
import torch

import sgen
from sgen.engine import Engine
from sgen.errors import SgenError
from sgen.kernels.reference import is_row_independent, row_block
from sgen.runtime.hub import models_folder, resolve_model

Status = Literal["ok", "note", "fail"]


class Check(msgspec.Struct, frozen=True):
    """What one check found, and the remedy where it failed."""

    name: str
    status: Status
    detail: str
    hint: str = ""


def doctor(model: str | None, *, as_json: bool) -> int:
    """Run all checks; the exit status is 1 if one failed."""
    checks = []
    for check in _checks(model):
        checks.append(check)
        if not as_json:
            hint = f"\n{'':6}hint: {check.hint}" if check.hint else ""
            print(f"{check.status:<5} {check.name}: {check.detail}{hint}", flush=True)
    healthy = all(c.status != "fail" for c in checks)
    if as_json:
        print(json.dumps({"ok": healthy, "checks": msgspec.to_builtins(checks)}))
    return 0 if healthy else 1


def _checks(model: str | None) -> Iterator[Check]:
    yield Check("python", "ok", f"{platform.python_version()} on {platform.machine()}")
    packages = ("torch", "transformers", "tokenizers", "safetensors", "msgspec", "pydantic")
    yield _guarded("packages", lambda: ", ".join(f"{p} {metadata.version(p)}" for p in packages))
    yield _guarded("threads", lambda: f"{torch.get_num_threads()} for torch's products")
    yield _row_independence()
    yield _accelerator()
    yield _guarded("model folder", _writable_folder)
    found = _guarded("model file", lambda: str(resolve_model(model)))
    yield found
    if found.status == "ok":
        yield from _on_the_model(model)


def _guarded(name: str, find: Callable[[], str]) -> Check:
    """A check of something that may raise; what is not our own error is reported by its type."""
    try:
        return Check(name, "ok", find())
    except SgenError as error:
        return Check(name, "fail", error.message, error.hint)
    except Exception as error:
        return Check(name, "fail", f"{type(error).__name__}: {error}")


def _row_independence() -> Check:
    """Of torch's products alone: the native decoder's rows never depend on each other."""
    name, threads = "row independence", torch.get_num_threads()
    if not is_row_independent(threads):
        return Check(
            name,
            "note",
            "torch's matrix products change the bits of a row with the rows beside it here: "
            "where torch computes a model, a text may depend on what else runs",
            "where texts must be repeatable, compute natively or run one request at a time",
        )
    block = row_block(threads)
    detail = f"torch's products of {block} rows and multiples have the bits of larger ones"
    return Check(name, "ok", detail)


def _accelerator() -> Check:
    if torch.cuda.is_available():
        text = f"{_gpu()}; models run on the CPU unless compute is triton, which is untried on GPUs"
        return Check("accelerator", "note", text)
    return Check("accelerator", "note", "none; models run on the CPU")


def _gpu() -> str:
    properties = torch.cuda.get_device_properties(0)
    memory = properties.total_memory / 2**30
    return f"{properties.name}, {memory:.0f} GiB, compute {properties.major}.{properties.minor}"


def _writable_folder() -> str:
    folder = models_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    return str(folder)


def _on_the_model(model: str | None) -> Iterator[Check]:
    start = time.monotonic()
    try:
        engine = Engine.load(model, progress=sys.stderr.isatty())
    except SgenError as error:
        yield Check("loading", "fail", error.message, error.hint)
        return
    with engine:
        info = engine.info
        detail = f"{info.name} in {time.monotonic() - start:.1f} s, context {info.context_length}"
        yield Check("loading", "ok", detail)
        yield Check("compute", "ok", info.compute)

        def generate() -> str:
            run = probe.with_options(engine=engine).run()
            rate = run.usage.completion_tokens / run.seconds
            return f"{run.output!r}, {run.usage.completion_tokens} tokens at {rate:.1f} tok/s"

        yield _guarded("generation", generate)


@sgen.program
async def probe(s: sgen.State) -> list[int]:
    """Constrained output that any model can give."""
    s += "Three numbers as JSON: "
    return await s.gen(list[int], max_tokens=16)
