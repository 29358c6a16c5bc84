"""Turns a program's function into IR by calling it with symbols for its arguments.

The function is called twice, with marks of different widths for what is not known, and only what
both calls agree on is believed: a program that looks at the length of a text, or at a clock or
dice, is found out.  What a call cannot show at all (an `except` that would catch a failing
generation, `is`, `type()`) is read from the function's code.  In all of these cases the nodes up to
the difference are known, and `note` says why the rest is not.
"""

from __future__ import annotations

import dis
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, CoroutineType
from typing import Any

from sgen.frontend import ir
from sgen.frontend.lanes import Decode
from sgen.frontend.markers import Markers
from sgen.frontend.recording import CURRENT, Options, Recording, TraceStop
from sgen.frontend.refs import Ref
from sgen.frontend.state import State
from sgen.frontend.symbols import Symbol, symbol_result

_WIDTHS = (2048, 65536)

_UNSEEN_NAMES = {
    "type": "it calls type()",
    "id": "it calls id()",
    "callable": "it calls callable()",
    "suppress": "it suppresses errors",
}
_UNSEEN_OPS = {
    "CHECK_EXC_MATCH": "it has an except clause",
    "CHECK_EG_MATCH": "it has an except* clause",
    "IS_OP": "it compares by `is`",
    "MATCH_MAPPING": "it matches a mapping pattern",
    "MATCH_SEQUENCE": "it matches a sequence pattern",
}


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
        return Trace(short.nodes[:same], short.decoders, None, short.note or wide.note or why)
    return short


def _trace_once(
    function: Callable[..., Any],
    args: Mapping[str, Any],
    symbolic: list[str],
    options: Options,
    width: int,
) -> Trace:
    recording = Recording(options, markers=Markers(width))
    recording.unseen.extend(unseen(function))
    arguments = dict(args)
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
    if not note and recording.unseen:
        note, result = recording.unseen[0], None
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
        return ir.DictOf({key: _result(item, recording) for key, item in value.items()})
    if value is None or type(value) is bool:
        return ir.Constant(value)
    if type(value) is int and -(2**63) <= value < 2**63:
        return ir.Constant(value)
    if type(value) is float and math.isfinite(value):
        return ir.Constant(value)
    raise recording.halted(f"it makes a {type(value).__name__} for its result")


def unseen(function: Callable[..., Any]) -> list[str]:
    """What the function's own code does that a trace could not see."""
    found: list[str] = []
    for code in _codes(function.__code__):
        previous = ""
        for step in dis.get_instructions(code):
            name = step.opname
            if name in _UNSEEN_OPS:
                found.append(_UNSEEN_OPS[name])
            elif name.endswith("NONE") and name.startswith("POP_JUMP"):
                found.append("it compares with None")
            elif previous == "PUSH_EXC_INFO" and name == "POP_TOP":
                found.append(_UNSEEN_OPS["CHECK_EXC_MATCH"])
            elif name in ("LOAD_GLOBAL", "LOAD_ATTR", "LOAD_METHOD", "LOAD_DEREF"):
                globally = name == "LOAD_GLOBAL" or step.argval == "suppress"
                if globally and step.argval in _UNSEEN_NAMES:
                    found.append(_UNSEEN_NAMES[step.argval])
            previous = name
    return list(dict.fromkeys(found))


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
