"""What a trace gives a program in place of values: arguments, and the values of refs.

A `Symbol` can be put into text and into the result, for both are recorded.  Everything else that
Python could do with it (compare, call, iterate, ask its class) ends the trace: its outcome would
depend on the value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from sgen.frontend import ir
from sgen.frontend.recording import Recording


class Symbol:
    """Stands for a value in one trace.

    `piece` is how it reads in a text, None where its text would not be what was generated;
    `result` is how it stands in the program's result.
    """

    __slots__ = ("_piece", "_recording", "_result", "_what")

    def __init__(
        self,
        recording: Recording,
        what: str,
        piece: ir.Arg | ir.Var | None,
        result: ir.Result | None = None,
    ) -> None:
        self._recording = recording
        self._what = what
        self._piece = piece
        self._result = result

    def __str__(self) -> str:
        return _mark(self, text=False)

    def __format__(self, spec: str) -> str:
        if spec:
            _stop(self, f"formats with {spec!r}")
        return _mark(self, text=False)

    def __getitem__(self, key: Any) -> Symbol:
        if type(self._piece) is not ir.Arg or type(key) not in (str, int):
            _stop(self, "indexes")
        arg = ir.Arg(self._piece.name, (*self._piece.path, key))
        what = f"{self._what}[{key!r}]"
        return Symbol(self._recording, what, arg, ir.ArgOf(arg.name, arg.path))

    def __add__(self, other: Any) -> str:
        if type(other) is not str:
            _stop(self, "adds to")
        return symbol_text(self) + other

    def __radd__(self, other: Any) -> str:
        if type(other) is not str:
            _stop(self, "adds")
        return other + symbol_text(self)

    def __getattr__(self, name: str) -> NoReturn:
        _stop(self, f"reads .{name} of")

    if not TYPE_CHECKING:  # isinstance asks for it

        @property
        def __class__(self):
            _stop(self, "asks for the type of")

    def __eq__(self, other: object) -> NoReturn:
        _stop(self, "compares")

    __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __eq__

    def __hash__(self) -> NoReturn:
        _stop(self, "looks up")

    def __bool__(self) -> NoReturn:
        _stop(self, "decides by")

    def __len__(self) -> NoReturn:
        _stop(self, "takes the length of")

    def __iter__(self) -> NoReturn:
        _stop(self, "iterates over")

    def __contains__(self, item: object) -> NoReturn:
        _stop(self, "searches in")

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        _stop(self, "calls")

    def __repr__(self) -> NoReturn:
        _stop(self, "takes the repr of")


def symbol_text(symbol: Symbol) -> str:
    """The symbol where only a string can stand: its mark."""
    return _mark(symbol, text=True)


def symbol_result(symbol: Symbol) -> ir.Result:
    """The symbol as a part of the result."""
    if symbol._result is None:
        if symbol._piece is None:
            _stop(symbol, "returns")
        return ir.TextOf((symbol._piece,))
    return symbol._result


def _mark(symbol: Symbol, *, text: bool) -> str:
    piece, recording = symbol._piece, symbol._recording
    recording.check_open()
    if piece is None:
        _stop(symbol, "makes text of")
    if type(piece) is ir.Arg:
        return recording.place(ir.Arg(piece.name, piece.path, text))
    assert type(piece) is ir.Var
    return recording.markers.mark("v", piece.var)


def _stop(symbol: Symbol, how: str) -> NoReturn:
    raise symbol._recording.halted(f"Python {how} {symbol._what}")
