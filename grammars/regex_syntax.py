"""Regular expressions as trees, and how trees are put together.

The constructors `concat`, `either` and `many` leave out what matches nothing, join sets of single
characters, and drop repetitions inside repetitions where that changes no text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sgen.grammars import charset
from sgen.grammars.charset import SCALARS, Ranges


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of a set; an empty set matches nothing."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Concat:
    items: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Either:
    items: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Many:
    """`item` from `low` to `high` times; None: without end."""

    item: Tree
    low: int
    high: int | None


@dataclass(frozen=True, slots=True)
class Anchor:
    """The start (`^`) or the end (`$`) of the text."""

    at_start: bool
    position: int


@dataclass(frozen=True, slots=True)
class Look:
    """A condition on the text after this place or, if not `ahead`, before it."""

    item: Tree
    ahead: bool
    negative: bool
    position: int


Tree = Chars | Concat | Either | Many | Anchor | Look

NOTHING = Chars(())
"""Matches no text."""

EMPTY = Concat(())
ANY = Many(Chars(SCALARS), 0, None)
"""Any text."""


def literal(text: str) -> Tree:
    return concat(Chars(charset.single(c)) for c in text)


def concat(items: Iterable[Tree]) -> Tree:
    """One after the other."""
    found: list[Tree] = []
    for item in items:
        if item == NOTHING:
            return NOTHING
        if isinstance(item, Concat):
            found += item.items
        elif not (item == ANY and found[-1:] == [ANY]):
            found.append(item)
    return found[0] if len(found) == 1 else Concat(tuple(found))


def either(items: Iterable[Tree]) -> Tree:
    """One of them."""
    found: dict[Tree, None] = {}
    sets: list[Ranges] = []
    for item in items:
        for part in item.items if isinstance(item, Either) else (item,):
            if isinstance(part, Chars):
                sets.append(part.ranges)
            else:
                found[part] = None
    joined = charset.union(*sets)
    parts = [*([Chars(joined)] if joined else []), *found]
    if not parts:
        return NOTHING
    return parts[0] if len(parts) == 1 else Either(tuple(parts))


def many(item: Tree, low: int, high: int | None) -> Tree:
    """From `low` to `high` times."""
    if (low, high) == (1, 1):
        return item
    if high == 0 or item == EMPTY:
        return EMPTY
    if item == NOTHING:
        return NOTHING if low else EMPTY
    if isinstance(item, Many) and item.low <= 1 and item.high is None and low <= 1:
        return Many(item.item, item.low * low, None)
    return Many(item, low, high)
