"""The parts a grammar is made of, and what each costs at least.

A node is a lexeme (an automaton over bytes) or a frame.  A frame at a position (`arg`) offers
options: nodes to read in order, and the position afterwards, or DONE.  Repetitions are counted
in the position, never unrolled.  Nodes refer to each other by number, so grammars may be
recursive.

Every frame has `nests` (it adds a level to the nesting of the text), `children` (every node it
may read), `first` (those it may begin with, which matters for left recursion only), `options` at
a position, and `costs` of what is left at a position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from sgen.errors import GrammarError

DONE = -1
INFINITE = 1 << 40

POSITION_BITS = 62
"""Positions fit the machine words of those who walk grammars outside Python."""


class Cost(NamedTuple):
    """The cheapest text of a node: fewest bytes, then least nesting, then fewest tokens; NEVER if
    there is none.

    `depth` counts objects and arrays inside each other.  `tokens` are those of that same text,
    an upper bound of what it takes to write it.
    """

    bytes: int
    depth: int
    tokens: int

    def then(self, other: Cost) -> Cost:
        if self.bytes + other.bytes >= INFINITE:
            return NEVER
        return Cost(
            self.bytes + other.bytes,
            max(self.depth, other.depth),
            min(self.tokens + other.tokens, INFINITE),
        )

    def times(self, count: int) -> Cost:
        if count <= 0:
            return FREE
        if self.bytes * count >= INFINITE:
            return NEVER
        return Cost(self.bytes * count, self.depth, min(self.tokens * count, INFINITE))

    def nested(self) -> Cost:
        return self._replace(depth=self.depth + 1) if self.possible else NEVER

    @property
    def possible(self) -> bool:
        return self.bytes < INFINITE


FREE = Cost(0, 0, 0)
NEVER = Cost(INFINITE, 0, INFINITE)

Option = tuple[tuple[int, ...], int]
"""Nodes to read, and the frame's position afterwards (DONE: it is over)."""

CostOf = Callable[[int], Cost]
"""What a node costs, or, of one frame, what is left of it at a position."""


@dataclass(frozen=True, slots=True)
class Sequence:
    items: tuple[int, ...]

    @property
    def nests(self) -> bool:
        return False

    def children(self) -> tuple[int, ...]:
        return self.items

    def first(self, empty: Callable[[int], bool]) -> tuple[int, ...]:
        for i, item in enumerate(self.items):
            if not empty(item):
                return self.items[: i + 1]
        return self.items

    def options(self, arg: int) -> list[Option]:
        return [(self.items, DONE)]

    def costs(self, of: CostOf) -> CostOf:
        total = FREE
        for item in self.items:
            total = total.then(of(item))
        return lambda arg: total


@dataclass(frozen=True, slots=True)
class Alternatives:
    """One of its items; without any, no text fits."""

    items: tuple[int, ...]

    @property
    def nests(self) -> bool:
        return False

    def children(self) -> tuple[int, ...]:
        return self.items

    def first(self, empty: Callable[[int], bool]) -> tuple[int, ...]:
        return self.items

    def options(self, arg: int) -> list[Option]:
        return [((item,), DONE) for item in self.items]

    def costs(self, of: CostOf) -> CostOf:
        least = min((of(item) for item in self.items), default=NEVER)
        return lambda arg: least


@dataclass(frozen=True, slots=True)
class Repeat:
    """`item` from `low` to `high` times (None: without end).  The position is the count."""

    item: int
    low: int
    high: int | None

    @property
    def nests(self) -> bool:
        return False

    def children(self) -> tuple[int, ...]:
        return (self.item,)

    def first(self, empty: Callable[[int], bool]) -> tuple[int, ...]:
        return (self.item,)

    def options(self, arg: int) -> list[Option]:
        found: list[Option] = []
        if self.high is None or arg < self.high:
            after = min(arg + 1, self.low) if self.high is None else arg + 1
            found.append(((self.item,), after))
        if arg >= self.low:
            found.append(((), DONE))
        return found

    def costs(self, of: CostOf) -> CostOf:
        item, low = of(self.item), self.low
        return lambda arg: item.times(low - arg)


class Member(NamedTuple):
    """A declared member of an object: its key, the colon too, and its value."""

    key: int
    value: int
    required: bool


