"""Compiles grammars away from the engine, in worker processes with limits of time and memory.

- One spec is compiled once, however many callers ask for it at the same time.
- Plans and refusals are kept, the latest used, within a budget of bytes.  A grammar that took too
  long or whose worker died is refused, but never remembered: the next try may end differently.
- Where no process can be started (a frozen application, a system without them), grammars are
  compiled in this one, bounded by counted work alone, and a warning says so once.

A round trip costs about 0.2 ms; a worker's start, before the first grammar, half a second.
"""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import msgspec

from sgen.errors import EngineClosedError, GrammarError
from sgen.grammars.grammar import Grammar
from sgen.grammars.outcome import Compiled, Outcome, Refused, outcome_of
from sgen.grammars.plan import Plan
from sgen.grammars.workers import (
    NoWorkerError,
    SlowWorkerError,
    WorkerError,
    Workers,
    worker_command,
)
from sgen.protocol import GrammarSpec


@dataclass(frozen=True, slots=True)
class CompileLimits:
    """Of one grammar: `seconds` by the clock, `megabytes` beyond what a worker has at its start.
    Of the service: `workers` at a time, and `cache_bytes` of outcomes kept.

    The seconds are for what the count of work misses: what that lets pass takes half a second on
    an idle core, and some two beside an engine that has them all."""

    seconds: float = 10.0
    megabytes: int = 512
    workers: int = 2
    cache_bytes: int = 64 << 20


class CompileService:
    """Grammars from specs.  For any thread; close it, or use it as a context manager."""

    def __init__(
        self, limits: CompileLimits | None = None, *, command: Sequence[str] | None = None
    ) -> None:
        """`command` starts a worker; by default this interpreter is one."""
        self._limits = limits or CompileLimits()
        self._pid = os.getpid()
        self._lock = threading.Lock()  # guards the three below
        self._kept: OrderedDict[bytes, Outcome] = OrderedDict()
        self._kept_bytes = 0
        self._flights: dict[bytes, Future[Outcome]] = {}
        self._encoder = msgspec.msgpack.Encoder()
        self._started = False  # a worker has answered
        self._warned = False
        command = worker_command() if command is None else command
        self._workers: Workers | None = None
        if command is not None:
            one = self._limits
            self._workers = Workers(command, one.workers, one.seconds, one.megabytes)

    def compile(self, spec: GrammarSpec) -> Grammar:
        """A new `Grammar`, which nobody else has.  It blocks until that is there.

        GrammarError if the spec is refused; keyword "time" where it took too long, "memory"
        where it took too much, "crash" where the worker died over it.  EngineClosedError once the
        service is closed, and in a fork of the process that it belongs to.
        """
        if os.getpid() != self._pid:
            raise EngineClosedError("the compile service belongs to another process")
        outcome = self._outcome(spec)
        if isinstance(outcome, Refused):
            raise outcome.error()
        return Grammar(Plan.unpack(outcome.plan), outcome.notes)

    @property
    def num_bytes(self) -> int:
        """Of the outcomes that are kept, about."""
        return self._kept_bytes

    def close(self) -> None:
        """End the workers.  May be called again."""
        if self._workers is not None and os.getpid() == self._pid:
            self._workers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _outcome(self, spec: GrammarSpec) -> Outcome:
        try:
            request = self._encoder.encode(spec)
        except UnicodeEncodeError:
            raise GrammarError(
                "the grammar holds half a surrogate pair, which no text can", keyword="encoding"
            ) from None
        key = hashlib.sha256(request).digest()
        mine: Future[Outcome] = Future()
        with self._lock:
            known = self._kept.get(key)
            if known is not None:
                self._kept.move_to_end(key)
                return known
            flight = self._flights.setdefault(key, mine)
        if flight is not mine:
            return flight.result()
        try:
            outcome = self._compile(spec, request)
        except BaseException as error:
            mine.set_exception(error)
            raise
        else:
            self._keep(key, outcome)
            mine.set_result(outcome)
            return outcome
        finally:
            with self._lock:
                del self._flights[key]

    def _compile(self, spec: GrammarSpec, request: bytes) -> Outcome:
        workers = self._workers
        if workers is None:
            return self._compile_here(spec, "this system has no worker processes")
        try:
            outcome = workers.ask(request)
        except NoWorkerError as error:
            if not self._started:
                return self._compile_here(spec, str(error))
            return _failed(f"no process can be started to compile it in: {error}", "crash")
        except SlowWorkerError:
            seconds = self._limits.seconds
            return _failed(f"the grammar takes more than {seconds:g} s to compile", "time")
        except WorkerError as error:
            workers.check_open()
            return _failed(f"the process that compiled the grammar died: {error}", "crash")
        self._started = True
        return outcome

    def _compile_here(self, spec: GrammarSpec, why: str) -> Outcome:
        with self._lock:
            warned, self._warned = self._warned, True
        if not warned:
            self._workers = None
            message = f"grammars are compiled without limits of time and memory: {why}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        return outcome_of(spec)

    def _keep(self, key: bytes, outcome: Outcome) -> None:
        size = _size(outcome)
        fleeting = isinstance(outcome, Refused) and not outcome.lasting
        if fleeting or size > self._limits.cache_bytes:
            return
        with self._lock:
            self._kept[key] = outcome
            self._kept_bytes += size
            while self._kept_bytes > self._limits.cache_bytes:
                self._kept_bytes -= _size(self._kept.popitem(last=False)[1])


def _failed(message: str, keyword: str) -> Refused:
    hint = "use fewer or simpler constraints, or try again: the machine may have been busy"
    return Refused(message, keyword, hint=hint, lasting=False)


def _size(outcome: Outcome) -> int:
    """Bytes, about: the great part, and what each entry takes at least."""
    if isinstance(outcome, Compiled):
        return 512 + len(outcome.plan) + sum(map(len, outcome.notes))
    return 512 + len(outcome.message) + len(outcome.hint) + len(outcome.pointer or "")
