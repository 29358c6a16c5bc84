"""Automata over bytes: what they share, words and sets of words, and products.

A row is a class for each of the 256 byte values and a target state for each class; class 0 means
that the byte cannot follow.  Rows of different states share their class maps, so combining rows
costs as much as they have distinct targets.  Every state of every automaton can still reach an
accepting one: there are no traps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Protocol

from sgen.errors import GrammarError
from sgen.grammars.work import Work

DEAD = -1

Classes = bytes
"""256 class numbers, one for each byte value; 0: the byte cannot follow."""

Row = tuple[Classes, tuple[int, ...]]
"""A class map and the target of each class; only class 0 stands for no target, DEAD."""

NO_BYTE: Classes = bytes(256)
END_ROW: Row = (NO_BYTE, (DEAD,))


class Automaton(Protocol):
    """A deterministic automaton over bytes, its states numbered, its rows made when asked for."""

    @property
    def start(self) -> int: ...

    def row(self, state: int) -> Row: ...

    def accepts(self, state: int) -> bool:
        """Whether the bytes so far are a word."""

    def live(self, state: int) -> bool:
        """Whether any byte can follow."""

    def distance(self, state: int) -> int:
        """The least number of bytes from here to the end of a word."""

    def weight(self, state: int) -> int:
        """How many rows the row of a state is made of."""


@lru_cache(maxsize=4096)
def combine(maps: tuple[Classes, ...]) -> tuple[Classes, tuple[tuple[int, ...], ...]]:
    """The coarsest classes finer than all of `maps`, and which class of each map each one is.

    Entry 0 of the result stands for bytes that are in class 0 everywhere.
    """
    nothing = (0,) * len(maps)
    number = {nothing: 0}
    out = bytearray(256)
    for byte, key in enumerate(zip(*maps, strict=True)):
        if key != nothing:
            out[byte] = number.setdefault(key, len(number))
    return bytes(out), tuple(number)


def classes_of(edges: Iterable[tuple[int, int, int]]) -> Row:
    """The row of (first byte, last byte, target) edges; they must not overlap."""
    out = bytearray(256)
    number: dict[int, int] = {}
    for low, high, target in edges:
        out[low : high + 1] = bytes([number.setdefault(target, len(number) + 1)]) * (high - low + 1)
    return _shared(bytes(out)), (DEAD, *number)


@lru_cache(maxsize=4096)
def _shared(classes: Classes) -> Classes:
    """One object for equal class maps: their hash is then computed once."""
    return classes


def without_dead(row: Row) -> Row:
    """The row with class 0 for every byte whose target is DEAD."""
    classes, targets = row
    kept = bytes(k if target != DEAD else 0 for k, target in enumerate(targets))
    return _shared(classes.translate(kept.ljust(256, b"\0"))), targets


def run(automaton: Automaton, word: bytes, work: Work | None = None) -> bool:
    """Whether `word` is accepted; each step is counted as `work`."""
    state = automaton.start
    for byte in word:
        if work is not None:
            work.spend(automaton.weight(state))
        classes, targets = automaton.row(state)
        state = targets[classes[byte]]
        if state == DEAD:
            return False
    return automaton.accepts(state)


@lru_cache(maxsize=256)
def _only(byte: int) -> Classes:
    return bytes(byte) + b"\1" + bytes(255 - byte)


class Literal:
    """One word; a state is how far it has been read.  It never changes, so machines share it."""

    def __init__(self, word: bytes) -> None:
        self.word = word
        self.start = 0

    def row(self, state: int) -> Row:
        if state == len(self.word):
            return END_ROW
        return _only(self.word[state]), (DEAD, state + 1)

    def accepts(self, state: int) -> bool:
        return state == len(self.word)

    def live(self, state: int) -> bool:
        return state < len(self.word)

    def distance(self, state: int) -> int:
        return len(self.word) - state

    def weight(self, state: int) -> int:
        return 1


class Words:
    """A finite set of words.  A state is a range of the sorted words and a depth into them."""

    def __init__(self, words: Iterable[bytes]) -> None:
        self.words = tuple(sorted(set(words)))
        assert self.words, "a set without words has no live start"
        self._states: list[tuple[int, int, int]] = []
        self._distance: list[int] = []
        self._numbers: dict[tuple[int, int, int], int] = {}
        self._rows: dict[int, Row] = {}
        self.start = self._number(0, len(self.words), 0)

    def _number(self, low: int, high: int, depth: int) -> int:
        key = (low, high, depth)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._states)
            self._states.append(key)
            self._distance.append(min(len(self.words[i]) for i in range(low, high)) - depth)
        return number

    def row(self, state: int) -> Row:
        row = self._rows.get(state)
        if row is None:
            low, high, depth = self._states[state]
            edges = []
            i = low + self.accepts(state)
            while i < high:
                byte = self.words[i][depth]
                first = i
                while i < high and self.words[i][depth] == byte:
                    i += 1
                edges.append((byte, byte, self._number(first, i, depth + 1)))
            row = self._rows[state] = classes_of(edges)
        return row

    def accepts(self, state: int) -> bool:
        low, _, depth = self._states[state]
        return len(self.words[low]) == depth

    def live(self, state: int) -> bool:
        low, high, _ = self._states[state]
        return high - low > 1 or not self.accepts(state)

    def distance(self, state: int) -> int:
        return self._distance[state]

    def weight(self, state: int) -> int:
        return 1


class Without:
    """An automaton less a finite set of words.

    From every state of the automaton infinitely many words must follow, except after its end; so
    taking some away leaves no trap.
    """

    def __init__(self, automaton: Automaton, words: Words) -> None:
        self.automaton = automaton
        self.words = words
        self._states: list[tuple[int, int]] = []
        self._numbers: dict[tuple[int, int], int] = {}
        self._rows: dict[int, Row] = {}
        self._distances: dict[int, int] = {}
        self.start = self._number((automaton.start, words.start))

    def _number(self, pair: tuple[int, int]) -> int:
        number = self._numbers.get(pair)
        if number is None:
            number = self._numbers[pair] = len(self._states)
            self._states.append(pair)
        return number

    def row(self, state: int) -> Row:
        row = self._rows.get(state)
        if row is None:
            row = self._rows[state] = self._make_row(*self._states[state])
        return row

    def _make_row(self, state: int, word: int) -> Row:
        classes, targets = self.automaton.row(state)
        if word == DEAD:
            return classes, tuple(t if t == DEAD else self._number((t, DEAD)) for t in targets)
        word_classes, word_targets = self.words.row(word)
        both, parts = combine((classes, word_classes))
        numbered = []
        for i, j in parts:
            target, after = targets[i], word_targets[j]
            taken = target == DEAD or (
                after != DEAD and not self.automaton.live(target) and self.words.accepts(after)
            )
            numbered.append(DEAD if taken else self._number((target, after)))
        return without_dead((both, tuple(numbered)))

    def accepts(self, state: int) -> bool:
        inner, word = self._states[state]
        return self.automaton.accepts(inner) and (word == DEAD or not self.words.accepts(word))

    def live(self, state: int) -> bool:
        return self.automaton.live(self._states[state][0])

    def distance(self, state: int) -> int:
        """By a search that ends soon: off the words, the automaton's own distance holds."""
        known = self._distances.get(state)
        if known is not None:
            return known
        best, steps, level, seen = 1 << 40, 0, [state], {state}
        while level and steps < best:
            following = []
            for number in level:
                inner, word = self._states[number]
                if word == DEAD or self.accepts(number):
                    best = min(best, steps + self.automaton.distance(inner))
                    continue
                following += [t for t in self.row(number)[1] if t != DEAD and t not in seen]
                seen.update(following)
            level, steps = following, steps + 1
        self._distances[state] = best
        return best

    def weight(self, state: int) -> int:
        return 1 + self.automaton.weight(self._states[state][0])


