"""Where a variable's value arrives: written by the executor, read from any thread and event loop.

A `Cell` is finished exactly once, with a value or a `Failure`; until then it collects the text
that streams in.  Reading a failed cell raises its error and marks the failure as seen: a run
raises what nobody has seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sgen.protocol import FinishReason, TokenLogprob, Usage


@dataclass(eq=False)
class Failure:
    """An error, shared by all cells that failed by it.  A cancellation was asked for, so it
    counts as seen."""

    error: BaseException
    seen: bool = False


@dataclass(frozen=True)
class Outcome:
    """All that is known of a variable when it is bound."""

    value: Any
    text: str
    finish_reason: FinishReason = "stop"
    scores: Mapping[Any, float] | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    usage: Usage = field(default_factory=Usage)


class Cell:
    """One variable's value, now or later."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self._finished = threading.Event()
        self._outcome: Outcome | None = None
        self._failure: Failure | None = None
        self._lock = threading.Lock()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None], bool]] = []

    @property
    def finished(self) -> bool:
        return self._finished.is_set()

    @property
    def succeeded(self) -> bool:
        return self._outcome is not None

    @property
    def failure(self) -> Failure | None:
        return self._failure

    @property
    def text(self) -> str:
        """What has come so far."""
        return self._outcome.text if self._outcome else "".join(self.pieces)

    def push(self, piece: str) -> None:
        """More text."""
        with self._lock:
            self.pieces.append(piece)
        self._wake()

    def finish(self, outcome: Outcome) -> None:
        """Bind the variable."""
        assert not self.finished, "a variable is bound once"
        with self._lock:
            self._outcome = outcome
            self._finished.set()
        self._wake()

    def fail(self, failure: Failure) -> None:
        """No value will come.  A cell that is finished already stays as it is."""
        with self._lock:
            if self.finished:
                return
            self._failure = failure
            self._finished.set()
        self._wake()

    def outcome(self) -> Outcome:
        """What the cell was finished with; raises its error if it failed."""
        assert self.finished, "read before it was finished"
        if self._failure is not None:
            self._failure.seen = True
            raise self._failure.error
        assert self._outcome is not None
        return self._outcome

    def block(self) -> Outcome:
        """Wait in this thread."""
        self._finished.wait()
        return self.outcome()

    def __await__(self) -> Generator[Any, None, Outcome]:
        yield from self.settled().__await__()
        return self.outcome()

    async def settled(self) -> None:
        """Wait until the cell is finished, however it went."""
        while not self.finished:
            await self._changed(0, final=True)

    async def stream(self) -> AsyncIterator[str]:
        """The pieces of text as they come; raises the cell's error in the end."""
        read = 0
        while True:
            while read < len(self.pieces):
                read += 1
                yield self.pieces[read - 1]
            if self.finished and read == len(self.pieces):
                self.outcome()  # raises what went wrong
                return
            await self._changed(read, final=False)

    async def _changed(self, read: int, *, final: bool) -> None:
        """Wait for the end, or (unless `final`) for more than `read` pieces."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        with self._lock:
            if self.finished or (not final and len(self.pieces) > read):
                return
            self._waiters.append((loop, waiter, final))
        await waiter

    def _wake(self) -> None:
        finished = self.finished
        with self._lock:
            awake = [w for w in self._waiters if finished or not w[2]]
            self._waiters = [w for w in self._waiters if w[2] and not finished]
        for loop, waiter, _ in awake:
            with contextlib.suppress(RuntimeError):  # that loop has been closed meanwhile
                loop.call_soon_threadsafe(_resolve, waiter)


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
