"""One run from its start to its `Run`: of a program's function, or of its IR alone.

Whatever way a run ends, no request of it is open in the backend afterwards.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Mapping
from types import CoroutineType
from typing import Any

from sgen.errors import CancelledError, ProgramError
from sgen.frontend import ir
from sgen.frontend.bridge import Worker
from sgen.frontend.defaults import DEFAULT
from sgen.frontend.events import Event, Run
from sgen.frontend.executor import Emit, Executor, Terms
from sgen.frontend.lanes import Decode
from sgen.frontend.recording import CURRENT, Options, Recording
from sgen.frontend.refs import Ref
from sgen.frontend.state import State
from sgen.protocol import Backend

Function = Callable[..., Any]


async def run_function(
    function: Function,
    args: Mapping[str, Any],
    options: Options,
    worker: Worker,
    emit: Emit | None = None,
) -> Run[Any]:
    """Run a program by calling its function; one that is not async is called in `worker`."""
    backend = options.engine or await DEFAULT.get()
    executor = Executor(backend, loop=asyncio.get_running_loop(), emit=emit)
    recording = Recording(options, executor)

    async def body() -> Any:
        state = State(recording, ir.ROOT)
        if inspect.iscoroutinefunction(function):
            result = await function(state, **args)
        else:
            result = await worker(lambda: function(state, **args))
            if type(result) is CoroutineType:  # the function wraps an async one
                result = await result
        recording.check_messages()
        return await _resolve(result, recording)

    token = CURRENT.set(recording)
    try:
        return await _run(executor, body, emit, recording)
    finally:
        CURRENT.reset(token)


async def run_ir(
    program: ir.Program,
    args: Mapping[str, Any],
    backend: Backend,
    decoders: Mapping[int, Decode] | None = None,
    emit: Emit | None = None,
    terms: Terms | None = None,
) -> Run[Any]:
    """Run a validated program from its nodes.

    `decoders` turn the texts of variables into values; without them a value is the text or the
    JSON that the IR says it is.
    """
    missing = [name for name in program.params if name not in args]
    if missing:
        raise ProgramError(f"{program.name}: argument {missing[0]!r} is missing")
    _check_arguments(program, args)
    loop = asyncio.get_running_loop()
    executor = Executor(backend, loop=loop, args=args, emit=emit, terms=terms)

    async def body() -> Any:
        for node in program.nodes:
            decode = None
            if decoders is not None and isinstance(node, (ir.Gen, ir.Select)):
                decode = decoders.get(node.var)
            executor.feed(node, decode=decode)
        return await _evaluate(program.result, executor, args)

    return await _run(executor, body, emit)


def argument_fault(program: ir.Program, args: Mapping[str, Any]) -> str:
    """What keeps the arguments from standing where the program's nodes put them, if anything."""
    for arg in ir.arguments(program):
        try:
            value = ir.argument_value(args, arg.name, arg.path)
        except (LookupError, TypeError) as error:
            return f"argument {arg.name!r} has no part {list(arg.path)}: {error!r}"
        if arg.text and not isinstance(value, str):
            return f"argument {arg.name!r} must be text, not {type(value).__name__}"
    return ""


def _check_arguments(program: ir.Program, args: Mapping[str, Any]) -> None:
    fault = argument_fault(program, args)
    if fault:
        raise ProgramError(f"{program.name}: {fault}")


async def _run(
    executor: Executor,
    body: Callable[[], Awaitable[Any]],
    emit: Emit | None,
    recording: Recording | None = None,
) -> Run[Any]:
    start = time.perf_counter()
    try:
        output = await body()
        await executor.settle()
        executor.raise_unseen()
    except BaseException as error:
        if recording is not None:
            recording.close(CancelledError("the run was cancelled or failed"))
        await executor.close()
        if emit is not None:
            emit(Event("error", value=error))
        raise
    run = Run(
        output=output,
        text=executor.text(),
        vars=executor.variables(),
        usage=executor.usage,
        spans=executor.spans(),
        seconds=time.perf_counter() - start,
    )
    if recording is not None:
        recording.close(ProgramError("this run is over"))
    await executor.close()
    if emit is not None:
        emit(Event("done", value=run))
    return run


async def _resolve(value: Any, recording: Recording) -> Any:
    """What the program returned, with values in place of refs."""
    if isinstance(value, Ref):
        return await value
    if type(value) is str:
        pieces = recording.pieces(value)
        for piece in pieces:
            if isinstance(piece, ir.Var):
                await recording.executor.value(piece.var)
        return recording.executor.text_of(pieces)
    if type(value) in (list, tuple):
        return type(value)([await _resolve(item, recording) for item in value])
    if type(value) is dict:
        for key in value:
            if isinstance(key, str):
                recording.refuse_marks(key, "a key of the result")
        return {key: await _resolve(item, recording) for key, item in value.items()}
    return value


async def _evaluate(result: ir.Result, executor: Executor, args: Mapping[str, Any]) -> Any:
    match result:
        case ir.Constant():
            return result.value
        case ir.ValueOf():
            return await executor.value(result.var)
        case ir.ArgOf():
            return ir.argument_value(args, result.name, result.path)
        case ir.TextOf():
            for piece in result.pieces:
                if isinstance(piece, ir.Var):
                    await executor.value(piece.var)
            return executor.text_of(result.pieces)
        case ir.ListOf():
            items = [await _evaluate(item, executor, args) for item in result.items]
            return tuple(items) if result.fixed else items
        case ir.DictOf():
            return {k: await _evaluate(v, executor, args) for k, v in result.items.items()}
