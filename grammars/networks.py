"""From the nets of rules to deterministic networks, and from these to nodes.

Alternatives that begin with the same symbols are joined by the subset construction, and equal
states are merged.  A rule that ends with a call of itself goes back to its own beginning instead.
Where two different symbols can begin with the same node, the rules called are written into the
net, as far as that stays small; so a parser's usual grammars (`sum: term "+" sum | term`) keep
one reading, whatever is nested in them.
"""

from __future__ import annotations

from dataclasses import dataclass

from sgen.grammars.builder import Builder
from sgen.grammars.frames import DONE, Network, Option, Repeat, Sequence
from sgen.grammars.left_recursion import LeftCorners
from sgen.grammars.minimal import blocks, representatives
from sgen.grammars.rules import Call, Edge, Net, Part, Symbol
from sgen.grammars.work import Work

MAX_INLINED = 400
"""Edges of a net up to which the rules that it calls are written into it."""

MAX_MINIMISED = 400
"""States of a network up to which equal ones are looked for."""


Automaton = tuple[list[list[Edge]], list[bool]]
"""The edges of each state, of which 0 is the first, and whether it accepts."""


@dataclass(slots=True)
class Deterministic:
    """A network without empty edges, one edge a symbol; state 0 is the first.

    `members[i]` are the states of the net that state i stands for.
    """

    edges: list[dict[Symbol, int]]
    accepting: list[bool]
    members: list[frozenset[int]]


def lower_rules(builder: Builder, corners: LeftCorners, root: str) -> int:
    """The node of the rule `root`; GrammarError where networks grow out of bounds."""
    return _Lowering(builder, corners).lower(Call(root))


