"""The signs of JSON and the white space around them, in three styles.

Compact: none, as `json.dumps(x, separators=(",", ":"))`.  Pretty: a line break and up to 40 spaces
inside brackets and after commas, one space after colons.  Any: at each place where JSON allows it,
nothing, one space, or a line break and up to 40 spaces or tabs.  In every style `{}` and `[]` are
written without space.
"""

from __future__ import annotations

import json.encoder
from typing import Literal

from sgen.grammars.automata import Table, classes_of
from sgen.grammars.builder import Builder

Whitespace = Literal["compact", "pretty", "any"]

MAX_INDENT = 40

_quoted = json.encoder.encode_basestring


class Layout:
    """Nodes of a builder for what stands between the values of a JSON text.  `point_zero`: among
    these values, integers may be written as 1.0."""

    def __init__(
        self, builder: Builder, whitespace: Whitespace, *, point_zero: bool = False
    ) -> None:
        self._builder = builder
        self.compact = whitespace == "compact"
        self.point_zero = point_zero
        self._names: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        literal = builder.literal
        after: tuple[int, ...] = ()
        before: tuple[int, ...] = ()
        colon: tuple[int, ...] = ()
        if whitespace == "pretty":
            after = before = (builder.lexeme(("break",), _line_break()),)
        elif whitespace == "any":
            after = before = colon = (builder.lexeme(("space",), _any_space()),)
        comma_before = colon
        self.empty_object, self.empty_array = literal(b"{}"), literal(b"[]")
        self.open_object = builder.sequence((literal(b"{"), *after))
        self.open_array = builder.sequence((literal(b"["), *after))
        self.comma = builder.sequence((*comma_before, literal(b","), *after))
        self.colon = builder.sequence(
            (*colon, literal(b": " if whitespace == "pretty" else b":"), *colon)
        )
        self.close_object = builder.sequence((*before, literal(b"}")))
        self.close_array = builder.sequence((*before, literal(b"]")))

    def name(self, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What is read up to a member's value: if it is the first, and if it is a later one."""
        known = self._names.get(name)
        if known is None:
            known = self._names[name] = self._name(name)
        return known

    def _name(self, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        literal = self._builder.literal
        text = _quoted(name).encode()
        if self.compact:
            return (literal(b"{" + text + b":"),), (literal(b"," + text + b":"),)
        key = (literal(text), self.colon)
        return (self.open_object, *key), (self.comma, *key)

    def key(self, name: str) -> int:
        """A member's name and colon, without the sign before it."""
        text = _quoted(name).encode()
        if self.compact:
            return self._builder.literal(text + b":")
        return self._builder.sequence((self._builder.literal(text), self.colon))


def _line_break() -> Table:
    rows = [classes_of([(0x0A, 0x0A, 1)])]
    rows += [classes_of([(0x20, 0x20, i + 2)]) for i in range(MAX_INDENT)]
    return Table([*rows, classes_of([])], [False] + [True] * (MAX_INDENT + 1))


def _any_space() -> Table:
    """State 0 is the start, 1 after a space, 2 after a carriage return, 3 + i after i columns."""
    rows = [
        classes_of([(0x20, 0x20, 1), (0x0D, 0x0D, 2), (0x0A, 0x0A, 3)]),
        classes_of([]),
        classes_of([(0x0A, 0x0A, 3)]),
    ]
    rows += [classes_of([(0x20, 0x20, i + 4), (0x09, 0x09, i + 4)]) for i in range(MAX_INDENT)]
    return Table([*rows, classes_of([])], [True, True, False] + [True] * (MAX_INDENT + 1))
