"""`@sgen.program`: a function that writes to a `State`, and the ways to run it.

Every way ends in `runs.run_function` or `runs.run_ir` on an event loop: that of the caller for
`arun` and `astream`, that of `bridge.HOST` for `run`, `map` and `stream`.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Self, TypeVar, cast, overload

from sgen.errors import ProgramError
from sgen.frontend.arguments import bind_arguments, program_signature
from sgen.frontend.bridge import HOST, CallerThread, Worker, in_own_thread, in_pool
from sgen.frontend.compiled import Compiled
from sgen.frontend.events import Event, Run
from sgen.frontend.executor import Emit
from sgen.frontend.mapping import map_rows
from sgen.frontend.recording import CURRENT, Options
from sgen.frontend.refs import Later
from sgen.frontend.runs import run_function
from sgen.frontend.sampling import sampling_params
from sgen.frontend.state import State
from sgen.protocol import Backend

P = ParamSpec("P")
R = TypeVar("R")


class Program(Generic[P, R]):
    """A generation program.  Immutable: `bind` and `with_options` return other programs."""

    def __init__(
        self,
        function: Callable[..., Any],
        options: Options | None = None,
        bound: Mapping[str, Any] | None = None,
    ) -> None:
        self._function = function
        self._options = options or Options()
        self._bound = dict(bound or {})
        self.name: str = getattr(function, "__name__", type(function).__name__)
        self.__name__ = self.name
        self.__doc__ = function.__doc__
        self.__wrapped__ = function
        self._signature = program_signature(function, self.name)

    def __repr__(self) -> str:
        return f"<program {self.name}{self._signature}>"

    @property
    def is_async(self) -> bool:
        """Whether it was written with `async def`."""
        return inspect.iscoroutinefunction(self._function)

    @property
    def signature(self) -> inspect.Signature:
        """The arguments that are still free."""
        free = [p for p in self._signature.parameters.values() if p.name not in self._bound]
        return inspect.Signature(free)

    # variants

    def bind(self, **args: Any) -> Program[..., R]:
        """The program with some arguments fixed."""
        self._check_names(args)
        return Program(self._function, self._options, {**self._bound, **args})

    def with_options(
        self,
        *,
        engine: Backend | None = None,
        seed: int | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
    ) -> Self:
        """The program on another engine, or with defaults for the generations that do not say.

        With a seed, each generation gets its own one derived from it, so a run can be repeated.
        """
        given = {"seed": seed, "temperature": temperature, "max_tokens": max_tokens}
        sampling_params(given, Options(), (), 0)  # refuses what is out of range
        old = self._options
        options = Options(
            engine=old.engine if engine is None else engine,
            seed=old.seed if seed is None else seed,
            temperature=old.temperature if temperature is None else temperature,
            max_tokens=old.max_tokens if max_tokens is None else max_tokens,
        )
        return cast(Self, Program(self._function, options, self._bound))

    # running

    def run(self, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """Run it and wait.  Raises what went wrong, with the variable's name as a note."""
        bound = self._arguments(args, kwargs)
        if self.is_async:
            return HOST.call(self._execute(bound, in_pool))
        caller = CallerThread()
        return caller.serve(HOST.submit(self._execute(bound, caller)))

    def arun(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, Run[R]]:
        """Run it on the caller's loop.  Cancelling the task stops its generations."""
        bound = self._arguments(args, kwargs)
        return self._execute(bound, in_pool if CURRENT.get() is None else in_own_thread)

    @overload
    def map(
        self,
        inputs: Iterable[Mapping[str, Any]],
        /,
        *,
        concurrency: int = ...,
        progress: bool = ...,
        return_exceptions: Literal[False] = ...,
    ) -> Iterator[Run[R]]: ...
    @overload
    def map(
        self,
        inputs: Iterable[Mapping[str, Any]],
        /,
        *,
        concurrency: int = ...,
        progress: bool = ...,
        return_exceptions: Literal[True],
    ) -> Iterator[Run[R] | Exception]: ...
    def map(
        self,
        inputs: Iterable[Mapping[str, Any]],
        /,
        *,
        concurrency: int = 64,
        progress: bool = False,
        return_exceptions: bool = False,
    ) -> Iterator[Run[R]] | Iterator[Run[R] | Exception]:
        """Run it for each row of arguments, up to `concurrency` at a time; runs in input order.

        Rows are taken from `inputs` as they are needed, in the caller's thread.  The first row
        that fails raises at its place and cancels the others; with `return_exceptions` its
        exception stands in its place.  `progress` counts on stderr.
        """
        worker = in_pool if CURRENT.get() is None else in_own_thread

        async def execute(row: Mapping[str, Any]) -> Run[R]:
            return await self._execute(self._arguments((), row), worker)

        return map_rows(
            execute,
            inputs,
            concurrency=concurrency,
            progress=sys.stderr if progress else None,
            return_exceptions=return_exceptions,
        )

    def stream(self, *args: P.args, **kwargs: P.kwargs) -> Iterator[Event]:
        """The run's events; the last is "done".  An error is an event and is then raised.
        Leaving the iterator early cancels the run."""
        return HOST.iterate(self._events(self._arguments(args, kwargs)))

    def astream(self, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[Event, None]:
        """`stream` on the caller's loop."""
        return self._events(self._arguments(args, kwargs))

    def __call__(self, state: State, *args: P.args, **kwargs: P.kwargs) -> Later[R]:
        """Use it inside another program, on that one's state and with that one's options."""
        if not isinstance(state, State):
            raise ProgramError(
                f"{self.name} was called with {type(state).__name__} in the place of a State",
                hint=f"{self.name}.run(...) runs it; inside another program, pass on its state",
            )
        recording = state._recording
        bound = self._arguments(args, kwargs)
        function = self._function

        async def in_thread() -> Any:
            return await in_own_thread(lambda: function(state, **bound))

        if recording.tracing:
            recording.reading.add(function)
        elif recording.on_loop and not self.is_async:
            return Later(recording, in_thread)
        result = function(state, **bound)
        if not self.is_async:
            return Later(recording, lambda: _done(result))
        if recording.on_loop or recording.tracing:
            return Later(recording, lambda: result)
        value = recording.wait_for(lambda: result)
        return Later(recording, lambda: _done(value))

    # compiling

    @overload
    def compile(self) -> Compiled[P, R]: ...
    @overload
    def compile(self, **static: Any) -> Compiled[..., R]: ...
    def compile(self, **static: Any) -> Compiled[..., R]:
        """Trace it into a plan and, where all of it is known, into IR; `static` arguments are
        known values.

        The function is called twice for it, with symbols in place of unknown values; what Python
        computes from anything else is fixed here.
        """
        self._check_names(static)
        return Compiled(
            self._function,
            self._options,
            self.name,
            self._signature,
            {**self._bound, **static},
        )

    # how

    async def _execute(
        self, bound: Mapping[str, Any], worker: Worker, emit: Emit | None = None
    ) -> Run[R]:
        return await run_function(self._function, bound, self._options, worker, emit)

    async def _events(self, bound: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
        events: asyncio.Queue[Event | None] = asyncio.Queue()
        worker = in_pool if CURRENT.get() is None else in_own_thread
        run = asyncio.create_task(self._execute(bound, worker, events.put_nowait))
        run.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            await run
        finally:
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)

    def _arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The function's arguments by name, defaults included."""
        return bind_arguments(self.name, self.signature, args, kwargs) | self._bound

    def _check_names(self, args: Mapping[str, Any]) -> None:
        for name in args:
            if name not in self._signature.parameters:
                raise ProgramError(f"{self.name} has no argument {name!r}")


async def _done(value: Any) -> Any:
    return value


@overload
def program(fn: Callable[Concatenate[State, P], Coroutine[Any, Any, R]]) -> Program[P, R]: ...
@overload
def program(fn: Callable[Concatenate[State, P], R]) -> Program[P, R]: ...
def program(fn: Callable[..., Any]) -> Program[..., Any]:
    """Make a program of a function whose first parameter is the `State`.

    With `async def`, values are awaited; with plain `def`, they are read by `.value`.
    """
    return Program(fn)