class _Lowering:
    def __init__(self, builder: Builder, corners: LeftCorners) -> None:
        self._builder = builder
        self._work = builder.work
        self._corners = corners
        self._nodes: dict[Call, int] = {}
        self._waiting: list[Call] = []
        self._nets: dict[Call, Net] = {}

    def lower(self, root: Call) -> int:
        number = self._call(root)
        while self._waiting:
            call = self._waiting.pop()
            self._define(self._nodes[call], self._deterministic(call))
        return number

    def _call(self, call: Call) -> int:
        number = self._nodes.get(call)
        if number is None:
            number = self._nodes[call] = self._builder.reserve()
            self._waiting.append(call)
        return number

    def _node(self, symbol: Symbol) -> int:
        if isinstance(symbol, Part):
            return symbol.node
        if isinstance(symbol, Call):
            return self._call(symbol)
        return self._builder.frame(Repeat(self._call(symbol.call), symbol.low, symbol.high))

    def _define(self, number: int, automaton: Automaton) -> None:
        """A last state from which nothing follows is the end of the frame itself."""
        last = [ok and not edges for edges, ok in zip(*automaton, strict=True)]
        if last[0]:
            self._builder.define(number, Sequence(()))
            return
        states: list[tuple[Option, ...]] = []
        for edges, accepting in zip(*automaton, strict=True):
            options: list[Option] = [
                (() if symbol is None else (self._node(symbol),), DONE if last[target] else target)
                for symbol, target in edges
            ]
            states.append((*options, ((), DONE)) if accepting else tuple(options))
        self._builder.define(number, Network(tuple(states)))

    def _net(self, call: Call) -> Net:
        net = self._nets.get(call)
        if net is None:
            self._nets[call] = net = self._corners.net(call).copy()
            self._spell_out_empty(net)
            self._return_to_beginning(net, call)
        return net

    def _spell_out_empty(self, net: Net) -> None:
        """Where a symbol may be empty: an empty edge, and the symbol without that text."""
        for edges in net.edges:
            for i, (symbol, target) in enumerate(edges[:]):
                if symbol is not None and self._corners.nullable(symbol):
                    edges[i] = (self._corners.nonempty(symbol), target)
                    edges.append((None, target))

    def _deterministic(self, call: Call) -> Automaton:
        net = self._net(call)
        network = determinise(net, self._work)
        while network is not None:
            conflicts = self._conflicts(net, network)
            size = net.size() + sum(self._net(called).size() for _, called, _ in conflicts)
            if not conflicts or size > MAX_INLINED:
                break
            net = net.copy()
            for state, called, target in conflicts:
                self._inline(net, state, called, target)
            self._return_to_beginning(net, call)
            following = determinise(net, self._work)
            if following is None:
                break
            network = following
        return minimise(network) if network is not None else as_it_is(net)

    def _conflicts(self, net: Net, network: Deterministic) -> list[tuple[int, Call, int]]:
        """Edges of the net whose called rules begin with the same node as another edge.

        At each state only those of the highest rules: another may be what these begin with.
        """
        found: dict[tuple[int, Call, int], None] = {}
        for row, members in zip(network.edges, network.members, strict=True):
            once = twice = 0
            for symbol in row:
                first = self._corners.begins_with(symbol)
                once, twice = once | first, twice | (once & first)
            heights = {
                symbol: self._corners.height[symbol.rule]
                for symbol in row
                if isinstance(symbol, Call) and self._corners.begins_with(symbol) & twice
            }
            highest = max(heights.values(), default=None)
            for state in sorted(members) if heights else ():
                for called, target in net.edges[state]:
                    if isinstance(called, Call) and heights.get(called) == highest:
                        found[state, called, target] = None
        return list(found)

    def _inline(self, net: Net, state: int, called: Call, target: int) -> None:
        """Writes the net of the rule called into that of the caller, in place of the edge."""
        inner = self._net(called)
        self._work.spend(1 + inner.size() // 8)
        offset = net.embed(inner)
        net.edges[state].remove((called, target))
        net.add(state, None, offset + inner.start)
        net.add(offset + inner.accept, None, target)

    def _return_to_beginning(self, net: Net, call: Call) -> None:
        """A call of the rule itself at its very end is a way back to its beginning.

        That holds only where whatever may follow the call may also follow any text of the rule.
        """
        after_all = net.without_reading(net.done)
        ends: dict[int, bool] = {}
        for edges in net.edges:
            for i, (symbol, target) in enumerate(edges):
                if not isinstance(symbol, Call) or symbol.rule != call.rule:
                    continue
                if self._corners.nullable(call):
                    continue  # only of the first rule: elsewhere no symbol may be empty
                if target not in ends:
                    after = net.without_reading(target)
                    ends[target] = net.done in after and not any(
                        symbol is not None for s in after - after_all for symbol, _ in net.edges[s]
                    )
                if ends[target]:
                    edges[i] = (None, net.begin)


def determinise(net: Net, work: Work) -> Deterministic | None:
    """The subset construction; every state made is counted as `work`.

    None if there are many more subsets than states, which is as good as no bound.
    """
    closures: dict[int, set[int]] = {}

    def closed(states: set[int]) -> frozenset[int]:
        found: set[int] = set()
        for state in states:
            if state not in closures:
                closures[state] = net.without_reading(state)
            found |= closures[state]
        return frozenset(found)

    members = [closed({net.start})]
    number = {members[0]: 0}
    edges: list[dict[Symbol, int]] = []
    for states in members:  # grows while it is walked
        work.spend(1 + len(states) // 8)
        if len(members) > 2 * len(net.edges) + 20:
            return None
        following: dict[Symbol, set[int]] = {}
        for state in sorted(states):
            for symbol, target in net.edges[state]:
                if symbol is not None:
                    following.setdefault(symbol, set()).add(target)
        row: dict[Symbol, int] = {}
        for symbol, targets in following.items():
            after = closed(targets)
            if after not in number:
                number[after] = len(members)
                members.append(after)
            row[symbol] = number[after]
        edges.append(row)
    return Deterministic(edges, [net.accept in states for states in members], members)


def minimise(network: Deterministic) -> Automaton:
    """The network with equal states merged."""
    block = list(range(len(network.edges)))
    if len(block) <= MAX_MINIMISED:
        block = blocks(network.edges, network.accepting)
    chosen = representatives(block)
    edges: list[list[Edge]] = [
        [(s, block[t]) for s, t in network.edges[i].items()] for i in chosen
    ]  # fmt: skip
    return edges, [network.accepting[i] for i in chosen]


def as_it_is(net: Net) -> Automaton:
    """A net whose subsets would be too many; its first state becomes state 0."""
    number = [net.start, *(i for i in range(len(net.edges)) if i != net.start)]
    place = {state: i for i, state in enumerate(number)}
    edges = [[(s, place[t]) for s, t in net.edges[i]] for i in number]
    return edges, [i == net.accept for i in number]
