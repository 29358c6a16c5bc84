"""What formulas over JSON Schemas mean: sets of values in a normal form by type.

A set is a union: null, booleans, and of each other type some conjunctive parts (`Numbers`,
`Strings`, `Arrays`, `Objects`) whose members and items are formulas again, not looked into.  So a
schema is complemented and intersected one level at a time.  Compare L. Attouche et al., "Witness
generation for JSON Schema" (VLDB 2022), for such an algebra.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import reduce
from itertools import combinations
from typing import Any

from sgen.grammars.json_arrays import Arrays
from sgen.grammars.json_formula import FALSE, TRUE, Formulas, Kind
from sgen.grammars.json_normal import (
    EVERYTHING,
    NOTHING,
    Normal,
    distinct_objects,
    joined_numbers,
    joined_strings,
    union,
)
from sgen.grammars.json_numbers import Numbers
from sgen.grammars.json_objects import Objects
from sgen.grammars.json_proofs import CycleError, Proofs
from sgen.grammars.json_strings import Strings
from sgen.grammars.json_text import refuse
from sgen.grammars.work import Work

MAX_TRACKED = 6
"""Branches of an anyOf, any number of which may hold, below unevaluatedProperties."""

SMALL = 24
"""Schemas inside a branch of oneOf, up to which its complement is worked out exactly."""


class Algebra:
    """Normal forms of formulas; `read` gives those of leaves."""

    def __init__(
        self,
        formulas: Formulas,
        read: Callable[[Any], Normal | int],
        work: Work,
        *,
        tracks: bool,
    ) -> None:
        """`read` gives the normal form of a leaf, or the formula that it stands for.  `tracks`:
        the schema asks somewhere which members were looked at."""
        self.formulas = formulas
        self.proofs = Proofs(formulas, self.normal, work)
        self._work = work
        self._read = read
        self._tracks = tracks
        self._normals: dict[int, Normal] = {TRUE: EVERYTHING, FALSE: NOTHING}
        self._open: set[int] = set()

    def normal(self, formula: int) -> Normal:
        """Its normal form.  CycleError if that needs itself."""
        known = self._normals.get(formula)
        if known is None:
            if formula in self._open:
                raise CycleError
            self._open.add(formula)
            try:
                known = self._normals[formula] = self._make(formula)
            finally:
                self._open.discard(formula)
        return known

    def _make(self, formula: int) -> Normal:
        self._work.spend(1)
        formulas = self.formulas
        kind, parts = formulas.kind(formula), formulas.parts(formula)
        if kind == "leaf":
            found = self._read(formulas.content(formula))
            return self.normal(found) if isinstance(found, int) else found
        if kind in ("not", "less"):
            return self._outside(kind, *parts)
        if kind == "and":
            return self._all(parts)
        if kind == "one":
            return self.join(map(self.normal, self.exclusive(parts)))
        if self._tracks:
            return self._tracked(parts)
        return self.join(map(self.normal, parts))

    def _outside(self, kind: Kind, leaf: int, depth: int = 0) -> Normal:
        """The normal form of a complement, or of a part of it."""
        formulas = self.formulas
        found = self._read(formulas.content(leaf))
        if isinstance(found, int):
            exact = kind == "not"
            return self.normal(formulas.not_(found) if exact else formulas.less(found, depth))
        normal = self.normal(leaf)
        if kind == "not":
            return self.complement(normal, formulas.not_)
        if depth and not any(a.unique for a in normal.arrays):
            return self.complement(normal, lambda f: formulas.less(f, depth - 1))
        flat = self.complement(replace(normal, arrays=(), objects=()), formulas.not_)
        return replace(
            flat,
            arrays=() if normal.arrays else flat.arrays,
            objects=() if normal.objects else flat.objects,
        )

    def _all(self, parts: tuple[int, ...]) -> Normal:
        """An intersection.  What all branches of a oneOf have in common may tell them apart."""
        one = next((p for p in parts if self.formulas.kind(p) == "one"), None)
        if one is None:
            return reduce(self.meet, map(self.normal, parts))
        others = self.formulas.and_(p for p in parts if p != one)
        branches = self.formulas.parts(one)
        return self.join(map(self.normal, self.exclusive(branches, others)))

    def exclusive(self, parts: tuple[int, ...], common: int = TRUE) -> list[int]:
        """Formulas that no two have in common, for the values in `common` that just one of
        `parts` holds.

        Of values that hold a large part of which another large part is not surely told apart
        within its first levels, some are left out.
        """
        and_ = self.formulas.and_
        within = [and_((common, part)) for part in parts]
        possible = [
            i for i, part in enumerate(within) if common == TRUE or not self.proofs.empty(part)
        ]
        overlaps: dict[int, list[int]] = {i: [] for i in possible}
        if not self.proofs.told_apart([within[i] for i in possible]):
            for i, j in combinations(possible, 2):
                if not self.proofs.disjoint(within[i], within[j]):
                    overlaps[i].append(j)
                    overlaps[j].append(i)
        return [
            and_([within[i], *(self._without(parts[j]) for j in others)])
            for i, others in overlaps.items()
        ]

    def _without(self, formula: int) -> int:
        if self._tracks or self._size(formula, SMALL, frozenset()) < SMALL:
            return self.formulas.not_(formula)
        return self.formulas.less(formula, 1)

    def _size(self, formula: int, limit: int, seen: frozenset[int]) -> int:
        """Formulas inside a formula, up to a limit; recursive ones have no end."""
        if formula in seen or formula in self._open:
            return limit
        seen = seen | {formula}
        try:
            normal = self.normal(formula)
        except CycleError:
            return limit
        found = len(normal.objects) + len(normal.arrays)
        for one in _inside(normal):
            if one in (TRUE, FALSE):
                continue
            found += 1 + (self._size(one, limit - found, seen) if found < limit else 0)
            if found >= limit:
                return limit
        return found

    def _tracked(self, parts: tuple[int, ...]) -> Normal:
        """A union in which a value that several hold has been looked at by all of these."""
        normals = [self.normal(p) for p in parts]
        if all(n.unseen() for n in normals):
            return self.join(normals)
        if len(parts) > MAX_TRACKED:
            refuse(f"unevaluated members beside anyOf of more than {MAX_TRACKED} schemas",
                   "unevaluatedProperties", "", "say which members there may be")  # fmt: skip
        for size in range(2, len(parts) + 1):
            for chosen in combinations(parts, size):
                normals.append(self.normal(self.formulas.and_(chosen)))
        return self.join(normals)

    # Intersection, union, complement.

    def meet(self, a: Normal, b: Normal) -> Normal:
        if a is EVERYTHING:
            return b
        if b is EVERYTHING:
            return a
        self._work.spend(1)
        return Normal(
            a.null and b.null,
            a.booleans & b.booleans,
            self._numbers(a.numbers, b.numbers),
            self._strings(a.strings, b.strings),
            self._arrays(a.arrays, b.arrays),
            self._objects(a.objects, b.objects),
        )

    def _numbers(self, a: Iterable[Numbers], b: Iterable[Numbers]) -> tuple[Numbers, ...]:
        both = [x.meet(y) for x in a for y in b]
        self._work.spend(len(both))
        return joined_numbers([n for n in both if n.finite is None or n.finite])

    def _strings(self, a: Iterable[Strings], b: Iterable[Strings]) -> tuple[Strings, ...]:
        both = [x.meet(y) for x in a for y in b]
        self._work.spend(len(both))
        possible = (s for s in both if s.finite is None or s.finite)
        return joined_strings([s for s in possible if s.high is None or s.low <= s.high])

    def _arrays(self, a: Iterable[Arrays], b: Iterable[Arrays]) -> tuple[Arrays, ...]:
        both = [x.meet(y, self.formulas, self._work) for x in a for y in b]
        return tuple(dict.fromkeys(x for x in both if x is not None))

    def _objects(self, a: tuple[Objects, ...], b: tuple[Objects, ...]) -> tuple[Objects, ...]:
        """Of several, those that are proved to be empty are left out."""
        found = []
        several = len(a) + len(b) > 2
        for x in a:
            for y in b:
                both = x.meet(y, self.formulas, self._work)
                if both is not None and not (several and self.proofs.emptied(both, x, y)):
                    found.append(both)
        return distinct_objects(found)

    def join(self, normals: Iterable[Normal]) -> Normal:
        found = union(normals)
        self._work.spend(1 + found.parts // 8)
        return found

    def complement(self, normal: Normal, flip: Callable[[int], int]) -> Normal:
        """All other values; `flip` complements the formulas of members and items."""
        if any(array.unique for array in normal.arrays):
            refuse("arrays that hold one value twice cannot be told from the others",
                   "uniqueItems", "", "leave it out where it is negated")  # fmt: skip
        numbers, strings = EVERYTHING.numbers, EVERYTHING.strings
        arrays, objects = EVERYTHING.arrays, EVERYTHING.objects
        for one in normal.numbers:
            numbers = self._numbers(numbers, (one.complement(),))
        for some in normal.strings:
            strings = self._strings(strings, (some.complement(),))
        for array in normal.arrays:
            arrays = self._arrays(arrays, array.complement(flip))
        for spec in normal.objects:
            objects = self._objects(objects, tuple(spec.complement(self.formulas, flip)))
        booleans = frozenset((False, True)) - normal.booleans
        return Normal(not normal.null, booleans, numbers, strings, arrays, objects)


def _inside(normal: Normal) -> Iterator[int]:
    """The formulas of members and items."""
    for spec in normal.objects:
        yield from spec.names.values()
        yield from (formula for _, formula in (*spec.classes, *spec.some))
        yield spec.rest
    for array in normal.arrays:
        yield from (*array.prefix, array.rest)
        yield from (among.formula for among in array.among)
