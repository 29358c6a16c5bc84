"""Turns a program's function into IR by calling it with symbols for its arguments.

The function is called twice, with marks of different widths for what is not known, and only what
both calls agree on is believed: a program that looks at the length of a text, or at a clock or
dice, is found out.  What a call cannot show at all (an `except` that would catch a failing
generation, `is`, `type()`, a look at a text) is read from the function's code.  In all of these
cases the nodes up to the difference are known, and `note` says why the rest is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import CoroutineType
from typing import Any

from sgen.frontend import ir
from sgen.frontend.lanes import Decode
from sgen.frontend.markers import Markers
from sgen.frontend.recording import CURRENT, Options, Recording, TraceStop
from sgen.frontend.refs import Ref
from sgen.frontend.state import State
from sgen.frontend.symbols import Symbol, symbol_result

_WIDTHS = (1024, 32768)


@dataclass(frozen=True)
class Trace:
    """What a program does, as far as that is known without values.

    `note` is empty when all of it is known, and `result` is there then.
    """

    nodes: tuple[ir.Node, ...]
    decoders: Mapping[int, Decode]
    result: ir.Result | None
    note: str


def trace(
    function: Callable[..., Any], args: Mapping[str, Any], symbolic: list[str], options: Options
) -> Trace:
    """Trace a function; `args` are the arguments that are known, `symbolic` the others."""
    short, wide = (_trace_once(function, args, symbolic, options, w) for w in _WIDTHS)
    same = 0
    for a, b in zip(short.nodes, wide.nodes, strict=False):
        if a != b:
            break
        same += 1
    if same < max(len(short.nodes), len(wide.nodes)) or short.result != wide.result:
        why = "two traces differ: it looks at a text that holds a value, or at chance or time"
        known = short.note or wide.note
        return Trace(short.nodes[:same], short.decoders, None, f"{why}; {known}" if known else why)
    return short


def _trace_once(
    function: Callable[..., Any],
    args: Mapping[str, Any],
    symbolic: list[str],
    options: Options,
    width: int,
) -> Trace:
    recording = Recording(options, markers=Markers(width))
    recording.reading.add(function)
    arguments = dict(args)
    for value in args.values():
        recording.reading.found(value, "an argument")
    for name in symbolic:
        what = f"the argument {name!r}"
        arguments[name] = Symbol(recording, what, ir.Arg(name), ir.ArgOf(name))
    token = CURRENT.set(recording)
    result: ir.Result | None = None
    note = ""
    try:
        value = function(State(recording, ir.ROOT), **arguments)
        if type(value) is CoroutineType:
            value = recording.drive(value)
        recording.check_messages()
        result = _result(value, recording)
    except TraceStop:
        note = recording.stopped
    except Exception as error:  # the program's own, met again when it is run
        note = f"calling it without values raised {type(error).__name__}: {error}"
    finally:
        CURRENT.reset(token)
    if not note and recording.reading.note:
        note, result = recording.reading.note, None
    return Trace(tuple(recording.nodes), recording.decoders, result, note)


def _result(value: Any, recording: Recording) -> ir.Result:
    if type(value) is Symbol:
        return symbol_result(value)
    if isinstance(value, Ref):
        return ir.ValueOf(value._var)
    if type(value) is str:
        pieces = recording.pieces(value)
        if any(not isinstance(p, ir.Lit) for p in pieces):
            return ir.TextOf(pieces)
        return ir.Constant(value)
    if type(value) in (list, tuple):
        items = tuple(_result(item, recording) for item in value)
        return ir.ListOf(items, fixed=type(value) is tuple)
    if type(value) is dict and all(type(key) is str for key in value):
        for key in value:
            recording.refuse_marks(key, "a key of its result")
        return ir.DictOf({key: _result(item, recording) for key, item in value.items()})
    if value is None or type(value) is bool:
        return ir.Constant(value)
    if type(value) is int and -(2**63) <= value < 2**63:
        return ir.Constant(value)
    if type(value) is float and math.isfinite(value):
        return ir.Constant(value)
    raise recording.halted(f"it makes a {type(value).__name__} for its result")
