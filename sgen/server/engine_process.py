"""The process of the engine: `python -m sgen.server.engine_process`, started by remote.py.

Standard input is a socket, the link to the HTTP process (see link.py); the first message on it
says which engine.  When that closes, and only then, this process ends: a terminal's interrupt and a
service manager's SIGTERM, which go to whole groups of processes, are for the other one, which lets
requests finish first.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from sgen.callback_engine import CallbackEngine
from sgen.grammars.service import CompileLimits
from sgen.runtime.compute import Compute
from sgen.runtime.hub import resolve_model
from sgen.runtime.loader import load_model
from sgen.runtime.scheduler import Limits
from sgen.server.engine_host import Progress, run
from sgen.server.link import EngineOptions


def load(options: EngineOptions, progress: Progress, deliver: Callable[[], None]) -> CallbackEngine:
    """The engine that the options describe; errors as `Engine.load` has them."""
    how = ("path", "threads", "kv_cache_dtype", "deterministic")
    compute = msgspec.convert(_given(options, **{name: name for name in how}), Compute)
    step = ("max_running", "max_batch_tokens", "prefill_chunk")
    limits = Limits(**_given(options, **{name: name for name in step}))
    compile_limits = CompileLimits(
        **_given(
            options,
            seconds="compile_seconds",
            megabytes="compile_megabytes",
            workers="compile_workers",
        )
    )
    path = resolve_model(options.model, progress=lambda n, of: progress("pulling", n, of))
    return CallbackEngine(
        load_model(Path(path), progress=progress, compute=compute),
        deliver=deliver,
        cache_tokens=options.cache_tokens,
        limits=limits,
        compile_limits=compile_limits,
        unknown_keywords=options.unknown_keywords,
    )


def _given(options: EngineOptions, **names: str) -> dict[str, Any]:
    """The options that are not None, by the names that they have elsewhere."""
    found = {name: getattr(options, option) for name, option in names.items()}
    return {name: value for name, value in found.items() if value is not None}


if __name__ == "__main__":
    run(load)
