"""Many runs of one program: at most so many at a time, in the order of their rows.

Rows are taken in the caller's thread, so that rows may themselves come from runs.
"""

from __future__ import annotations

import concurrent.futures
import queue
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sized
from typing import Any, TextIO

from sgen.errors import ProgramError
from sgen.frontend.bridge import HOST, Running
from sgen.frontend.events import Run

AHEAD = 4
"""Rows that may be done and wait for an earlier one, in multiples of the concurrency."""

Execute = Callable[[Mapping[str, Any]], Coroutine[Any, Any, Run[Any]]]


def map_rows(
    execute: Execute,
    inputs: Iterable[Mapping[str, Any]],
    *,
    concurrency: int,
    progress: TextIO | None,
    return_exceptions: bool,
) -> Iterator[Any]:
    """The runs of all rows, in order; counts on `progress` if that is a stream."""
    if type(concurrency) is not int or concurrency < 1:
        raise ProgramError(f"concurrency must be a number from 1, not {concurrency!r}")
    total = len(inputs) if isinstance(inputs, Sized) else None
    rows = _Rows(execute, iter(inputs), concurrency)
    return _results(rows, return_exceptions, _Progress(progress, total))


class _Rows:
    """Rows in order: taken from the input, running, waiting to be handed out."""

    def __init__(
        self, execute: Execute, inputs: Iterator[Mapping[str, Any]], concurrency: int
    ) -> None:
        self._execute = execute
        self._inputs = inputs
        self._concurrency = concurrency
        self._window: deque[Running[Run[Any]]] = deque()
        self._done: queue.SimpleQueue[concurrent.futures.Future[Run[Any]]] = queue.SimpleQueue()
        self._going = 0
        self._exhausted = False

    def next(self) -> concurrent.futures.Future[Run[Any]] | None:
        """The next row's outcome when it is there, None after the last."""
        self._fill()
        while not self._window[0].future.done() if self._window else not self._exhausted:
            self._done.get()
            self._going -= 1
            self._fill()
        return self._window.popleft().future if self._window else None

    def _fill(self) -> None:
        while not self._done.empty():
            self._done.get()
            self._going -= 1
        while not self._exhausted and self._has_room():
            try:
                row = next(self._inputs)
            except StopIteration:
                self._exhausted = True
                return
            running = HOST.submit(self._execute(row))
            self._going += 1
            running.future.add_done_callback(self._done.put)
            self._window.append(running)

    def _has_room(self) -> bool:
        ahead = len(self._window) < self._concurrency * AHEAD
        return ahead and self._going < self._concurrency

    def stop(self) -> None:
        """Cancel what goes on."""
        for running in self._window:
            running.cancel()
        for running in self._window:
            running.stop()


def _results(rows: _Rows, return_exceptions: bool, progress: _Progress) -> Iterator[Any]:
    index = 0
    try:
        while (future := rows.next()) is not None:
            error = future.exception()
            progress.count(failed=error is not None)
            if error is None:
                yield future.result()
            elif return_exceptions and isinstance(error, Exception):
                yield error
            else:
                error.add_note(f"in row {index} of the inputs")
                raise error
            index += 1
    finally:
        rows.stop()
        progress.end()


class _Progress:
    """A line on a stream that counts rows: redrawn on a terminal, else written once."""

    def __init__(self, stream: TextIO | None, total: int | None) -> None:
        self._stream = stream
        self._total = total
        self._start = time.perf_counter()
        self._done = 0
        self._failed = 0

    def count(self, *, failed: bool) -> None:
        self._done += 1
        self._failed += failed
        if self._stream is not None and self._stream.isatty():
            self._stream.write(f"\r{self._line()}")
            self._stream.flush()

    def end(self) -> None:
        if self._stream is not None:
            start = "\r" if self._stream.isatty() else ""
            self._stream.write(f"{start}{self._line()}\n")
            self._stream.flush()

    def _line(self) -> str:
        rate = self._done / max(1e-9, time.perf_counter() - self._start)
        of = "" if self._total is None else f"/{self._total}"
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{self._done}{of} rows, {rate:.1f}/s{failed}"
