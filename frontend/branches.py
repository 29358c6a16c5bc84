"""The branches of one fork: states that start alike and run side by side.

Leaving a fork's `with` block waits for its branches; leaving it by an exception cancels them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, overload

from sgen.errors import ProgramError
from sgen.frontend import ir
from sgen.frontend.refs import Later

if TYPE_CHECKING:
    from sgen.frontend.state import State

T = TypeVar("T")


class Branches(Sequence["State"]):
    """The states of one fork, in order."""

    def __init__(self, parent: State, ids: tuple[int, ...], states: list[State]) -> None:
        self._parent = parent
        self._recording = parent._recording
        self._ids = ids
        self._states = states
        self._joined = False

    def __len__(self) -> int:
        return len(self._states)

    @overload
    def __getitem__(self, index: int) -> State: ...
    @overload
    def __getitem__(self, index: slice) -> list[State]: ...
    def __getitem__(self, index: int | slice) -> State | list[State]:
        return self._states[index]

    def __setitem__(self, index: int, state: State) -> None:
        """`branches[i] += text` ends in this; nothing else can be put here."""
        if self._states[index] is not state:
            raise ProgramError("a branch cannot be replaced", hint="write branches[i] += text")

    def __iter__(self) -> Iterator[State]:
        return iter(self._states)

    def gather(self, fn: Callable[[State, int], Awaitable[T]]) -> Later[list[T]]:
        """Call `fn(branch, index)` for each branch, side by side; the values in order.

        The first error cancels the other branches.
        """
        awaitables = [fn(state, i) for i, state in enumerate(self._states)]
        for awaitable in awaitables:
            if not hasattr(awaitable, "__await__"):
                raise ProgramError(
                    f"gather's function returned a {type(awaitable).__name__}",
                    hint="it must return a Ref or be an async function",
                )
        return Later(self._recording, lambda: self._gather(awaitables))

    async def _gather(self, awaitables: list[Awaitable[T]]) -> list[T]:
        if self._recording.tracing:
            return [await a for a in awaitables]
        tasks = [asyncio.ensure_future(_as_coroutine(a)) for a in awaitables]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task in done:
                    task.result()
            return [task.result() for task in tasks]
        except BaseException:
            self._cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    def join(self) -> Later[None]:
        """End the branches: the parent goes on when they are done.  Await it to wait here."""
        if not self._joined:
            self._parent._check()
            self._recording.add(ir.Join(self._parent._branch, self._ids))
            self._close()
        return Later(self._recording, self._wait)

    async def _wait(self) -> None:
        if not self._recording.tracing:
            await self._recording.executor.settle(self._ids)
            self._recording.executor.raise_unseen(self._ids)

    def _close(self) -> None:
        self._joined = True
        for state in self._states:
            state._over = True

    def _cancel(self) -> None:
        if not self._recording.tracing:
            self._recording.post(self._recording.executor.cancel_branches, self._ids)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            await self._leave()
        else:
            self._abandon()

    def __enter__(self) -> Self:
        if self._recording.on_loop:
            raise ProgramError(
                "a fork in an async program needs `async with`", hint="or await branches.join()"
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._recording.wait_for(self._leave)
        else:
            self._abandon()

    async def _leave(self) -> None:
        try:
            await self.join()
        except BaseException:
            self._abandon()
            raise

    def _abandon(self) -> None:
        self._cancel()
        self._close()


async def _as_coroutine(awaitable: Awaitable[T]) -> T:
    return await awaitable
