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
from itertools import accumulate
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


@dataclass(frozen=True, slots=True)
class Array:
    """A JSON array: `prefix` items in order, then any number of `items`; from `low` to `high`.

    The position is the number of items so far.  `items` may be a node that never fits.
    """

    prefix: tuple[int, ...]
    items: int
    low: int
    high: int | None
    open: int  # the lexeme `[`
    comma: int  # `,`
    close: int  # `]`
    empty: int  # `[]`

    @property
    def nests(self) -> bool:
        return True

    def children(self) -> tuple[int, ...]:
        return (*self.prefix, self.items, self.open, self.comma, self.close, self.empty)

    def first(self, empty: Callable[[int], bool]) -> tuple[int, ...]:
        return ()

    def _item(self, index: int) -> int:
        return self.prefix[index] if index < len(self.prefix) else self.items

    def options(self, arg: int) -> list[Option]:
        found: list[Option] = []
        if self.high is None or arg < self.high:
            after = arg + 1
            if self.high is None:
                after = min(after, max(len(self.prefix), self.low, 1))
            found.append(((self.comma if arg else self.open, self._item(arg)), after))
        if arg >= self.low:
            found.append(((self.close if arg else self.empty,), DONE))
        return found

    def costs(self, of: CostOf) -> CostOf:
        sign = max(of(self.open), of(self.comma))
        end, empty = of(self.close), of(self.empty)
        fixed = min(len(self.prefix), self.low)
        members = [sign.then(of(i)) for i in self.prefix[:fixed]]
        # tail[i]: the fixed items from i on, and after them what `items` must still give.
        rest = end.then(sign.then(of(self.items)).times(self.low - fixed))
        tail = list(accumulate(reversed(members), lambda a, b: b.then(a), initial=rest))[::-1]

        def cost(arg: int) -> Cost:
            if self.high is not None and self.low > self.high:
                return NEVER
            if arg == 0 and self.low == 0:
                return empty.nested()
            if arg <= fixed:
                return tail[arg].nested()
            return end.then(sign.then(of(self.items)).times(self.low - arg)).nested()

        return cost


@dataclass(frozen=True, slots=True)
class Property:
    first: int  # the lexeme `{"name":`
    later: int  # the lexeme `,"name":`
    value: int
    required: bool


@dataclass(frozen=True, slots=True)
class Object:
    """A JSON object: `properties` in order, optional ones possibly left out, then others.

    `extras` are (key lexeme, value) pairs for keys that are not declared.  The position is
    `index + (len(properties) + 2) * count`: the next property, or len(properties) before the
    first other key and one more after it; and the members so far, as far as they matter.  Other
    keys may repeat each other, so only the first of them counts towards `low`.
    """

    properties: tuple[Property, ...]
    extras: tuple[tuple[int, int], ...]
    low: int
    high: int | None
    open: int  # the lexeme `{`
    comma: int  # `,`
    colon: int  # `:`
    close: int  # `}`
    empty: int  # `{}`

    @property
    def nests(self) -> bool:
        return True

    def children(self) -> tuple[int, ...]:
        members = [n for p in self.properties for n in (p.first, p.later, p.value)]
        others = [n for pair in self.extras for n in pair]
        return (*members, *others, self.open, self.comma, self.colon, self.close, self.empty)

    def first(self, empty: Callable[[int], bool]) -> tuple[int, ...]:
        return ()

    def _position(self, index: int, count: int) -> int:
        if self.high is None:
            count = min(count, max(self.low, 1))
        return index + (len(self.properties) + 2) * count

    def options(self, arg: int) -> list[Option]:
        size = len(self.properties)
        count, index = divmod(arg, size + 2)
        found: list[Option] = []
        room = self.high is None or count < self.high
        for i in range(index, size):
            entry = self.properties[i]
            if room:
                key = entry.later if count else entry.first
                found.append(((key, entry.value), self._position(i + 1, count + 1)))
            if entry.required:
                return found
        if room:
            counted = count + (index <= size or self.high is not None)
            for key, value in self.extras:
                nodes = (self.comma if count else self.open, key, self.colon, value)
                found.append((nodes, self._position(size + 1, counted)))
        if count >= self.low:
            found.append(((self.close if count else self.empty,), DONE))
        return found

    def costs(self, of: CostOf) -> CostOf:
        size = len(self.properties)
        members = [max(of(p.first), of(p.later)).then(of(p.value)) for p in self.properties]
        sign = max(of(self.open), of(self.comma))
        between = sign.then(of(self.colon))
        other = min((between.then(of(k)).then(of(v)) for k, v in self.extras), default=NEVER)
        required = [FREE] * (size + 2)
        still = [0] * (size + 2)
        for i in reversed(range(size)):
            needed = self.properties[i].required
            required[i] = members[i].then(required[i + 1]) if needed else required[i + 1]
            still[i] = still[i + 1] + needed
        end, empty = of(self.close), of(self.empty)

        def cost(arg: int) -> Cost:
            count, index = divmod(arg, size + 2)
            missing = max(0, self.low - count - still[index])
            if self.high is not None and count + still[index] + missing > self.high:
                return NEVER
            if count == still[index] == missing == 0:
                return empty.nested()
            total = required[index].then(end)
            if missing:
                spare = [members[i] for i in range(index, size) if not self.properties[i].required]
                chosen = sorted([*spare, other] if index <= size else spare)[:missing]
                if len(chosen) < missing:
                    return NEVER
                for member in chosen:
                    total = total.then(member)
            return total.nested()

        return cost


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


Frame = Sequence | Alternatives | Repeat | Array | Object | Network | Limited | Unordered
