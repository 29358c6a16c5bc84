"""Sets of JSON objects, closed under intersection and complement.

What a schema demands of an object is of four kinds: that every member with some key has some
value; that some member is there; how many members there are; and that of some names one is there
or another is not.  The complement of each is of these kinds again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace

from sgen.grammars.json_formula import FALSE, TRUE, Formulas
from sgen.grammars.json_heads import holds
from sgen.grammars.json_strings import Strings
from sgen.grammars.work import Work

Clause = tuple[frozenset[str], frozenset[str]]
"""One of the first names is absent, or one of the second is present."""

Classes = tuple[tuple[Strings, int], ...]
"""Disjoint sets of keys, and the formula of their members' values."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The keys whose members a schema has looked at, as `unevaluatedProperties` counts them."""

    names: frozenset[str] = frozenset()
    keys: frozenset[Strings] = frozenset()
    all: bool = False

    def join(self, other: Seen) -> Seen:
        return Seen(self.names | other.names, self.keys | other.keys, self.all or other.all)


UNSEEN = Seen()


@dataclass(frozen=True, slots=True)
class Objects:
    """A set of objects; formulas are numbers of `Formulas`.

    The value of a member is in `names` if its key is, else in the one class that has the key, else
    in `rest`; names and `required` are in the order of the schema.  `some` are (keys, formula) of
    which a member must be there.  `low` and `high` bound the number of members.
    """

    names: dict[str, int] = field(default_factory=dict)
    required: dict[str, None] = field(default_factory=dict)
    classes: Classes = ()
    rest: int = TRUE
    some: tuple[tuple[Strings, int], ...] = ()
    clauses: frozenset[Clause] = frozenset()
    low: int = 0
    high: int | None = None
    seen: Seen = UNSEEN

    def key(self) -> Hashable:
        """Equal for equal sets that differ in the order of their names only."""
        return (
            frozenset(self.names.items()), frozenset(self.required), self.classes, self.rest,
            self.some, self.clauses, self.low, self.high, self.seen,
        )  # fmt: skip

    def value(self, name: str) -> int:
        """The formula of the member of that name."""
        found = self.names.get(name)
        if found is not None:
            return found
        for keys, formula in self.classes:
            if holds(keys, name):
                return formula
        return self.rest

    def meet(self, other: Objects, formulas: Formulas, work: Work) -> Objects | None:
        """The objects in both; None if there is visibly none."""
        if other == _ALL:
            return self
        if self == _ALL:
            return other
        work.spend(2 + (len(self.names) + len(other.names)) // 2)
        highs = [h for h in (self.high, other.high) if h is not None]
        required = self.required | other.required
        names = {}
        for name in (*self.names, *other.names):
            if name not in names:
                names[name] = formulas.both(self.value(name), other.value(name))
        met = Objects(
            names,
            required,
            _crossed(self, other, formulas, work),
            formulas.both(self.rest, other.rest),
            tuple(dict.fromkeys(self.some + other.some)),
            self.clauses | other.clauses,
            max(self.low, other.low),
            min(highs, default=None),
            self.seen.join(other.seen),
        )
        if met.impossible():
            return None
        return met._settled(formulas) if met.some else met

    def impossible(self) -> bool:
        """Whether one can see that no object is in it."""
        most = self.most()
        if most is not None and max(self.low, len(self.required)) > most:
            return True
        if any(self.value(name) == FALSE for name in self.required):
            return True
        return any(
            self.required.keys() >= absent and all(self.value(n) == FALSE for n in present)
            for absent, present in self.clauses
        )

    def _settled(self, formulas: Formulas) -> Objects | None:
        """The same set, where a member that must be there, but for which there is only one name,
        is required by that name; None if there is none at all."""
        names, required, some = dict(self.names), dict(self.required), []
        for keys, wanted in self.some:
            inside = {
                name: both
                for name, formula in names.items()
                if holds(keys, name) and (both := formulas.both(formula, wanted)) != FALSE
            }
            if self._has_others(keys, wanted, formulas) or len(inside) > 1:
                some.append((keys, wanted))
            elif not inside:
                return None
            else:
                names |= inside
                required |= dict.fromkeys(inside)
        return replace(self, names=names, required=required, some=tuple(some))

    def _has_others(self, keys: Strings, wanted: int, formulas: Formulas) -> bool:
        """Whether a member without a name may have one of these keys, and be in a formula."""
        return formulas.both(self.rest, wanted) != FALSE or any(
            formulas.both(formula, wanted) != FALSE and not formulas.no_string(own.meet(keys))
            for own, formula in self.classes
        )

    def closed(self) -> bool:
        """Whether every key has a name."""
        return self.rest == FALSE and all(formula == FALSE for _, formula in self.classes)

    def most(self) -> int | None:
        """No object has more members; None: no bound."""
        if not self.closed():
            return self.high
        possible = sum(f != FALSE for f in self.names.values())
        return possible if self.high is None else min(possible, self.high)

    def complement(self, formulas: Formulas, flip: Callable[[int], int]) -> list[Objects]:
        """The objects that are not in it, as a union; `flip` complements a formula."""
        found = []
        for name, formula in self.names.items():
            inverse = flip(formula)
            if inverse != FALSE:
                found.append(Objects({name: inverse}, {name: None}))
        found += [Objects({name: FALSE}) for name in self.required]
        for keys, formula in self._others():
            inverse = flip(formula)
            if inverse != FALSE and not formulas.no_string(keys):
                found.append(Objects(some=((keys, inverse),)))
        for keys, formula in self.some:
            found.append(every(keys, flip(formula)))
        for absent, present in sorted(self.clauses, key=str):
            found.append(
                Objects(dict.fromkeys(sorted(present), FALSE), dict.fromkeys(sorted(absent)))
            )
        if self.low:
            found.append(Objects(high=self.low - 1))
        if self.high is not None:
            found.append(Objects(low=self.high + 1))
        return found

    def _others(self) -> Iterable[tuple[Strings, int]]:
        """The classes and the rest, less the names."""
        if self.rest == TRUE and all(f == TRUE for _, f in self.classes):
            return
        free = Strings.values(list(self.names)).complement()
        for keys, formula in self.classes:
            yield keys.meet(free), formula
            free = free.meet(keys.complement())
        yield free, self.rest


_ALL = Objects()


def every(keys: Strings, formula: int) -> Objects:
    """The objects whose members with these keys have values in `formula`."""
    listed = keys.finite
    if listed is not None and len(listed) < 2:
        return Objects(dict.fromkeys(listed, formula))
    if keys == Strings.everything():
        return Objects(rest=formula)
    return Objects(classes=((keys, formula),))


def only(keys: Iterable[Strings]) -> Objects:
    """The objects whose keys are all in one of these sets."""
    classes: list[tuple[Strings, int]] = []
    for one in keys:
        if one == Strings.everything():
            return _ALL
        for before, _ in classes:
            one = one.meet(before.complement())
        classes.append((one, TRUE))
    return Objects(classes=tuple(classes), rest=FALSE)


def unseen(spec: Objects, formula: int) -> Objects:
    """The objects whose members that `spec` has not looked at have values in `formula`."""
    if spec.seen.all:
        return _ALL
    classes = only(sorted(spec.seen.keys, key=str)).classes
    return Objects(dict.fromkeys(sorted(spec.seen.names), TRUE), classes=classes, rest=formula)


def _crossed(a: Objects, b: Objects, formulas: Formulas, work: Work) -> Classes:
    """The classes of both, split where they overlap."""
    if not b.classes and b.rest == TRUE:
        return a.classes
    if not a.classes and a.rest == TRUE:
        return b.classes
    found = []
    rest_a, rest_b = a.classes, b.classes
    for keys, formula in rest_a:
        for other, second in rest_b:
            if keys == other:
                found.append((keys, formulas.both(formula, second)))
                break
            shared = keys.meet(other)
            work.spend(6)
            if not formulas.no_string(shared):
                found.append((shared, formulas.both(formula, second)))
                keys = keys.meet(other.complement())
        else:
            found.append((keys, formulas.both(formula, b.rest)))
    for keys, formula in rest_b:
        for other, _ in rest_a:
            if keys == other:
                break
            if not formulas.no_string(keys.meet(other)):
                keys = keys.meet(other.complement())
        else:
            found.append((keys, formulas.both(formula, a.rest)))
    return tuple((k, f) for k, f in found if not formulas.no_string(k))
