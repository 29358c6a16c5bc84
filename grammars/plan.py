"""The flat plan of a grammar: int32 words that a machine in C or in Python is made of.

It is MAGIC, the number of segments, and the root node in the last one; then for each segment its
numbers of nodes, words of code, bytes of data and imports; which segments these are; where the
code of each node begins; the code; the data, filled up to whole words.  Nodes are numbered from 0
within a segment.  A regular expression is a segment, imported where it is a lexeme.  What code
there is for each kind of node is said by the functions `_literal` to `_unordered` below; a list of
nodes ends with -1.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence
from functools import cached_property
from struct import Struct
from typing import Any

from sgen.errors import GrammarError
from sgen.grammars.automata import DEAD, NO_BYTE, Automaton, Literal, Table, Without, Words
from sgen.grammars.encoding import Character
from sgen.grammars.frames import (
    Alternatives,
    Limited,
    Network,
    Repeat,
    Unordered,
)
from sgen.grammars.frames import (
    Sequence as Sequential,
)
from sgen.grammars.pushdown import Node, Pushdown
from sgen.grammars.pushdown import Plan as Nodes
from sgen.grammars.text import STYLES, Text

MAGIC = 0x31504753
LITERAL, WORDS, TABLE, TEXT, MACHINE, WITHOUT = range(6)
SEQUENCE, ALTERNATIVES, REPEAT, NETWORK, UNORDERED = range(8, 13)

HEADER = Struct("<3i")
SEGMENT = Struct("<4i")
STYLE_NAMES = tuple(STYLES)


class Plan:
    """A grammar as bytes; equal grammars have mostly equal plans."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @staticmethod
    def of(nodes: Sequence[Node], root: int) -> Plan:
        """The plan of a builder's nodes.  GrammarError if they have numbers beyond 32 bits."""
        packer = _Packer()
        try:
            return Plan(packer.pack(nodes, root))
        except OverflowError:
            raise GrammarError(
                "the grammar has a number beyond 32 bits",
                keyword="size",
                hint="use smaller counts",
            ) from None

    def pack(self) -> bytes:
        return self._data

    @staticmethod
    def unpack(data: bytes) -> Plan:
        """What `pack` gave.  GrammarError if it is none; its contents are checked by whoever makes
        a machine of it."""
        if len(data) < HEADER.size or len(data) % 4 or HEADER.unpack_from(data)[0] != MAGIC:
            raise broken()
        return Plan(data)

    @cached_property
    def digest(self) -> str:
        """Names the grammar in caches."""
        return hashlib.sha256(self._data).hexdigest()


def broken() -> GrammarError:
    return GrammarError(
        "the plan of a grammar is broken", keyword="plan", hint="compile the grammar again"
    )


class _Packer:
    """Segments, those of machines before those that use them, each once."""

    def __init__(self) -> None:
        self._segments: list[bytes] = []
        self._numbers: dict[int, int] = {}
        self._kept: list[Nodes] = []  # so that no other object gets their id

    def pack(self, nodes: Sequence[Node], root: int) -> bytes:
        segment = _Segment(nodes)
        self._add(segment.packed(), segment.machines)
        return b"".join([HEADER.pack(MAGIC, len(self._segments), root), *self._segments])

    def _add(self, parts: tuple[bytes, bytes], machines: Sequence[Nodes]) -> int:
        imports = array("i", [self._machine(nodes) for nodes in machines])
        head, rest = parts
        self._segments.append(head + imports.tobytes() + rest)
        return len(self._segments) - 1

    def _machine(self, nodes: Nodes) -> int:
        number = self._numbers.get(id(nodes))
        if number is None:
            if nodes.segment is None:
                segment = _Segment(nodes.nodes)
                nodes.segment = *segment.packed(), tuple(segment.machines)
            head, rest, machines = nodes.segment
            number = self._numbers[id(nodes)] = self._add((head, rest), machines)
            self._kept.append(nodes)
        return number


