"""Flat plans back to the nodes that they were made of, for the machine in Python."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from itertools import pairwise

from sgen.grammars.automata import DEAD, Literal, Row, Table, Without, Words
from sgen.grammars.frames import (
    DONE,
    Alternatives,
    Frame,
    Limited,
    Member,
    Network,
    Option,
    Repeat,
    Unordered,
)
from sgen.grammars.frames import Sequence as Sequential
from sgen.grammars.plan import (
    ALTERNATIVES,
    HEADER,
    LITERAL,
    MACHINE,
    NETWORK,
    REPEAT,
    SEGMENT,
    SEQUENCE,
    STYLE_NAMES,
    TABLE,
    TEXT,
    UNORDERED,
    WITHOUT,
    WORDS,
    Plan,
    broken,
)
from sgen.grammars.pushdown import Node, Pushdown
from sgen.grammars.pushdown import Plan as Nodes
from sgen.grammars.text import Text


def nodes_of(plan: Plan) -> tuple[list[Node], int]:
    """The nodes and the root.  GrammarError if the plan is broken."""
    try:
        return _Reader(plan.pack()).read()
    except (IndexError, ValueError, AssertionError, KeyError) as error:
        raise broken() from error


class _Reader:
    """Plans back to nodes.  ValueError or IndexError for what cannot be read."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = HEADER.size
        self._segments: list[Nodes] = []

    def read(self) -> tuple[list[Node], int]:
        _, count, root = HEADER.unpack_from(self._data)
        nodes: list[Node] = []
        for index in range(count):
            nodes = self._segment()
            if index < count - 1:
                self._segments.append(Nodes(nodes))
        _check(self._at == len(self._data) and 0 <= root < len(nodes))
        return nodes, root

    def _take(self, size: int) -> bytes:
        _check(0 <= size <= len(self._data) - self._at)
        self._at += size
        return self._data[self._at - size : self._at]

    def _words(self, count: int) -> array[int]:
        return array("i", self._take(4 * count))

    def _segment(self) -> list[Node]:
        count, size, length, imports = SEGMENT.unpack(self._take(SEGMENT.size))
        _check(count >= 0)
        machines = [self._segments[_index(i, len(self._segments))] for i in self._words(imports)]
        offsets, code = self._words(count), self._words(size)
        data = self._take(length)
        self._take(-length % 4)
        reader = _NodeReader(code, data, machines, count)
        nodes: list[Node] = [reader.node(offset) for offset in offsets]
        for number, (inner, words) in zip(reader.places, reader.pairs, strict=True):
            automaton, excluded = nodes[inner], nodes[words]
            _check(isinstance(excluded, Words) and not isinstance(automaton, Frame | Without))
            assert isinstance(excluded, Words)
            assert not isinstance(automaton, Frame)
            nodes[number] = Without(automaton, excluded)
        return nodes


