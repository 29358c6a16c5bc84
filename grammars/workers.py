"""Processes that compile grammars, started when they are needed and kept while they behave.

One that takes too long, dies, or has grown is ended, and another started when there is need.  A
worker is a fresh interpreter, never a fork of this process; it ends when this process does.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import msgspec

from sgen.errors import EngineClosedError
from sgen.grammars.outcome import HELLO, Answer, Outcome, receive, send

START_SECONDS = 60.0
"""It takes half a second, but a machine may be busy, and the first one compiles native code."""

NICE = 19
"""Tokens go first: where the engine has all cores, a grammar has what they leave over, and a usual
one takes 10 ms instead of 2."""

_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Numpy would start some for each processor, for sums that no grammar has."""


class WorkerError(Exception):
    """A worker did not answer; it has been ended."""


class SlowWorkerError(WorkerError):
    """It took too long to answer."""


class NoWorkerError(WorkerError):
    """It never came up."""


def worker_command() -> tuple[str, ...] | None:
    """How this interpreter becomes a worker; None where that is not possible."""
    if os.name != "posix" or getattr(sys, "frozen", False) or not sys.executable:
        return None
    return (sys.executable, "-P", "-m", "sgen.grammars.compile_worker")


class Worker:
    """One process, for one caller at a time."""

    def __init__(self, command: Sequence[str], seconds: float, megabytes: int) -> None:
        """`command` is started with both limits behind it.  NoWorkerError if that fails."""
        self._seconds = seconds
        self._socket, theirs = socket.socketpair()
        path = os.pathsep.join(filter(None, sys.path))
        try:
            self._process = subprocess.Popen(
                [*command, str(seconds), str(megabytes)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={**os.environ, **_ONE_THREAD, "PYTHONPATH": path},
                process_group=0,  # an interrupt is for this process, which will end the others
            )
        except OSError as error:
            self._socket.close()
            raise NoWorkerError(str(error)) from error
        finally:
            theirs.close()
        with suppress(OSError):  # it has ended, which the greeting will tell
            os.setpriority(
                os.PRIO_PROCESS, self._process.pid, os.getpriority(os.PRIO_PROCESS, 0) + NICE
            )
        try:
            hello = self._receive(time.monotonic() + START_SECONDS)
        except WorkerError as error:
            raise NoWorkerError(str(error)) from error
        if hello != HELLO:
            self.end()
            raise NoWorkerError("what was started is no compile worker")

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: bytes) -> bytes:
        """The answer, or WorkerError, and the worker has ended."""
        deadline = time.monotonic() + self._seconds
        try:
            self._socket.settimeout(self._seconds)
            send(self._socket, request)
        except OSError as error:
            raise self._ended(error) from error
        return self._receive(deadline)

    def _receive(self, deadline: float) -> bytes:
        try:
            message = receive(self._socket, deadline)
        except OSError as error:
            raise self._ended(error) from error
        if message is None:
            raise self._ended(None)
        return message

    def _ended(self, error: OSError | None) -> WorkerError:
        code = self.end()
        if isinstance(error, TimeoutError):
            return SlowWorkerError("it did not answer in time")
        return WorkerError(f"it ended with code {code}")

    def kill(self) -> None:
        """End the process; whoever waits for its answer learns of it.  For any thread."""
        self._process.kill()

    def end(self) -> int:
        """End the process, whatever it does, and wait for it; its code."""
        self._process.kill()
        self._socket.close()
        return self._process.wait()


class Workers:
    """At most `most` workers.  For any thread; a caller waits while all are busy."""

    def __init__(self, command: Sequence[str], most: int, seconds: float, megabytes: int) -> None:
        self._start = partial(Worker, command, seconds, megabytes)
        self._most = most
        self._changed = threading.Condition()  # guards the four below
        self._starting = 0
        self._idle: list[Worker] = []
        self._all: set[Worker] = set()
        self._closed = False
        self._decoder = msgspec.msgpack.Decoder(Answer)
        self._end_all = weakref.finalize(self, _end_all, self._all, os.getpid())

    def ask(self, request: bytes) -> Outcome:
        """What becomes of an encoded GrammarSpec.  WorkerError if a worker did not answer."""
        worker = self._take()
        fit = False
        try:
            answer = self._decoder.decode(worker.ask(request))
            fit = not answer.worn
        finally:
            self._give_back(worker, fit)
        return answer.outcome

    def close(self) -> None:
        """End them all; what they are asked for ends with EngineClosedError."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            for worker in self._all.difference(idle):
                worker.kill()  # whoever asked it ends it
            self._changed.notify_all()
        for worker in idle:
            self._drop(worker)
        with self._changed:
            self._changed.wait_for(lambda: not self._all and not self._starting, 2.0)

    def check_open(self) -> None:
        if self._closed:
            raise EngineClosedError("the compile service was closed")

    def _take(self) -> Worker:
        with self._changed:
            while True:
                self.check_open()
                if self._idle:
                    worker = self._idle.pop()
                    if worker.alive:
                        return worker
                    self._drop(worker)
                elif len(self._all) + self._starting < self._most:
                    self._starting += 1
                    break
                else:
                    self._changed.wait()
        started: Worker | None = None
        try:
            started = self._start()
        finally:
            with self._changed:
                self._starting -= 1
                if started is not None:
                    self._all.add(started)
                    if self._closed:
                        started.kill()
                self._changed.notify_all()
        return started

    def _give_back(self, worker: Worker, fit: bool) -> None:
        with self._changed:
            if fit and not self._closed:
                self._idle.append(worker)
                self._changed.notify()
                return
        self._drop(worker)

    def _drop(self, worker: Worker) -> None:
        worker.end()
        with self._changed:
            self._all.discard(worker)
            self._changed.notify_all()


def _end_all(workers: set[Worker], pid: int) -> None:
    """Nobody has the pool any more, or the interpreter ends."""
    if os.getpid() == pid:  # not a fork's copy
        for worker in list(workers):
            worker.end()