class _Segment:
    """The code and data of some nodes; `machines` are the plans that they import."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.machines: list[Nodes] = []
        self._imports: dict[int, int] = {}
        self._code: list[int] = []
        self._data = bytearray()
        self._maps: dict[bytes, int] = {}
        self._nodes: list[Node] = list(nodes)
        self._offsets: list[int] = []
        self._places: dict[int, int] | None = None
        for node in self._nodes:  # grows while it is walked
            self._offsets.append(len(self._code))
            _PACK[type(node)](self, node)

    def packed(self) -> tuple[bytes, bytes]:
        """The head, after which the imports come, and the rest."""
        data = bytes(self._data)
        head = SEGMENT.pack(len(self._offsets), len(self._code), len(data), len(self.machines))
        numbers = array("i", self._offsets + self._code).tobytes()
        return head, numbers + data + bytes(-len(data) % 4)

    def _literal(self, node: Literal) -> None:
        """Where the word begins in the data, its length."""
        self._code += (LITERAL, len(self._data), len(node.word))
        self._data += node.word

    def _words(self, node: Words) -> None:
        """How many; where each begins in the data, and where the last one ends.  In order."""
        at = len(self._data)
        self._code += (WORDS, len(node.words), at)
        for word in node.words:
            at += len(word)
            self._code.append(at)
        self._data += b"".join(node.words)

    def _table(self, node: Table | Character) -> None:
        """How many states, the start; of each: whether it accepts, bytes to the end, where its
        class map is in the data, how many targets there are, and where in the node's code."""
        code = self._code
        first = len(code)
        rows = [node.row(state) for state in range(node.num_states)]
        at = 3 + 5 * len(rows)
        code += (TABLE, len(rows), node.start)
        for state, (classes, targets) in enumerate(rows):
            place = self._maps.get(classes)
            if place is None:
                place = self._maps[classes] = len(self._data)
                self._data += classes
            count = len(targets) - 1 if classes != NO_BYTE else 0
            code += (int(node.accepts(state)), node.distance(state), place, count, at)
            at += count
        for classes, targets in rows:
            if classes != NO_BYTE:
                code += [0 if t == DEAD else t for t in targets[1:]]
        assert len(code) == first + at

    def _text(self, node: Text) -> None:
        """The style, the least and the greatest length (-1: none)."""
        self._code += (TEXT, STYLE_NAMES.index(node.style), node.low)
        self._code.append(-1 if node.high is None else node.high)

    def _pushdown(self, node: Pushdown) -> None:
        """The import, and the root node there."""
        number = self._imports.get(id(node.plan))
        if number is None:
            number = self._imports[id(node.plan)] = len(self.machines)
            self.machines.append(node.plan)
        self._code += (MACHINE, number, node.root)

    def _without(self, node: Without) -> None:
        """The automaton's node, the words' node."""
        self._code += (WITHOUT, self._extra(node.automaton), self._extra(node.words))

    def _extra(self, node: Automaton) -> int:
        """The number of an automaton that need not be a node of its own."""
        if self._places is None:
            self._places = {id(other): number for number, other in enumerate(self._nodes)}
        number = self._places.setdefault(id(node), len(self._nodes))
        if number == len(self._nodes):
            self._nodes.append(node)
        return number

    def _sequence(self, node: Sequential) -> None:
        """How many; the list."""
        self._code += (SEQUENCE, len(node.items), *node.items, -1)

    def _alternatives(self, node: Alternatives) -> None:
        """How many; the list."""
        self._code += (ALTERNATIVES, len(node.items), *node.items, -1)

    def _repeat(self, node: Repeat) -> None:
        """The item, the least and the greatest count (-1: none)."""
        self._code += (REPEAT, node.item, node.low, -1 if node.high is None else node.high)

    def _network(self, node: Network) -> None:
        """Whether it nests, how many states, the limit (-1: none), where in the code each state
        is, and, with a limit, what each needs; of each state the number of options, and of these
        the position afterwards and the list."""
        self._states(node, -1, ())

    def _limited(self, node: Limited) -> None:
        self._states(node.network, node.limit, node.needs)

    def _states(self, node: Network, limit: int, needs: tuple[int, ...]) -> None:
        code = self._code
        first, states = len(code), node.states
        code += (NETWORK, int(node.nests), len(states), limit)
        code += [0] * len(states)
        code += needs
        for number, options in enumerate(states):
            code[first + 4 + number] = len(code) - first
            code.append(len(options))
            for symbols, after in options:
                code += (after, *symbols, -1)

    def _unordered(self, node: Unordered) -> None:
        """How many members and extras, the least and the greatest count (-1: none), the nodes of
        comma, opening, closing, and the empty object; of each member and extra the list that
        begins with the opening and the one that begins with the comma; which members are
        required (1, or 2 and its place among the leading ones)."""
        high = -1 if node.high is None else node.high
        self._code += (UNORDERED, len(node.members), len(node.extras), node.low, high)
        self._code += (node.comma, node.open, node.close, node.empty)
        for key, value in (*((m.key, m.value) for m in node.members), *node.extras):
            self._code += (node.open, key, value, -1, node.comma, key, value, -1)
        places = {i: 2 + place for place, i in enumerate(node.leading)}
        self._code += (places.get(i, int(m.required)) for i, m in enumerate(node.members))


_PACK: dict[type, Callable[[_Segment, Any], None]] = {
    Literal: _Segment._literal,
    Words: _Segment._words,
    Table: _Segment._table,
    Character: _Segment._table,
    Text: _Segment._text,
    Pushdown: _Segment._pushdown,
    Without: _Segment._without,
    Sequential: _Segment._sequence,
    Alternatives: _Segment._alternatives,
    Repeat: _Segment._repeat,
    Network: _Segment._network,
    Limited: _Segment._limited,
    Unordered: _Segment._unordered,
}