class _NodeReader:
    """The nodes of one segment.  `places` are those of kind WITHOUT, which are made once all
    others are there, of the two nodes in `pairs`."""

    def __init__(
        self, code: array[int], data: bytes, machines: Sequence[Nodes], count: int
    ) -> None:
        self.places: list[int] = []
        self.pairs: list[tuple[int, int]] = []
        self._code, self._data, self._machines, self._count = code, data, machines, count
        self._done = 0

    def node(self, offset: int) -> Node:
        kind = self._word(offset)
        found = _UNPACK[kind](self, offset)
        self._done += 1
        return found

    def _word(self, at: int) -> int:
        return self._code[_index(at, len(self._code))]

    def _words(self, at: int, count: int) -> array[int]:
        _check(at >= 0 and 0 <= count <= len(self._code) - at)
        return self._code[at : at + count]

    def _bytes(self, at: int, size: int) -> bytes:
        _check(at >= 0 and 0 <= size <= len(self._data) - at)
        return self._data[at : at + size]

    def _list(self, at: int) -> tuple[tuple[int, ...], int]:
        """The nodes from `at` on, and where their end is."""
        end = at
        while self._word(end) != -1:
            _index(self._word(end), self._count)
            end += 1
        return tuple(self._code[at:end]), end + 1

    def literal(self, at: int) -> Node:
        start, size = self._words(at + 1, 2)
        return Literal(self._bytes(start, size))

    def words(self, at: int) -> Node:
        ends = self._words(at + 2, self._word(at + 1) + 1)
        _check(len(ends) > 1)
        return Words(self._bytes(a, b - a) for a, b in pairwise(ends))

    def table(self, at: int) -> Node:
        count, start = self._words(at + 1, 2)
        _index(start, count)
        rows: list[Row] = []
        accepting: list[bool] = []
        for state in range(count):
            accepts, _, place, targets, where = self._words(at + 3 + 5 * state, 5)
            classes = self._bytes(place, 256)
            found = self._words(at + where, targets)
            _check(max(classes) <= targets and all(0 <= t < count for t in found))
            rows.append((classes, (DEAD, *found)))
            accepting.append(accepts != 0)
        return Table(rows, accepting, start)

    def text(self, at: int) -> Node:
        style, low, high = self._words(at + 1, 3)
        _check(low >= 0 and (high == -1 or high >= low))
        return Text(low, None if high == -1 else high, STYLE_NAMES[_index(style, len(STYLE_NAMES))])

    def machine(self, at: int) -> Node:
        number, root = self._words(at + 1, 2)
        nodes = self._machines[_index(number, len(self._machines))]
        return Pushdown(nodes, _index(root, len(nodes.nodes)))

    def without(self, at: int) -> Node:
        inner, words = self._words(at + 1, 2)
        self.places.append(self._done)
        self.pairs.append((_index(inner, self._count), _index(words, self._count)))
        return Literal(b"")  # until its parts are there

    def sequence(self, at: int) -> Node:
        return Sequential(self._list(at + 2)[0])

    def alternatives(self, at: int) -> Node:
        return Alternatives(self._list(at + 2)[0])

    def repeat(self, at: int) -> Node:
        item, low, high = self._words(at + 1, 3)
        _check(low >= 0 and high >= -1)
        return Repeat(_index(item, self._count), low, None if high == -1 else high)

    def network(self, at: int) -> Node:
        nests, count, limit = self._words(at + 1, 3)
        states: list[tuple[Option, ...]] = []
        for start in self._words(at + 4, count):
            place = at + start + 1
            options = []
            for _ in range(self._word(place - 1)):
                after = self._word(place)
                _check(DONE <= after < count)
                symbols, place = self._list(place + 1)
                options.append((symbols, after))
            states.append(tuple(options))
        _check(count > 0)
        network = Network(tuple(states), nests != 0)
        if limit < 0:
            return network
        return Limited(network, tuple(self._words(at + 4 + count, count)), limit)

    def unordered(self, at: int) -> Node:
        members, extras, low, high, comma, opening, closing, empty = self._words(at + 1, 8)
        _check(members >= 0 and extras >= 0)
        pairs = []
        place = at + 9
        for _ in range(members + extras):
            (_, key, value), after = self._list(place)
            _, place = self._list(after)
            pairs.append((key, value))
        required = self._words(place, members)
        for sign in (comma, opening, closing, empty):
            _index(sign, self._count)
        return Unordered(
            tuple(Member(*p, r != 0) for p, r in zip(pairs[:members], required, strict=True)),
            tuple(pairs[members:]),
            low,
            None if high == -1 else high,
            opening,
            comma,
            closing,
            empty,
            tuple(sorted((i for i, r in enumerate(required) if r > 1), key=required.__getitem__)),
        )


def _index(number: int, count: int) -> int:
    _check(0 <= number < count)
    return number


def _check(holds: bool) -> None:
    if not holds:
        raise ValueError("a number is out of its range")


_UNPACK: dict[int, Callable[[_NodeReader, int], Node]] = {
    LITERAL: _NodeReader.literal,
    WORDS: _NodeReader.words,
    TABLE: _NodeReader.table,
    TEXT: _NodeReader.text,
    MACHINE: _NodeReader.machine,
    WITHOUT: _NodeReader.without,
    SEQUENCE: _NodeReader.sequence,
    ALTERNATIVES: _NodeReader.alternatives,
    REPEAT: _NodeReader.repeat,
    NETWORK: _NodeReader.network,
    UNORDERED: _NodeReader.unordered,
}
