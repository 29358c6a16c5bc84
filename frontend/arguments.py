"""The arguments of a program: its function's parameters after the `State`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from sgen.errors import ProgramError

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def program_signature(function: Callable[..., Any], name: str) -> inspect.Signature:
    """The signature without the `State`; ProgramError if a program cannot have it."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ProgramError(f"{name}: a program returns its result, it cannot yield")
    if not inspect.isfunction(function):
        raise ProgramError(f"a program is made of a function, not of {name}")
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
        raise ProgramError(
            f"{name}: a program's first parameter is its State",
            hint="write `def name(s: sgen.State, ...)`",
        )
    for parameter in parameters[1:]:
        if parameter.kind not in _NAMED:
            raise ProgramError(f"{name}: the argument {parameter} has no name of its own")
    return inspect.Signature(parameters[1:])


def bind_arguments(
    name: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments by name, defaults included.  ProgramError if they do not fit."""
    if not isinstance(kwargs, Mapping):
        raise ProgramError(f"{name}: a row is a dict of arguments, not {type(kwargs).__name__}")
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    unknown = [] if takes_any else [k for k in kwargs if k not in signature.parameters]
    if unknown:
        raise ProgramError(
            f"{name} has no argument {unknown[0]!r}", hint=f"its arguments are {signature}"
        )
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ProgramError(f"{name}: {error}", hint=f"its arguments are {signature}") from None
    bound.apply_defaults()
    return dict(bound.arguments)