class Table:
    """An automaton written out in full, without the states that can reach no end."""

    def __init__(self, rows: Sequence[Row], accepting: Sequence[bool], start: int = 0) -> None:
        """`rows` may have traps; the start must not be one."""
        distances = distances_of((targets for _, targets in rows), accepting)
        self.start = start
        self._accepting = accepting
        self._distances = distances
        self._rows = [
            without_dead((c, tuple(t if t != DEAD and distances[t] >= 0 else DEAD for t in ts)))
            for c, ts in rows
        ]
        self.empty = distances[start] < 0

    @property
    def num_states(self) -> int:
        return len(self._rows)

    def row(self, state: int) -> Row:
        return self._rows[state]

    def accepts(self, state: int) -> bool:
        return self._accepting[state]

    def live(self, state: int) -> bool:
        return self._rows[state][0] != NO_BYTE

    def distance(self, state: int) -> int:
        return self._distances[state]

    def weight(self, state: int) -> int:
        return 1


def distances_of(targets: Iterable[Iterable[int]], accepting: Sequence[bool]) -> list[int]:
    """Steps to the nearest accepting state, backwards from those; -1: no way there.

    `targets` [states]: where one step leads; DEAD is nowhere.
    """
    sources: list[list[int]] = [[] for _ in accepting]
    for state, found in enumerate(targets):
        for target in set(found):
            if target != DEAD:
                sources[target].append(state)
    distance = [0 if accepts else -1 for accepts in accepting]
    queue = deque(state for state, accepts in enumerate(accepting) if accepts)
    while queue:
        state = queue.popleft()
        for source in sources[state]:
            if distance[source] < 0:
                distance[source] = distance[state] + 1
                queue.append(source)
    return distance


def product(
    a: Automaton, b: Automaton, *, minus: bool, work: Work | None = None, limit: int = 20_000
) -> Table:
    """The words of `a` that are words of `b`, or, with `minus`, those that are not.

    Written out in full, since only then it is known which states can still reach an end; each
    state is counted as `work`.
    """
    pairs = [(a.start, b.start)]
    number = {pairs[0]: 0}
    rows: list[Row] = []
    accepting: list[bool] = []
    for left, right in pairs:  # grows while it is walked
        in_b = right != DEAD and b.accepts(right)
        accepting.append(a.accepts(left) and in_b != minus)
        if work is not None:
            work.spend(a.weight(left) + (b.weight(right) if right != DEAD else 0))
        left_classes, left_targets = a.row(left)
        right_classes, right_targets = b.row(right) if right != DEAD else END_ROW
        classes, parts = combine((left_classes, right_classes))
        targets = [DEAD]
        for i, j in parts[1:]:
            pair = (left_targets[i], right_targets[j])
            if pair[0] == DEAD or (pair[1] == DEAD and not minus):
                targets.append(DEAD)
                continue
            if pair not in number:
                if len(pairs) >= limit:
                    raise GrammarError(
                        f"two string constraints together need more than {limit} states",
                        keyword="pattern",
                        hint="drop one of them, or use shorter lengths",
                    )
                number[pair] = len(pairs)
                pairs.append(pair)
            targets.append(number[pair])
        rows.append((classes, tuple(targets)))
    return Table(rows, accepting)
