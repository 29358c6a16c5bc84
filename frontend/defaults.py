"""The engine that programs run on when they name none: the package's only global state."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from sgen.errors import ProgramError
from sgen.protocol import Backend


class DefaultEngine:
    """Holds one backend: the one that was set, or else one that the factory makes when it is
    first needed."""

    def __init__(self) -> None:
        self._backend: Backend | None = None
        self._factory: Callable[[], Backend] | None = None
        self._lock = threading.Lock()

    def use(self, backend: Backend | None) -> None:
        """Make a backend the default; None forgets it."""
        with self._lock:
            self._backend = backend

    def set_factory(self, factory: Callable[[], Backend] | None) -> None:
        """How to make a backend where none was set."""
        with self._lock:
            self._factory = factory

    def current(self) -> Backend:
        """The default; it is made here if it must be (which may take as long as a model takes
        to load).  ProgramError if there is no way to make one."""
        with self._lock:
            if self._backend is None:
                if self._factory is None:
                    raise ProgramError(
                        "there is no engine to run on",
                        hint="sgen.use(engine), or program.with_options(engine=engine)",
                    )
                self._backend = self._factory()
            return self._backend

    async def get(self) -> Backend:
        """The default, without holding up the event loop while it is made."""
        if self._backend is not None:
            return self._backend
        return await asyncio.to_thread(self.current)


DEFAULT = DefaultEngine()


def use(backend: Backend | None) -> None:
    """Make an engine the one that programs run on by default; None forgets it."""
    DEFAULT.use(backend)


def current_backend() -> Backend:
    """The engine that programs run on by default."""
    return DEFAULT.current()


def set_default_factory(factory: Callable[[], Backend] | None) -> None:
    """Name the function that makes a default engine when one is needed and none was set."""
    DEFAULT.set_factory(factory)
