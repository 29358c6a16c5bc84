"""How characters are written in bytes: plain UTF-8, or inside a JSON string.

A set of characters becomes a small acyclic automaton over bytes.  Inside a JSON string a
character may be plain (RFC 8259: not a control character, quote or backslash), a short escape,
or `\\uXXXX`, as a surrogate pair outside the basic plane.  The canonical way, in which every text
has one spelling, escapes only what must be, as Python's `json.dumps(x, ensure_ascii=False)`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

from sgen.grammars.automata import END_ROW, Row, classes_of
from sgen.grammars.charset import Ranges, difference, intersection, normal

Style = Literal["utf8", "json", "canonical"]

Step = tuple[tuple[int, int], ...]
"""The bytes that may stand at one place, as ranges."""

ESCAPED: Ranges = normal([(0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C)])
_SHORT = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_UTF8_SHIFTS = (6, 12, 18)
_HEX_SHIFTS = (4, 8, 12)


def _aligned(low: int, high: int, shifts: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Split a range so that in each piece every digit varies freely between its two ends."""
    for shift in shifts:
        mask = (1 << shift) - 1
        if low >> shift == high >> shift:
            break
        if low & mask:
            yield from _aligned(low, low | mask, shifts)
            yield from _aligned((low | mask) + 1, high, shifts)
            return
        if high & mask != mask:
            yield from _aligned(low, (high & ~mask) - 1, shifts)
            yield from _aligned(high & ~mask, high, shifts)
            return
    yield low, high


def _plain(ranges: Ranges) -> Iterator[tuple[Step, ...]]:
    """UTF-8 byte sequences."""
    for first, last in ((0, 0x7F), (0x80, 0x7FF), (0x800, 0xFFFF), (0x10000, 0x10FFFF)):
        for low, high in intersection(ranges, ((first, last),)):
            for a, b in _aligned(low, high, _UTF8_SHIFTS):
                ends = zip(chr(a).encode(), chr(b).encode(), strict=True)
                yield tuple(((x, y),) for x, y in ends)


def _unit(low: int, high: int) -> Iterator[tuple[Step, ...]]:
    r"""`\uXXXX` for the UTF-16 code units from `low` to `high`, in either case."""
    for a, b in _aligned(low, high, _HEX_SHIFTS):
        digits = []
        for shift in (12, 8, 4, 0):
            x, y = a >> shift & 15, b >> shift & 15
            step = []
            if x <= 9:
                step.append((0x30 + x, 0x30 + min(y, 9)))
            if y >= 10:
                step.append((0x37 + max(x, 10), 0x37 + y))
                step.append((0x57 + max(x, 10), 0x57 + y))
            digits.append(tuple(step))
        yield (((0x5C, 0x5C),), ((0x75, 0x75),), *digits)


def _canonical(ranges: Ranges) -> Iterator[tuple[Step, ...]]:
    """The one way in which `json.dumps` writes each character."""
    yield from _plain(difference(ranges, ESCAPED))
    for low, high in intersection(ranges, ESCAPED):
        yield from map(_escape, range(low, high + 1))


@lru_cache(maxsize=64)
def _escape(code: int) -> tuple[Step, ...]:
    text = json.dumps(chr(code))[1:-1].encode()
    return tuple(((byte, byte),) for byte in text)


def _quoted(ranges: Ranges) -> Iterator[tuple[Step, ...]]:
    """All ways to write a character inside a JSON string."""
    yield from _plain(difference(ranges, ESCAPED))
    for letter, char in _SHORT.items():
        if intersection(ranges, ((ord(char), ord(char)),)):
            yield ((0x5C, 0x5C),), ((ord(letter), ord(letter)),)
    for low, high in intersection(ranges, ((0, 0xFFFF),)):
        yield from _unit(low, high)
    for low, high in intersection(ranges, ((0x10000, 0x10FFFF),)):
        for a, b in _aligned(low - 0x10000, high - 0x10000, (10,)):
            for lead in _unit(0xD800 + (a >> 10), 0xD800 + (b >> 10)):
                for trail in _unit(0xDC00 + (a & 0x3FF), 0xDC00 + (b & 0x3FF)):
                    yield lead + trail


_SEQUENCES = {"utf8": _plain, "json": _quoted, "canonical": _canonical}


class Character:
    """One character of a set, as bytes.  State 0 is the end; the automaton has no loops."""

    def __init__(self, ranges: Ranges, style: Style) -> None:
        self._rows: list[Row] = [END_ROW]
        self._distances = [0]
        self._numbers: dict[tuple[tuple[Step, int], ...], int] = {}
        sequences = sorted(_SEQUENCES[style](ranges))
        self.start = self._state(sequences, 0)

    def _state(self, sequences: list[tuple[Step, ...]], depth: int) -> int:
        """The state that reads what `sequences`, sorted and alike so far, have from `depth`."""
        if len(sequences) == 1 and len(sequences[0]) == depth:
            return 0
        branches: list[tuple[Step, int]] = []
        i = 0
        while i < len(sequences):
            first = i
            step = sequences[i][depth]
            while i < len(sequences) and sequences[i][depth] == step:
                i += 1
            branches.append((step, self._state(sequences[first:i], depth + 1)))
        key = tuple(branches)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._rows)
            edges = [(low, high, target) for step, target in branches for low, high in step]
            self._rows.append(classes_of(edges))
            self._distances.append(1 + min(self._distances[target] for _, target in branches))
        return number

    @property
    def num_states(self) -> int:
        return len(self._rows)

    def row(self, state: int) -> Row:
        return self._rows[state]

    def accepts(self, state: int) -> bool:
        return state == 0

    def live(self, state: int) -> bool:
        return state != 0

    def distance(self, state: int) -> int:
        return self._distances[state]

    def weight(self, state: int) -> int:
        return 1


@lru_cache(maxsize=512)
def character(ranges: Ranges, style: Style) -> Character:
    """The automaton of a non-empty set; equal sets share one, for it never changes."""
    assert ranges, "an empty set has no automaton"
    return Character(ranges, style)
