"""Several engines over the same schemas, in turn, so that any noise of the machine hits all alike.

Each engine has a process of its own (grammar_worker); one task is in work at a time.
"""

from __future__ import annotations

import importlib.util
import json
import selectors
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from benchmarks import grammar_data
from benchmarks.grammar_data import Record

Result = dict[str, Any]
"""What the harness's `run_one` returns of a schema, and under "more" what the worker adds."""

LIMIT = 25.0  # seconds for one schema and all its instances, as in the harness
START_LIMIT = 180.0
MAX_TOKENS = 1500  # longer instances are left out, as in the harness

PACKAGES = {
    "llguidance": "llguidance",
    "llguidance lenient": "llguidance",
    "xgrammar": "xgrammar",
}


def not_installed(engine: str) -> bool:
    package = PACKAGES.get(engine)
    return package is not None and importlib.util.find_spec(package) is None


def save_tokenizer(model: Path, folder: Path) -> None:
    """Write a GGUF file's tokenizer as a folder, which workers load in a second."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name)
        tokenizer.save_pretrained(folder)


class StoppedError(Exception):
    """The worker was too slow, or is no more; its text says which."""


class Asked(Protocol):
    """What runs tasks; StoppedError if it could not."""

    def ask(self, task: object) -> Result: ...


class Worker:
    """An engine's process.  After `StoppedError` the next task begins in a fresh one."""

    def __init__(self, engine: str, tokenizer: Path) -> None:
        self._command = [sys.executable, "-m", "benchmarks.grammar_worker", engine, str(tokenizer)]
        self._process: subprocess.Popen[str] | None = None
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the worker
        try:
            self.start()
        except StoppedError as error:
            self._errors.seek(0)
            end = "".join(self._errors.readlines()[-8:])
            raise SystemExit(f"{engine} does not start ({error}):\n{end}") from None

    def start(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                cwd=grammar_data.REPOSITORY,
            )
            self._answer(self._process, START_LIMIT)
        return self._process

    def ask(self, task: object) -> Result:
        process = self.start()
        assert process.stdin is not None
        try:
            print(json.dumps(task), file=process.stdin, flush=True)
        except BrokenPipeError:
            self.stop()
            raise StoppedError("crash") from None
        return self._answer(process, LIMIT)

    def _answer(self, process: subprocess.Popen[str], limit: float) -> Result:
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            ready = selector.select(limit)
        line = process.stdout.readline() if ready else ""
        if not line:
            self.stop()
            raise StoppedError("crash" if ready else "timeout")
        answer: Result = json.loads(line)
        return answer

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def workers(engines: Sequence[str], tokenizer: Path) -> Iterator[dict[str, Worker]]:
    started: dict[str, Worker] = {}
    try:
        for engine in engines:
            started[engine] = Worker(engine, tokenizer)
        yield started
    finally:
        for worker in started.values():
            worker.stop()


def run(
    started: Mapping[str, Asked], records: Mapping[str, Sequence[Record]], *, repeat: int
) -> dict[str, list[Result]]:
    """Each engine over its records, `repeat` times; of repeated times the medians.

    Engines take turns: at one schema all that have it, then at the next one.
    """
    results: dict[str, list[Result]] = {engine: [] for engine in started}
    order = {r["id"]: r for engine in started for r in records[engine]}
    wanted = {engine: {r["id"] for r in records[engine]} for engine in started}
    for name, record in order.items():
        here = [engine for engine in started if name in wanted[engine]]
        found: dict[str, list[Result]] = {engine: [] for engine in here}
        for _ in range(repeat):
            for engine in here:
                if all("fatal" not in result for result in found[engine]):
                    found[engine].append(_run_one(started[engine], record))
        for engine in here:
            results[engine].append(median(found[engine]))
    return results


def _run_one(worker: Asked, record: Record) -> Result:
    try:
        result = worker.ask({"record": record, "max_tokens": MAX_TOKENS})
    except StoppedError as stopped:
        name = {"id": record["id"], "subset": record["subset"]}
        return {**name, "fatal": str(stopped), "tests": []}
    try:
        result["more"] = worker.ask(None)
    except StoppedError:
        result["more"] = {"forced": 0, "tokens": 0, "bytes": None}
    return result


def median(results: list[Result]) -> Result:
    """The last result, with the medians of the times of all."""
    last = results[-1]
    if "fatal" in last:
        return last
    last["compile_us"] = statistics.median(r["compile_us"] for r in results)
    for key in ("fills", "accs"):
        if key in last:
            last[key] = [
                statistics.median(times) for times in zip(*(r[key] for r in results), strict=False)
            ]
    return last
