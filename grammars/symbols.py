"""Trees as automata over symbols: classes of characters that no set in sight tells apart.

Positions are those of V. Glushkov, "The abstract theory of automata" (1961): one for each single
character in the tree, counted repetitions written out.  A state is what may come next: the
positions that can be read, as the bits of an int, and below them whether the text may end.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import pairwise

from sgen.errors import GrammarError
from sgen.grammars.charset import SCALARS, Ranges, normal
from sgen.grammars.regex_syntax import Anchor, Chars, Concat, Either, Look, Many, Tree
from sgen.grammars.work import Work

MAX_SYMBOLS = 255
MAX_POSITIONS = 10_000


class Alphabet:
    """A partition of the characters; symbols are the numbers of its parts."""

    def __init__(self, sets: Iterable[Ranges]) -> None:
        """GrammarError if `sets` need more than MAX_SYMBOLS symbols."""
        self._numbers = {SCALARS: 0}
        for ranges in sets:
            self._numbers.setdefault(ranges, len(self._numbers))
        changes: dict[int, int] = {}
        for ranges, number in self._numbers.items():
            for low, high in ranges:
                changes[low] = changes.get(low, 0) ^ 1 << number
                changes[high + 1] = changes.get(high + 1, 0) ^ 1 << number
        self._starts = sorted(changes)
        parts: dict[int, list[tuple[int, int]]] = {}
        signatures = []
        inside = 0
        for low, after in pairwise(self._starts):
            inside ^= changes[low]
            signatures.append(inside)
            if inside:
                parts.setdefault(inside, []).append((low, after - 1))
        if len(parts) > MAX_SYMBOLS:
            raise GrammarError(
                f"patterns that tell more than {MAX_SYMBOLS} kinds of characters apart",
                keyword="pattern",
                hint="use fewer different characters, or fewer patterns for one string",
            )
        self._signatures = tuple(parts)
        number_of = {signature: number for number, signature in enumerate(parts)}
        self._symbol_at = [number_of.get(signature, 0) for signature in signatures]
        self._parts = tuple(parts.values())
        self.size = len(parts)

    def of(self, ranges: Ranges) -> list[int]:
        """The symbols of one of the sets."""
        bit = 1 << self._numbers[ranges]
        return [s for s, signature in enumerate(self._signatures) if signature & bit]

    def symbol(self, code: int) -> int:
        """The symbol of a character."""
        return self._symbol_at[bisect_right(self._starts, code) - 1]

    def characters(self, symbols: Iterable[int]) -> Ranges:
        return normal(pair for symbol in symbols for pair in self._parts[symbol])

    def within(self, coarser: Alphabet) -> bytes:
        """By symbol, that of an alphabet with fewer sets."""
        return bytes(coarser.symbol(part[0][0]) for part in self._parts)


class Positions:
    """The automaton of an anchorless tree over its own alphabet; state 0 is the one from which
    nothing is accepted.  Rows are kept, so it may serve several languages."""

    def __init__(self, tree: Tree) -> None:
        """GrammarError if it has more than MAX_POSITIONS positions."""
        if _count(tree) > MAX_POSITIONS:
            raise GrammarError(
                f"repetitions that come to more than {MAX_POSITIONS:,} characters when written out",
                keyword="quantifier",
                hint="lower their counts, or do not combine the pattern with others",
            )
        self.alphabet = Alphabet(sets_of(tree))
        self._follow = [0]
        self._masks = [0] * self.alphabet.size  # by symbol: the positions that read it
        self._symbols: dict[Ranges, list[int]] = {}
        nullable, first, self._last = self._add(tree)
        self.start = first << 1 | nullable
        self._rows: dict[int, tuple[bytes, tuple[int, ...], int]] = {}
        self._after: dict[int, tuple[int, int]] = {0: (0, 0)}
        # What one row, and one position of a state, takes beside that of a small tree.
        self.size = len(self._follow)
        self._cost = self.size * self.alphabet.size // 10_000
        self._weight = 1 + self.size // 4_000

    def _add(self, tree: Tree) -> tuple[bool, int, int]:
        """Whether the tree matches the empty text, and the positions it begins and ends with."""
        if isinstance(tree, Chars):
            return self._add_set(tree.ranges)
        if isinstance(tree, Either):
            parts = [self._add(item) for item in tree.items]
            nullable, first, last = False, 0, 0
            for part in parts:
                nullable, first, last = nullable or part[0], first | part[1], last | part[2]
            return nullable, first, last
        if isinstance(tree, Many):
            return self._add_rounds(tree)
        assert isinstance(tree, Concat), "conditions have been resolved"
        nullable, first, last = True, 0, 0
        for item in tree.items:
            empty, begin, end = self._add(item)
            self._connect(last, begin)
            first = first | begin if nullable else first
            last = end | last if empty else end
            nullable = nullable and empty
        return nullable, first, last

    def _add_set(self, ranges: Ranges) -> tuple[bool, int, int]:
        if not ranges:
            return False, 0, 0
        symbols = self._symbols.get(ranges)
        if symbols is None:
            symbols = self._symbols[ranges] = self.alphabet.of(ranges)
        bit = 1 << len(self._follow)
        self._follow.append(0)
        for symbol in symbols:
            self._masks[symbol] |= bit
        return False, bit, bit

    def _add_rounds(self, tree: Many) -> tuple[bool, int, int]:
        """A round is only begun where the one before it ended; an end without a next round may
        be the last from the least number on."""
        rounds = max(tree.low, 1) if tree.high is None else tree.high
        nullable, first, last, before = tree.low == 0, 0, 0, 0
        for i in range(rounds):
            empty, begin, end = self._add(tree.item)
            self._connect(before, begin)
            if i == 0:
                first, nullable = begin, nullable or empty
            if i + 1 >= tree.low or empty:
                last |= end
            before = end
        if tree.high is None:
            self._connect(before, begin)
        return nullable, first, last

    def _connect(self, ends: int, begin: int) -> None:
        while ends and begin:
            low = ends & -ends
            self._follow[low.bit_length() - 1] |= begin
            ends ^= low

    def row(self, state: int, work: Work) -> tuple[bytes, tuple[int, ...]]:
        """256 class numbers, one for each symbol and zeros after them, and the state after each
        class: 0 after class 0."""
        row = self._rows.get(state)
        if row is None:
            row = self._rows[state] = self._make_row(state >> 1)
        work.spend(row[2])
        return row[:2]

    def _make_row(self, reached: int) -> tuple[bytes, tuple[int, ...], int]:
        classes = bytearray(256)
        number = {0: 0}
        steps = 1 + self._cost
        for symbol, mask in enumerate(self._masks):
            positions = reached & mask
            if positions:
                after = self._after.get(positions)
                if after is None:
                    after = self._after[positions] = self._read(positions)
                steps += after[1]
                classes[symbol] = number.setdefault(after[0], len(number))
        return bytes(classes), tuple(number), steps

    def _read(self, positions: int) -> tuple[int, int]:
        """The state once one of some positions has been read, and the work to find it."""
        following, rest, follow = 0, positions, self._follow
        while rest:
            low = rest & -rest
            following |= follow[low.bit_length() - 1]
            rest ^= low
        steps = positions.bit_count() * self._weight // 16
        return following << 1 | (positions & self._last != 0), steps

    def accepts(self, state: int) -> bool:
        return state & 1 == 1


@lru_cache(maxsize=16)
def positions(tree: Tree) -> Positions:
    """The automaton of a tree, made once."""
    return Positions(tree)


def sets_of(tree: Tree) -> Iterator[Ranges]:
    """The sets of characters in an anchorless tree."""
    assert not isinstance(tree, Anchor | Look), "conditions have been resolved"
    if isinstance(tree, Chars):
        yield tree.ranges
        return
    for item in (tree.item,) if isinstance(tree, Many) else tree.items:
        yield from sets_of(item)


def _count(tree: Tree) -> int:
    if isinstance(tree, Chars):
        return 1
    if isinstance(tree, Many):
        return _count(tree.item) * (max(tree.low, 1) if tree.high is None else tree.high)
    assert isinstance(tree, Concat | Either), "conditions have been resolved"
    return sum(map(_count, tree.items))
