"""Objects as networks: the members that a schema names, in its order, and then others.

A state is how far the names have been gone through, and what of the past still matters: whether a
comma comes next, how many members there are, which of those that must be there somewhere have
been, and which clauses are settled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from typing import Literal, NamedTuple

from sgen.grammars.builder import Builder
from sgen.grammars.frames import DONE, Member, Network, Option, Unordered
from sgen.grammars.json_formula import FALSE, Formulas
from sgen.grammars.json_heads import holds, simplified
from sgen.grammars.json_layout import Layout
from sgen.grammars.json_objects import Objects
from sgen.grammars.json_strings import Strings
from sgen.grammars.json_text import refuse

Order = Literal["schema", "relaxed", "any"]
"""Of the members of an object: that of the schema, and others last; that of the schema, or of
`required`, until all that are required are there, and the rest as they come; or any.  Relaxed, an
object of more than MAX_UNORDERED names, or of which some members depend on others and which has
more than MAX_SUBSETS names, keeps to the order of the schema."""

MAX_UNORDERED = 60
MAX_OPTIONAL = 1_900
"""Optional members after each other: all of them may come next."""

MAX_SUBSETS = 8
"""Names of an object in any order of which some depend on others."""


class Declared(NamedTuple):
    """A member with a name, and the node of its value."""

    name: str
    value: int
    required: bool


Others = Sequence[tuple[int, int]]
"""Nodes of other keys, and of their values."""


def plain_object(
    builder: Builder, layout: Layout, members: list[Declared], others: Others, *, empty: bool
) -> int:
    """The object of these members in order, and then others; `empty`: it may be without any.

    States are in two rows: before the first member, and after one.
    """
    size = len(members)
    if size > MAX_OPTIONAL:
        runs = groupby(members, key=lambda member: member.required)
        if max((len(list(run)) for needed, run in runs if not needed), default=0) > MAX_OPTIONAL:
            refuse(f"more than {MAX_OPTIONAL:,} optional properties in a row", "properties", "",
                   "require some of them")  # fmt: skip
    needed = next((i for i, m in enumerate(members) if m.required), size)
    base = needed + 1 - (size > 0)  # the state after i members is base + i
    before: list[tuple[Option, ...]] = []
    later: list[tuple[Option, ...]] = []
    for i, (name, value, required) in enumerate(members):
        first, other = layout.name(name)
        after = base + i + 1
        if i <= needed:
            option: Option = ((*first, value), after)
            before.append((option,) if required else (option, ((), i + 1)))
        if i:
            option = ((*other, value), after)
            later.append((option,) if required else (option, ((), after)))
    if needed == size:
        options: list[Option] = [
            ((layout.open_object, key, layout.colon, value), base + size) for key, value in others
        ]
        if empty:
            options.append(((layout.empty_object,), DONE))
        before.append(tuple(options))
    options = [((layout.comma, key, layout.colon, value), base + size) for key, value in others]
    later.append((*options, ((layout.close_object,), DONE)))
    number = builder.reserve()
    builder.define(number, Network((*before, *later), nests=True))
    return number


def keeps_order(order: Order, members: list[Declared], others: Others) -> bool:
    """Whether members can come in one order only."""
    if order != "relaxed" or len(members) > MAX_UNORDERED:
        return order != "any"
    optional = sum(not m.required for m in members)
    return optional == 0 or (optional == 1 and not others and not members[-1].required)


def unordered_object(
    builder: Builder,
    layout: Layout,
    members: list[Declared],
    others: Others,
    low: int,
    high: int | None,
    pointer: str,
    leading: Iterable[str] = (),
) -> int:
    """The object of these members and others in any order; `leading`: all that are required, if
    these come first."""
    if len(members) > MAX_UNORDERED:
        refuse(f"more than {MAX_UNORDERED} properties in any order", "properties", pointer,
               "keep to the order of the schema")  # fmt: skip
    return builder.frame(
        Unordered(
            tuple(Member(layout.key(name), value, must) for name, value, must in members),
            tuple((builder.sequence((key, layout.colon)), value) for key, value in others),
            low,
            high,
            layout.open_object,
            layout.comma,
            layout.close_object,
            layout.empty_object,
            tuple(map([m.name for m in members].index, leading)),
        )
    )


class _Position(NamedTuple):
    """Where in an object a network is; None stands for its end."""

    behind: int = 0
    """Names gone through; in any order: those read, as bits."""
    started: bool = False
    members: int = 0
    """As far as they count; without a greatest number, other keys count as one."""
    other: bool = False
    """A key without a name has been read, and it matters that there may be a second of it."""
    repeats: int = 0
    """Other keys after the first: with a greatest number, each counts, but may be the same."""
    some: int = 0
    """Bits of the obligations met."""
    clauses: int = 0
    """Bits of the clauses met, of those that are not yet behind."""


_Step = tuple[tuple[int, ...], _Position | None]


@dataclass(slots=True)
class _Entry:
    """A name, with bits of what depends on it."""

    name: str
    formula: int
    required: bool
    some: int = 0  # obligations that it may meet
    settles: int = 0  # clauses, if it is there
    spares: int = 0  # clauses, if it is not
    ends: int = 0  # clauses of which it is the last name


class ObjectNetwork:
    """The network of one `Objects`, whatever it demands."""

    def __init__(
        self,
        builder: Builder,
        layout: Layout,
        formulas: Formulas,
        spec: Objects,
        node: Callable[[int], int],
        *,
        ordered: bool,
    ) -> None:
        """`node` gives the node of a formula."""
        self._builder = builder
        self._layout = layout
        self._formulas = formulas
        self._spec = spec
        self._node = node
        self._ordered = ordered
        self._entries = self._named()
        names = [e.name for e in self._entries]
        self._others = list(other_keys(builder, formulas, spec, names))
        most = spec.most()
        unbounded = spec.high is None or (most is not None and most < spec.high)
        self._high = None if unbounded else spec.high
        self._counted = self._high is not None or spec.low > 1
        if not ordered and len(self._entries) > MAX_SUBSETS:
            refuse(f"more than {MAX_SUBSETS} properties in any order, of which some depend on "
                   "others", "properties", "", "keep to the order of the schema")  # fmt: skip

    def _named(self) -> list[_Entry]:
        spec = self._spec
        clauses = sorted(spec.clauses, key=lambda c: (sorted(c[0]), sorted(c[1])))
        names = dict.fromkeys(spec.names)
        for absent, present in clauses:
            names |= dict.fromkeys([*sorted(absent), *sorted(present)])
        names |= spec.required
        found = {n: _Entry(n, spec.value(n), n in spec.required) for n in names}
        for i, (absent, present) in enumerate(clauses):
            for name in absent:
                found[name].spares |= 1 << i
            for name in present:
                found[name].settles |= 1 << i
            found[[n for n in names if n in absent or n in present][-1]].ends |= 1 << i
        for i, (keys, _) in enumerate(spec.some):
            for entry in found.values():
                entry.some |= holds(keys, entry.name) << i
        return list(found.values())

    def lower(self) -> int:
        """The node of the network; its states are made as they are reached."""
        work = self._builder.work
        positions = [_Position()]
        numbers = {positions[0]: 0}
        states: list[tuple[Option, ...]] = []
        for position in positions:  # grows while it is walked
            options: list[Option] = []
            for symbols, after in self._steps(position):
                if after is not None and after not in numbers:
                    numbers[after] = len(positions)
                    positions.append(after)
                options.append((symbols, DONE if after is None else numbers[after]))
            work.spend(2 + len(options))
            states.append(tuple(options))
        number = self._builder.reserve()
        self._builder.define(number, Network(tuple(states), nests=True))
        return number

    def _steps(self, position: _Position) -> Iterator[_Step]:
        entries = self._entries
        if self._ordered:
            if position.behind < len(entries):
                entry = entries[position.behind]
                yield from self._present(position, entry, position.behind + 1)
                if not entry.required:
                    after = self._settled(position, entry, entry.spares, position.behind + 1)
                    if after is not None:
                        yield (), after
                return
        else:
            for i, entry in enumerate(entries):
                if not position.behind >> i & 1:
                    yield from self._present(position, entry, position.behind | 1 << i)
        yield from self._other(position)
        if self._may_close(position):
            layout = self._layout
            yield (layout.close_object if position.started else layout.empty_object,), None

    def _present(self, position: _Position, entry: _Entry, index: int) -> Iterator[_Step]:
        if entry.formula == FALSE or not self._room(position):
            return
        after = self._settled(position, entry, entry.settles, index)
        if after is None:
            return
        after = self._counted_up(after)
        key = self._layout.name(entry.name)[position.started]
        for some, formula in self._choices(entry.some & ~position.some, entry.formula):
            yield (*key, self._node(formula)), after._replace(some=after.some | some)

    def _settled(
        self, position: _Position, entry: _Entry, met: int, index: int
    ) -> _Position | None:
        """The position once a name is behind; None if a clause is then broken."""
        if not self._ordered:
            return position._replace(behind=index)
        clauses = position.clauses | met
        if entry.ends & ~clauses:
            return None
        return position._replace(behind=index, clauses=clauses & ~entry.ends)

    def _other(self, position: _Position) -> Iterator[_Step]:
        if not self._room(position):
            return
        layout = self._layout
        sign = layout.comma if position.started else layout.open_object
        after = self._counted_other(position)
        for key, value, may in self._others:
            # It may be the key with which an obligation was met: its value takes the place.
            met = [self._spec.some[i][1] for i in _bits(may & position.some)]
            if (again := self._formulas.and_([value, *met])) == FALSE:
                continue
            for some, formula in self._choices(may & ~position.some, again):
                nodes = (sign, key, layout.colon, self._node(formula))
                yield nodes, after._replace(some=after.some | some)

    def _choices(self, may: int, formula: int) -> Iterator[tuple[int, int]]:
        """What a value may be, and which obligations it then meets."""
        yield 0, formula
        wanted = _bits(may)
        for size in range(1, len(wanted) + 1):
            for chosen in combinations(wanted, size):
                self._builder.work.spend(1)
                both = self._formulas.and_([formula, *(self._spec.some[i][1] for i in chosen)])
                if both != FALSE:
                    yield sum(1 << i for i in chosen), both

    def _room(self, position: _Position) -> bool:
        return self._high is None or position.members < self._high

    def _counted_up(self, position: _Position) -> _Position:
        if not self._counted:
            return position._replace(started=True)
        members = position.members + 1
        if self._high is None:
            members = min(members, self._spec.low)
        return position._replace(started=True, members=members)

    def _counted_other(self, position: _Position) -> _Position:
        """Keys without a name may repeat each other: only the first is surely one more."""
        if not position.other:
            return self._counted_up(position)._replace(other=self._spec.low > 1)
        if self._high is None:
            return position
        return self._counted_up(position)._replace(repeats=position.repeats + 1)

    def _may_close(self, position: _Position) -> bool:
        spec = self._spec
        if position.some != (1 << len(spec.some)) - 1:
            return False
        fewest = position.members - position.repeats if self._counted else int(position.started)
        if fewest < spec.low:
            return False
        if self._ordered:
            return True
        met = 0
        for i, entry in enumerate(self._entries):
            there = position.behind >> i & 1
            if entry.required and not there:
                return False
            met |= entry.settles if there else entry.spares
        return met == (1 << len(spec.clauses)) - 1


def _bits(number: int) -> list[int]:
    return [i for i in range(number.bit_length()) if number >> i & 1]


def other_keys(
    builder: Builder, formulas: Formulas, spec: Objects, names: Iterable[str]
) -> Iterator[tuple[int, int, int]]:
    """(key node, formula of the value, obligations that it may meet) of keys without a name."""
    work = builder.work
    names = list(names)
    pieces = []
    free = Strings.values(names).complement()
    for keys, formula in spec.classes:
        if formula != FALSE:
            inside = [name for name in names if holds(keys, name)]
            pieces.append((keys.meet(Strings.values(inside).complement()), formula, 0))
        if spec.rest != FALSE:
            free = free.meet(keys.complement())
    if spec.rest != FALSE:
        pieces.append((free, spec.rest, 0))
    for i, (wanted, _) in enumerate(spec.some):
        split = []
        for keys, formula, some in pieces:
            work.spend(1)
            split.append((keys.meet(wanted), formula, some | 1 << i))
            split.append((keys.meet(wanted.complement()), formula, some))
        pieces = [p for p in split if not formulas.no_string(p[0])]
    never = builder.never()
    for keys, formula, some in pieces:
        key = simplified(keys).lower_key(builder)
        if key != never:
            yield key, formula, some
