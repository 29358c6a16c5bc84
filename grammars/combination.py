"""Boolean combinations of sets of strings, as one automaton over symbols.

The automata of all parts step together, and only states that are reached are made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

from sgen.errors import GrammarError
from sgen.grammars.automata import distances_of
from sgen.grammars.charset import Ranges
from sgen.grammars.regex_syntax import Tree
from sgen.grammars.symbols import Alphabet, positions, sets_of
from sgen.grammars.work import MAX_STEPS, Work

MAX_STATES = 20_000


@dataclass(frozen=True, slots=True)
class Language:
    """The strings of `low` to `high` characters that all `trees` match from end to end, that are
    among `words` (None: no such list), and that are in none of `without`."""

    low: int = 0
    high: int | None = None
    trees: tuple[Tree, ...] = ()
    words: frozenset[str] | None = None
    without: tuple[Language, ...] = ()


Row = tuple[bytes, tuple[int, ...]]
"""The class of each symbol, and the state after each class; 0, the one of class 0: nothing is
accepted from there."""


class _Part(NamedTuple):
    """An automaton among others.  `symbols`: by symbol, its own one, if it has others."""

    start: int
    row: Callable[[int], Row]
    accepts: Callable[[int], bool]
    symbols: bytes | None = None


class _Together:
    """The automata of a language's parts, which step together; states are numbered from 1."""

    def __init__(self, language: Language, alphabet: Alphabet, work: Work) -> None:
        self._low, self._high = language.low, language.high
        self._most = max(self._low, 0 if self._high is None else self._high + 1)
        self._size = alphabet.size
        self._work = work
        self._parts = [_tree_part(tree, alphabet, work) for tree in language.trees]
        if language.words is not None:
            self._parts.append(_whole_part(_Words(language.words, alphabet)))
        self._needed = len(self._parts)
        for other in language.without:
            if other == Language(trees=other.trees) and len(other.trees) == 1:
                self._parts.append(_tree_part(other.trees[0], alphabet, work))
            elif other == Language(words=other.words) and other.words is not None:
                self._parts.append(_whole_part(_Words(other.words, alphabet)))
            else:
                self._parts.append(_whole_part(_Together(other, alphabet, work)))
        # The characters so far, as far as they matter, and the states of the parts.
        self._states: list[tuple[int, ...]] = [()]
        self._numbers: dict[tuple[int, ...], int] = {}
        self._rows: dict[int, Row] = {}
        self.start = self._number((0, *(part.start for part in self._parts)))

    @property
    def size(self) -> int:
        """The states known so far."""
        return len(self._states) - 1

    def _number(self, state: tuple[int, ...]) -> int:
        number = self._numbers.setdefault(state, len(self._states))
        if number == len(self._states):
            self._states.append(state)
            if number > MAX_STATES:
                raise GrammarError(
                    f"string constraints that together need more than {MAX_STATES:,} states",
                    keyword="pattern",
                    hint="drop one of them, or use shorter lengths",
                )
        return number

    def row(self, number: int) -> Row:
        row = self._rows.get(number)
        if row is None:
            self._work.spend(1)
            row = self._rows[number] = self._make_row(self._states[number])
        return row

    def _make_row(self, state: tuple[int, ...]) -> Row:
        count = min(state[0] + 1, self._most)
        if self._high is not None and count > self._high:
            return bytes(self._size), (0,)
        if not self._parts:
            return bytes([1] * self._size), (0, self._number((count,)))
        maps, targets = [], []
        for part, one in zip(self._parts, state[1:], strict=True):
            classes, after = part.row(one) if one else (bytes(256), (0,))
            maps.append(classes[: self._size] if part.symbols is None
                        else part.symbols.translate(classes))  # fmt: skip
            targets.append(after)
        joined, combinations = _joined(tuple(maps), self._needed)
        found = [0]
        for combination in combinations:
            moved = [after[k] for after, k in zip(targets, combination, strict=True)]
            found.append(self._number((count, *moved)))
        return joined, tuple(found)

    def accepts(self, number: int) -> bool:
        size, *state = self._states[number]
        accepted = [s > 0 and part.accepts(s) for part, s in zip(self._parts, state, strict=True)]
        needed = self._needed
        return size >= self._low and all(accepted[:needed]) and not any(accepted[needed:])