@dataclass(frozen=True, slots=True)
class Unordered:
    """A JSON object whose members may come in any order, each declared one at most once.

    `leading` are all required members, in an order of their own, or none: until they are there,
    what comes next is the first of them that is missing, or a member after the last one read, up
    to the first required one that is missing.
    `extras` are (key, value) nodes for other keys; those, too, read the colon.  The position has
    a bit for each declared member that was read, and above these bits the number of others: up
    to 1 or, with `high`, all of them.  Other keys may repeat each other, so only the first counts
    towards `low`.  GrammarError if positions do not fit POSITION_BITS.
    """

    members: tuple[Member, ...]
    extras: tuple[tuple[int, int], ...]
    low: int
    high: int | None
    open: int  # the lexeme `{`
    comma: int  # `,`
    close: int  # `}`
    empty: int  # `{}`
    leading: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.members) + (self.high or 1).bit_length() > POSITION_BITS:
            raise GrammarError(
                f"an object in any order with {len(self.members)} declared members"
                + ("" if self.high is None else f" and at most {self.high:,} in all"),
                keyword="properties",
                hint="declare at most 60 properties, or fix their order",
            )

    @property
    def nests(self) -> bool:
        return True

    def children(self) -> tuple[int, ...]:
        pairs = [*((m.key, m.value) for m in self.members), *self.extras]
        signs = self.open, self.comma, self.close, self.empty
        return (*(node for pair in pairs for node in pair), *signs)

    def first(self, empty: Callable[[int], bool]) -> tuple[int, ...]:
        return ()

    def _counts(self, arg: int) -> tuple[int, int]:
        """Declared members and others so far."""
        others, read = divmod(arg, 1 << len(self.members))
        return read.bit_count(), others

    def options(self, arg: int) -> list[Option]:
        declared, others = self._counts(arg)
        sign = self.comma if arg else self.open
        room = self.high is None or declared + others < self.high
        found: list[Option] = []
        complete = declared + min(others, 1) >= self.low
        missing = [i for i in self.leading if not arg >> i & 1]
        if missing:
            following = {*range(arg.bit_length(), min(missing) + 1), missing[0]} if room else ()
            return [
                ((sign, self.members[i].key, self.members[i].value), arg | 1 << i)
                for i in sorted(following)
            ]
        for i, member in enumerate(self.members):
            if not arg >> i & 1:
                complete = complete and not member.required
                if room:
                    found.append(((sign, member.key, member.value), arg | 1 << i))
        if room:
            counted = self.high is not None or not others
            after = arg + (counted << len(self.members))
            found += [((sign, key, value), after) for key, value in self.extras]
        if complete:
            found.append(((self.close if arg else self.empty,), DONE))
        return found

    def costs(self, of: CostOf) -> CostOf:
        """What is required, and the cheapest of the rest while members are missing."""
        members = [of(m.key).then(of(m.value)) for m in self.members]
        other = min((of(key).then(of(value)) for key, value in self.extras), default=NEVER)
        required = [i for i, m in enumerate(self.members) if m.required]
        optional = [i for i, m in enumerate(self.members) if not m.required]
        start, comma, end, empty = map(of, (self.open, self.comma, self.close, self.empty))

        def cost(arg: int) -> Cost:
            declared, others = self._counts(arg)
            still = [members[i] for i in required if not arg >> i & 1]
            missing = max(0, self.low - declared - min(others, 1) - len(still))
            if self.high is not None and declared + others + len(still) + missing > self.high:
                return NEVER
            if not arg and not still and not missing:
                return empty.nested()
            if missing:
                spare = [members[i] for i in optional if not arg >> i & 1]
                spare += [] if others else [other]
                if len(spare) < missing:
                    return NEVER
                still += sorted(spare)[:missing]
            signs = comma.times(len(still)) if arg else start.then(comma.times(len(still) - 1))
            return signs.then(sum_of(still)).then(end).nested()

        return cost


@dataclass(frozen=True, slots=True)
class Network:
    """A finite automaton over nodes: the position is its state, 0 at the start.

    `states[arg]` are the options there.  Options that read nothing are allowed, also in circles.
    With `nests`, what is read on the way to another state is one level further in; so what closes
    a level is read by an option of its own, which leads to DONE.
    """

    states: tuple[tuple[Option, ...], ...]
    nests: bool = False

    def children(self) -> tuple[int, ...]:
        found = (n for options in self.states for symbols, _ in options for n in symbols)
        return tuple(dict.fromkeys(found))

    def first(self, empty: Callable[[int], bool]) -> tuple[int, ...]:
        found: dict[int, None] = {}
        seen, stack = {0}, [0]
        while stack:
            for symbols, after in self.states[stack.pop()]:
                for symbol in symbols:
                    found[symbol] = None
                    if not empty(symbol):
                        break
                else:
                    if after != DONE and after not in seen:
                        seen.add(after)
                        stack.append(after)
        return tuple(found)

    def options(self, arg: int) -> tuple[Option, ...]:
        return self.states[arg]

    def costs(self, of: CostOf) -> CostOf:
        """Rounds over the states, last first, until nothing changes: forward steps need two."""
        found = [NEVER] * len(self.states)
        steps = [
            [(sum_of(map(of, symbols)), after) for symbols, after in options]
            for options in self.states
        ]
        changed = True
        while changed:
            changed = False
            for state in reversed(range(len(found))):
                least = NEVER
                for cost, after in steps[state]:
                    rest = FREE if after == DONE else found[after]
                    if cost.bytes + rest.bytes <= least.bytes:
                        least = min(least, cost.then(rest))
                if least < found[state]:
                    found[state], changed = least, True
        if self.nests:
            found = [cost.nested() for cost in found]
        return found.__getitem__


@dataclass(frozen=True, slots=True)
class Limited:
    """A network of which at most `limit` options are followed that read something.

    `needs` [states]: how many such options the cheapest text from a state on takes, at most.  One
    is only offered if it leaves room for these, so that the end can always be reached at the cost
    that the network itself has.  The position is `state + len(states) * count`.
    """

    network: Network
    needs: tuple[int, ...]
    limit: int

    @property
    def nests(self) -> bool:
        return self.network.nests

    def children(self) -> tuple[int, ...]:
        return self.network.children()

    def first(self, empty: Callable[[int], bool]) -> tuple[int, ...]:
        return self.network.first(empty)

    def options(self, arg: int) -> list[Option]:
        size = len(self.needs)
        count, state = divmod(arg, size)
        found: list[Option] = []
        for symbols, after in self.network.options(state):
            total = count + (len(symbols) > 0)
            if after == DONE:
                found.append((symbols, DONE))
            elif total + self.needs[after] <= self.limit:
                found.append((symbols, after + size * total))
        return found

    def costs(self, of: CostOf) -> CostOf:
        inner, size = self.network.costs(of), len(self.needs)
        return lambda arg: inner(arg % size)


def sum_of(costs: Iterable[Cost]) -> Cost:
    """The cost of several nodes after each other."""
    total = FREE
    for cost in costs:
        total = total.then(cost)
    return total


Frame = Sequence | Alternatives | Repeat | Network | Limited | Unordered
