"""Regular expressions over characters and names of rules: what grammars are written out in.

Automata over bytes become automata over characters here, and automata become expressions by
taking their states away one by one (J. Brzozowski and E. McCluskey, "Signal flow graph
techniques", 1963).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sgen.grammars.automata import DEAD, Automaton
from sgen.grammars.charset import Ranges, normal, union

MAX_STATES = 2_000
"""States between characters of one lexeme that is written out."""

MAX_DEPTH = 150
"""Parts inside each other of an expression that an automaton becomes."""


@dataclass(frozen=True, slots=True)
class Set:
    """One character of some; of none: no text."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Name:
    """The texts of a rule; its key, until rules get their names."""

    key: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Join:
    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Loop:
    """`item` from `low` to `high` times (None: without end)."""

    item: Expression
    low: int
    high: int | None


Expression = Set | Name | Join | Choice | Loop

EMPTY = Join(())
NEVER = Set(())


class TooLargeError(Exception):
    """An expression would have more parts than were allowed."""


def join(items: Iterable[Expression]) -> Expression:
    found: list[Expression] = []
    for item in items:
        if item == NEVER:
            return NEVER
        for part in item.items if isinstance(item, Join) else (item,):
            if isinstance(part, Loop) and found and found[-1] == part.item:  # x x* is x+
                found[-1] = Loop(part.item, part.low + 1, part.high and part.high + 1)
            else:
                found.append(part)
    return found[0] if len(found) == 1 else Join(tuple(found))


def choice(items: Iterable[Expression]) -> Expression:
    """One of the items; characters side by side are one set, and the empty text an option."""
    sets: list[Ranges] = []
    found: dict[Expression, None] = {}
    for item in items:
        for part in item.items if isinstance(item, Choice) else (item,):
            if isinstance(part, Set):
                sets.append(part.ranges)
            else:
                found[part] = None
    optional = found.pop(EMPTY, 0) is None
    together = Set(union(*sets)) if sets else NEVER
    rest = [*([] if together == NEVER else [together]), *found]
    if not rest:
        return EMPTY if optional else NEVER
    whole = rest[0] if len(rest) == 1 else Choice(tuple(rest))
    return loop(whole, 0, 1) if optional else whole


def loop(item: Expression, low: int, high: int | None) -> Expression:
    if item == EMPTY or high == 0 or (item == NEVER and low == 0):
        return EMPTY
    if (low, high) == (1, 1) or item == NEVER:
        return item
    if isinstance(item, Loop) and (low, high) == (0, 1) and item.low <= 1:  # (x+)? is x*
        return Loop(item.item, 0, item.high)
    return Loop(item, low, high)


def text(value: str) -> Expression:
    return join(Set(((ord(c), ord(c)),)) for c in value)


def size(expression: Expression) -> int:
    if isinstance(expression, Join | Choice):
        return 1 + sum(map(size, expression.items))
    if isinstance(expression, Loop):
        return 1 + size(expression.item)
    return 1


def depth(expression: Expression) -> int:
    """How many parts are inside each other."""
    if isinstance(expression, Join | Choice):
        return 1 + max(map(depth, expression.items), default=0)
    return 1 + depth(expression.item) if isinstance(expression, Loop) else 0


Edges = list[tuple[Expression, int]]
"""What is read, and the state afterwards."""


def characters(automaton: Automaton) -> tuple[list[Edges], list[bool]]:
    """An automaton over the characters that its bytes spell: the edges of each state, and which
    states accept.  Bytes that are no UTF-8 are left out.  TooLargeError above MAX_STATES."""
    reader = _Characters(automaton)
    numbers = {automaton.start: 0}
    states = [automaton.start]
    edges: list[Edges] = []
    for state in states:  # grows while it is walked
        targets: dict[int, list[tuple[int, int]]] = {}
        for low, high, target in reader.edges(state):
            targets.setdefault(target, []).append((low, high))
        found: Edges = []
        for target, ranges in targets.items():
            if target not in numbers:
                if len(states) >= MAX_STATES:
                    raise TooLargeError
                numbers[target] = len(states)
                states.append(target)
            found.append((Set(normal(ranges)), numbers[target]))
        edges.append(found)
    return edges, [automaton.accepts(state) for state in states]


