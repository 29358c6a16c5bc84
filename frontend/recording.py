"""The nodes of one run or trace, in the order in which the program makes them.

A live recording hands each node to its executor at once, on the executor's loop and in order,
from whichever thread the program runs in.  A trace has no executor: it only keeps the nodes, and
ends (by `TraceStop`) where Python needs a value that does not exist.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from sgen.errors import CancelledError, ProgramError
from sgen.frontend import ir
from sgen.frontend.executor import Executor
from sgen.frontend.lanes import Decode
from sgen.frontend.markers import Markers
from sgen.frontend.reading import Reading
from sgen.frontend.values import Cell
from sgen.protocol import Backend, Role

T = TypeVar("T")

CURRENT: ContextVar[Recording | None] = ContextVar("sgen_recording", default=None)
"""The recording of the program that the running code belongs to."""


class TraceStop(BaseException):
    """Ends a trace; no `except Exception` of a program may swallow it."""


@dataclass(frozen=True)
class Options:
    """What `with_options` sets: the engine, and defaults for generations that say nothing."""

    engine: Backend | None = None
    seed: int | None = None
    temperature: float | None = None
    max_tokens: int | None = None


class Recording:
    """One run (with an executor) or one trace (without)."""

    def __init__(
        self, options: Options, executor: Executor | None = None, markers: Markers | None = None
    ) -> None:
        self.options = options
        self.markers = markers or Markers()
        self.nodes: list[ir.Node] = []
        self.decoders: dict[int, Decode] = {}
        self.places: list[ir.Arg] = []
        self.reading = Reading()
        self.unopened: dict[int, Role] = {}
        self.stopped = ""
        self.loop_thread = threading.get_ident()
        self._executor = executor
        self._lock = threading.Lock()
        self._vars = 0
        self._branches = ir.ROOT
        self._over: Exception | None = None
        self._waiting: set[concurrent.futures.Future[Any]] = set()

    @property
    def tracing(self) -> bool:
        return self._executor is None

    @property
    def executor(self) -> Executor:
        assert self._executor is not None, "a trace executes nothing"
        return self._executor

    @property
    def on_loop(self) -> bool:
        """Whether the caller runs on the loop's thread, which must never wait."""
        return not self.tracing and threading.get_ident() == self.loop_thread

    # recording

    def check_open(self) -> None:
        """Raise if nothing can be added any more."""
        if self.stopped:
            raise TraceStop
        if self._over is not None:
            raise self._over

    @property
    def is_open(self) -> bool:
        return not self.stopped and self._over is None

    def check_messages(self, branch: int | None = None) -> None:
        """Raise if a message of this branch (or of any) was asked for and not opened."""
        open_in = branch if branch is not None else next(iter(self.unopened), None)
        role = None if open_in is None else self.unopened.pop(open_in, None)
        if role is not None:
            raise ProgramError(
                f"s.{role}() without a text opens a message only in a with statement",
                hint=f"write `with s.{role}():`, or s.{role}(text)",
            )

    def add(self, node: ir.Node, cell: Cell | None = None, decode: Decode | None = None) -> None:
        """Append a node; in a run it starts as soon as its branch gets there."""
        self.check_open()
        with self._lock:
            self.nodes.append(node)
            if decode is not None and isinstance(node, (ir.Gen, ir.Select)):
                self.decoders[node.var] = decode
            if self._executor is not None:
                self.post(self._executor.feed, node, cell, decode)

    def new_var(self) -> int:
        with self._lock:
            self._vars += 1
            return self._vars - 1

    def new_branches(self, count: int) -> tuple[int, ...]:
        with self._lock:
            first = self._branches + 1
            self._branches += count
            return tuple(range(first, first + count))

    def place(self, arg: ir.Arg) -> str:
        """The mark of an argument (of a trace)."""
        self.places.append(arg)
        return self.markers.mark("a", len(self.places) - 1)

    def pieces(self, text: str) -> tuple[ir.Piece, ...]:
        """The text as pieces: marks become what they stand for."""
        pieces: list[ir.Piece] = []
        for part in self.markers.split(text):
            if isinstance(part, str):
                pieces.append(ir.Lit(part))
            else:
                kind, number = part
                pieces.append(ir.Var(number) if kind == "v" else self.places[number])
        return tuple(pieces)

    def refuse_marks(self, text: str, what: str) -> None:
        """Only the text of a prompt can hold a ref without a value."""
        if self.markers.touches(text):
            if self.tracing:
                raise self.halted(f"{what} depends on a value")
            raise ProgramError(
                f"{what} holds a ref that has no value yet", hint="await the ref first"
            )

    # threads and loops

    def post(self, call: Callable[..., None], *args: Any) -> None:
        """Make a call on the loop: now if this is its thread, soon and in order if not."""
        if self.on_loop:
            call(*args)
        else:
            self.executor.loop.call_soon_threadsafe(call, *args)

    def wait_for(self, make: Callable[[], Awaitable[T]]) -> T:
        """Wait in this thread for something that happens on the loop."""
        if self.tracing:
            return self.drive(make())
        if self.on_loop:
            raise ProgramError(
                "this would block the event loop that the program runs on",
                hint="await it; .value is for programs written with plain def",
            )
        future = asyncio.run_coroutine_threadsafe(_as_coroutine(make), self.executor.loop)
        with self._lock:
            self._waiting.add(future)
        try:
            if self._over is not None:
                raise self._over
            return future.result()
        except concurrent.futures.CancelledError:
            raise self._over or CancelledError("the run was cancelled") from None
        finally:
            future.cancel()
            with self._lock:
                self._waiting.discard(future)

    def close(self, reason: Exception) -> None:
        """Nothing can be added any more, and threads that wait for this run wake up."""
        with self._lock:
            self._over = reason
            waiting = list(self._waiting)
        for future in waiting:
            future.cancel()

    # tracing

    def halted(self, why: str) -> TraceStop:
        """End the trace: what the caller must raise."""
        assert self.tracing, "only a trace can end early"
        self.stopped = self.stopped or why
        return TraceStop()

    def drive(self, awaitable: Awaitable[T]) -> T:
        """Run an awaitable of a trace, in which nothing ever has to be waited for."""
        steps = awaitable.__await__()
        try:
            next(steps)
        except StopIteration as end:
            value: T = end.value
            return value
        stop = self.halted("it awaits something that is not part of the program")
        if inspect.iscoroutine(awaitable):
            awaitable.close()
        raise stop


def _as_coroutine(make: Callable[[], Awaitable[T]]) -> Coroutine[Any, Any, T]:
    async def wait() -> T:
        return await make()

    return wait()
