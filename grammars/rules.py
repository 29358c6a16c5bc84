"""Context-free rules as networks over nodes, one for each rule.

A rule's body is an expression over symbols: nodes of the builder, calls of rules, and counted
rounds of a rule.  It becomes a `Net`, a finite automaton over symbols that may have empty edges;
`left_recursion` takes left recursion out of nets, and `networks` makes them deterministic, so
that alternatives which begin alike are read as one, and no text has more readings than it must.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from sgen.errors import GrammarError

MAX_COUNT = 65_535
"""The highest count of a repetition."""

MAX_UNROLLED = 48
"""Symbols up to which a counted repetition is written out, which lets it join with others."""

MAX_RULES = 4_096
"""Rules of a grammar, those counted that were made for repetitions and templates."""


@dataclass(frozen=True, slots=True)
class Part:
    """A node of the builder that never reads the empty text."""

    node: int


@dataclass(frozen=True, slots=True)
class Call:
    """A rule; with `nonempty`, all of its texts but the empty one."""

    rule: str
    nonempty: bool = False


@dataclass(frozen=True, slots=True)
class Rounds:
    """A rule from `low` to `high` times (None: without end), counted as the text is read."""

    call: Call
    low: int
    high: int | None


@dataclass(frozen=True, slots=True)
class Join:
    """Its items after each other."""

    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of its items."""

    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Loop:
    """`item` from `low` to `high` times (None: without end)."""

    item: Expression
    low: int
    high: int | None


Symbol = Part | Call | Rounds
Expression = Symbol | Join | Choice | Loop
Edge = tuple[Symbol | None, int]
"""What is read (None: nothing), and the state afterwards."""

NOTHING = Join(())
"""The empty text."""


@dataclass(slots=True)
class Net:
    """A finite automaton over symbols.

    From `begin` to `done` are the texts of the rule, except possibly the empty one, and whoever
    is at `done` may go on in whatever way the end of a text of the rule allows; `start` and
    `accept` are the ends of the whole.
    """

    edges: list[list[Edge]] = field(default_factory=list)
    start: int = 0
    begin: int = 0
    done: int = 1
    accept: int = 1

    def state(self) -> int:
        self.edges.append([])
        return len(self.edges) - 1

    def add(self, source: int, symbol: Symbol | None, target: int) -> None:
        self.edges[source].append((symbol, target))

    def embed(self, other: Net) -> int:
        """Copies the states of another net; the number that its state 0 has here."""
        offset = len(self.edges)
        self.edges += [[(s, t + offset) for s, t in edges] for edges in other.edges]
        return offset

    def copy(self) -> Net:
        return replace(self, edges=[list(edges) for edges in self.edges])

    def size(self) -> int:
        return sum(map(len, self.edges)) + 1

    def without_reading(self, state: int) -> set[int]:
        """The states that empty edges lead to, with the state itself."""
        seen, stack = {state}, [state]
        while stack:
            for symbol, target in self.edges[stack.pop()]:
                if symbol is None and target not in seen:
                    seen.add(target)
                    stack.append(target)
        return seen


def symbols_in(expression: Expression) -> int:
    """Symbols of an expression written out in full, up to MAX_COUNT of them."""
    if isinstance(expression, Loop):
        rounds = expression.high if expression.high is not None else max(1, expression.low)
        return min(symbols_in(expression.item) * max(1, rounds), MAX_COUNT)
    if isinstance(expression, Join | Choice):
        return min(1 + sum(map(symbols_in, expression.items)), MAX_COUNT)
    return 1


class Nets:
    """The nets of all rules; repetitions too long to write out are rules of their own."""

    def __init__(self, rules: Mapping[str, Expression]) -> None:
        self.of: dict[str, Net] = {}
        self._waiting = dict(rules)
        while self._waiting:
            if len(self.of) + len(self._waiting) > MAX_RULES:
                raise GrammarError(
                    f"the grammar has more than {MAX_RULES:,} rules and long repetitions",
                    keyword="size",
                )
            name, expression = self._waiting.popitem()
            net = self.of[name] = Net([[], []])
            self._add(net, name, expression, 0, 1)

    def _add(self, net: Net, rule: str, expression: Expression, source: int, target: int) -> None:
        """A way from `source` to `target` that reads the expression."""
        if isinstance(expression, Join):
            for item in expression.items[:-1]:
                after = net.state()
                self._add(net, rule, item, source, after)
                source = after
            if expression.items:
                self._add(net, rule, expression.items[-1], source, target)
            else:
                net.add(source, None, target)
        elif isinstance(expression, Choice):
            for item in expression.items:
                self._add(net, rule, item, source, target)
        elif isinstance(expression, Loop):
            self._loop(net, rule, expression, source, target)
        else:
            net.add(source, expression, target)

    def _loop(self, net: Net, rule: str, loop: Loop, source: int, target: int) -> None:
        low, high = loop.low, loop.high
        if high == 0:
            net.add(source, None, target)
        elif high is None and low <= 1:
            before, after = net.state(), net.state()
            net.add(source, None, before)
            self._add(net, rule, loop.item, before, after)
            net.add(after, None, before)
            net.add(after, None, target)
            if low == 0:
                net.add(source, None, target)
        elif high is not None and symbols_in(loop) <= MAX_UNROLLED:
            for i in range(high):
                if i >= low:
                    net.add(source, None, target)
                after = net.state()
                self._add(net, rule, loop.item, source, after)
                source = after
            net.add(source, None, target)
        else:
            name = f"{rule}({len(self.of) + len(self._waiting)})"
            self._waiting[name] = loop.item
            net.add(source, Rounds(Call(name), low, high), target)

    def calls(self, rule: str) -> Iterator[str]:
        """The rules that a rule uses."""
        for edges in self.of[rule].edges:
            for symbol, _ in edges:
                if isinstance(symbol, Call):
                    yield symbol.rule
                elif isinstance(symbol, Rounds):
                    yield symbol.call.rule