def _tree_part(tree: Tree, alphabet: Alphabet, work: Work) -> _Part:
    found = positions(tree)
    work.spend(found.size)
    return _Part(
        found.start, partial(found.row, work=work), found.accepts, alphabet.within(found.alphabet)
    )


def _whole_part(found: _Words | _Together) -> _Part:
    return _Part(found.start, found.row, found.accepts)


@lru_cache(maxsize=4096)
def _joined(maps: tuple[bytes, ...], needed: int) -> tuple[bytes, tuple[tuple[int, ...], ...]]:
    """The coarsest classes finer than all of `maps`, and for each, from 1 on, its class in every
    map.  Class 0 is what has class 0 in any of the first `needed`."""
    number: dict[tuple[int, ...], int] = {}
    out = bytearray(len(maps[0]))
    for symbol, key in enumerate(zip(*maps, strict=True)):
        if 0 not in key[:needed]:
            out[symbol] = number.setdefault(key, len(number) + 1)
    return bytes(out), tuple(number)


@lru_cache(maxsize=4096)
def _symbols(classes: bytes) -> tuple[tuple[int, ...], ...]:
    """The symbols of each class."""
    found: list[list[int]] = [[] for _ in range(max(classes) + 1)]
    for symbol, k in enumerate(classes):
        found[k].append(symbol)
    return tuple(map(tuple, found))


class _Words:
    """A trie; states are numbered from 1."""

    def __init__(self, words: Iterable[str], alphabet: Alphabet) -> None:
        self.start = 1
        self._size = alphabet.size
        self._children: list[dict[int, int]] = [{}, {}]
        self._rows: dict[int, Row] = {}
        self._ends = set()
        for word in words:
            state = 1
            for char in word:
                symbol = alphabet.symbol(ord(char))
                after = self._children[state].get(symbol)
                if after is None:
                    after = self._children[state][symbol] = len(self._children)
                    self._children.append({})
                state = after
            self._ends.add(state)

    def row(self, state: int) -> Row:
        row = self._rows.get(state)
        if row is None:
            classes = bytearray(self._size)
            for number, symbol in enumerate(self._children[state]):
                classes[symbol] = number + 1
            row = self._rows[state] = bytes(classes), (0, *self._children[state].values())
        return row

    def accepts(self, state: int) -> bool:
        return state in self._ends


class Vertex(NamedTuple):
    accepts: bool
    edges: tuple[tuple[int, tuple[int, ...]], ...]  # target, and the symbols that lead there


class Combined(NamedTuple):
    """A language over symbols, without states that lead nowhere; no states: there are no strings.
    `shortest`: the fewest characters; `steps`: the work it took."""

    alphabet: Alphabet
    states: tuple[Vertex, ...]
    shortest: int
    steps: int


@lru_cache(maxsize=16)
def combined(language: Language) -> Combined:
    work = Work()
    alphabet = Alphabet(_sets(language))
    together = _Together(language, alphabet, work)
    edges: list[list[tuple[int, tuple[int, ...]]]] = [[]]
    accepting = [False]
    while len(edges) <= together.size:
        classes, targets = together.row(len(edges))
        accepting.append(together.accepts(len(edges)))
        edges.append(list(zip(targets[1:], _symbols(classes)[1:], strict=True)))
    distances = distances_of(([t for t, _ in targets] for targets in edges), accepting)
    # The start, and then the others from far to near, by which costs are found soonest.
    live = [state for state, distance in enumerate(distances) if distance >= 0]
    live.sort(key=lambda state: -distances[state] if state > 1 else -len(edges))
    kept = {state: place for place, state in enumerate(live)}
    states = tuple(
        Vertex(
            accepting[state],
            tuple((kept[target], symbols) for target, symbols in edges[state] if target in kept),
        )
        for state in live
    )
    if distances[1] < 0:
        states = ()
    return Combined(alphabet, states, distances[1], MAX_STEPS - work.left)


def _sets(language: Language) -> Iterator[Ranges]:
    for tree in language.trees:
        yield from sets_of(tree)
    for char in set().union(*(language.words or ())):
        yield ((ord(char), ord(char)),)
    for other in language.without:
        yield from _sets(other)
