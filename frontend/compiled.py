"""A program that was traced: its plan, its IR, and runs from the IR.

A run is the same as the program's own.  Where not all of the program is known, or the arguments
are not what the nodes can take, it is the program's own: the function is called.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Generic, ParamSpec, TypeVar

from sgen.errors import ProgramError
from sgen.frontend import ir
from sgen.frontend.arguments import bind_arguments
from sgen.frontend.bridge import HOST, in_own_thread, in_pool
from sgen.frontend.defaults import DEFAULT
from sgen.frontend.events import Run
from sgen.frontend.plan import Plan, make_plan
from sgen.frontend.recording import CURRENT, Options
from sgen.frontend.runs import argument_fault, run_function, run_ir
from sgen.frontend.tracing import trace

P = ParamSpec("P")
R = TypeVar("R")


class Compiled(Generic[P, R]):
    """A program with its plan."""

    def __init__(
        self,
        function: Callable[..., Any],
        options: Options,
        name: str,
        signature: inspect.Signature,
        static: Mapping[str, Any],
    ) -> None:
        self.name = name
        self._function = function
        self._options = options
        self._static = dict(static)
        free = [p for p in signature.parameters.values() if p.name not in static]
        self._signature = inspect.Signature(free)
        self._trace = trace(function, self._static, [p.name for p in free], options)
        params = tuple(p.name for p in free)
        self.plan: Plan = make_plan(name, params, self._trace.nodes, self._trace.note)

    @property
    def ir(self) -> ir.Program:
        """The whole program as data.  ProgramError if the plan does not know all of it."""
        if self._trace.result is None:
            raise ProgramError(
                f"{self.name} is not known as a whole: {self.plan.note}",
                hint="give the values that decide its course to compile(name=value)",
            )
        program = ir.Program(
            name=self.name,
            params=self.plan.params,
            nodes=self._trace.nodes,
            result=self._trace.result,
        )
        ir.validate(program)
        return program

    def run(self, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """Run it and wait."""
        return HOST.call(self.arun(*args, **kwargs))

    def arun(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, Run[R]]:
        """Run it on the caller's loop."""
        bound = bind_arguments(self.name, self._signature, args, kwargs)
        return self._execute(bound)

    async def _execute(self, bound: dict[str, Any]) -> Run[R]:
        if self._trace.result is None or not all(map(_plain, bound.values())):
            return await self._call(bound)
        program = self.ir
        if argument_fault(program, bound):
            return await self._call(bound)
        backend = self._options.engine or await DEFAULT.get()
        return await run_ir(program, bound, backend, self._trace.decoders)

    async def _call(self, bound: dict[str, Any]) -> Run[R]:
        worker = in_pool if CURRENT.get() is None else in_own_thread
        args = {**bound, **self._static}
        return await run_function(self._function, args, self._options, worker)


def _plain(value: object) -> bool:
    """Whether the value cannot have been meant by an `is` that the trace did not see."""
    return not (value is None or isinstance(value, (bool, enum.Enum, type)))