def following(automaton: Automaton, state: int) -> list[tuple[Ranges, int]]:
    """Which characters may follow in a state, and where they lead; none inside a character."""
    found: dict[int, list[tuple[int, int]]] = {}
    for low, high, target in _Characters(automaton).edges(state):
        found.setdefault(target, []).append((low, high))
    return [(normal(ranges), target) for target, ranges in found.items()]


class _Characters:
    def __init__(self, automaton: Automaton) -> None:
        self._automaton = automaton
        self._known: dict[tuple[int, int], list[tuple[int, int, int]]] = {}

    def edges(self, state: int) -> list[tuple[int, int, int]]:
        """(first, last, target) of the characters that may follow."""
        classes, targets = self._automaton.row(state)
        found: list[tuple[int, int, int]] = []
        for byte in range(0xF5):
            target = targets[classes[byte]]
            if target == DEAD or 0x80 <= byte < 0xC2:
                continue
            count = 0 if byte < 0x80 else 1 if byte < 0xE0 else 2 if byte < 0xF0 else 3
            high = byte if not count else byte & (0x3F >> count)
            for low, last, after in self._rest(target, count):
                _add(found, (high << 6 * count) + low, (high << 6 * count) + last, after)
        return found

    def _rest(self, state: int, count: int) -> list[tuple[int, int, int]]:
        """The same for the last `count` bytes of a character."""
        if not count:
            return [(0, 0, state)]
        known = self._known.get((state, count))
        if known is None:
            classes, targets = self._automaton.row(state)
            known = self._known[state, count] = []
            for byte in range(0x80, 0xC0):
                target = targets[classes[byte]]
                if target != DEAD:
                    base = (byte & 0x3F) << 6 * (count - 1)
                    for low, high, after in self._rest(target, count - 1):
                        _add(known, base + low, base + high, after)
        return known


def _add(found: list[tuple[int, int, int]], low: int, high: int, target: int) -> None:
    if found and found[-1][1] == low - 1 and found[-1][2] == target:
        found[-1] = found[-1][0], high, target
    else:
        found.append((low, high, target))


def eliminated(edges: Sequence[Edges], accepting: Sequence[bool], limit: int) -> Expression:
    """The texts from state 0 to an accepting state, as one expression without states.

    TooLargeError if it would have more than `limit` parts.
    """
    end = len(edges)
    ways: list[dict[int, Expression]] = [{} for _ in range(end + 1)]
    for state, found in enumerate(edges):
        for label, target in found:
            ways[state][target] = choice([ways[state].get(target, NEVER), label])
        if accepting[state]:
            ways[state][end] = EMPTY
    if sum(map(len, ways)) > limit:  # none of them would be left out
        raise TooLargeError
    sources: list[set[int]] = [set() for _ in ways]
    for state, found_ways in enumerate(ways):
        for target in found_ways:
            sources[target].add(state)
    left = set(range(1, end))
    while left:
        state = min(left, key=lambda s: (len(sources[s] - {s}) * len(ways[s].keys() - {s}), -s))
        left.remove(state)
        around = loop(ways[state].pop(state, NEVER), 0, None)
        grown = deepest = 0
        for source in sources[state] - {state}:
            into = ways[source].pop(state)
            for target, out in ways[state].items():
                way = choice([ways[source].get(target, NEVER), join([into, around, out])])
                ways[source][target] = way
                sources[target].add(source)
                grown += size(way)
                deepest = max(deepest, depth(way))
        if grown > limit or deepest > MAX_DEPTH:
            raise TooLargeError
        for target in ways[state]:
            sources[target].discard(state)
    again = loop(ways[0].get(0, NEVER), 0, None)
    whole = join([again, ways[0].get(end, NEVER)])
    if size(whole) > limit:
        raise TooLargeError
    return whole
