"""Proofs that no JSON value is in a set, or in two.  No proof does not mean that there is one."""

from __future__ import annotations

from collections.abc import Callable

from sgen.grammars.json_arrays import Arrays
from sgen.grammars.json_formula import FALSE, TRUE, Formulas
from sgen.grammars.json_normal import Normal
from sgen.grammars.json_objects import Objects
from sgen.grammars.work import Work

MAX_TAGS = 4
"""Members that may tell many sets of objects apart."""

MAX_ITEMS = 8
"""First items of an array that are looked at."""


class CycleError(Exception):
    """A formula that is defined by itself."""


class Proofs:
    """What is known of formulas; `normal` gives their normal forms, or raises CycleError.

    While a formula is being looked into, it is taken for possible.
    """

    def __init__(self, formulas: Formulas, normal: Callable[[int], Normal], work: Work) -> None:
        self._formulas = formulas
        self._normal = normal
        self._work = work
        self._empty: dict[int, bool] = {TRUE: False, FALSE: True}
        self._apart: dict[tuple[int, int], bool] = {}
        self._testing: set[int | tuple[int, int]] = set()

    def empty(self, formula: int) -> bool:
        """Whether it is proved that no value satisfies a formula."""
        known = self._empty.get(formula)
        if known is not None:
            return known
        if formula in self._testing:
            return False
        self._testing.add(formula)
        try:
            normal = self._normal(formula)
            found = not (normal.null or normal.booleans) and (
                all(n.is_empty(self._work) for n in normal.numbers)
                and all(map(self._formulas.no_string, normal.strings))
                and all(map(self._no_array, normal.arrays))
                and all(map(self._no_object, normal.objects))
            )
        except CycleError:
            return False
        finally:
            self._testing.discard(formula)
        self._empty[formula] = found
        return found

    def _no_array(self, spec: Arrays) -> bool:
        first = range(min(spec.low, MAX_ITEMS))
        return spec.impossible() or any(self.empty(spec.item(i)) for i in first)

    def _no_object(self, spec: Objects) -> bool:
        return (
            spec.impossible()
            or any(self.empty(spec.value(name)) for name in spec.required)
            or any(self.empty(formula) for _, formula in spec.some)
        )

    def emptied(self, both: Objects, a: Objects, b: Objects) -> bool:
        """Whether two sets of objects have none in common because of a member that one requires;
        `both` is their intersection."""
        return any(
            (value := both.value(name)) not in (a.value(name), b.value(name)) and self.empty(value)
            for name in both.required
        )

    def told_apart(self, formulas: list[int]) -> bool:
        """Whether it is seen that no value satisfies any two of them: by their listed values, or
        by those of a member that they all require."""
        try:
            normals = [self._normal(formula) for formula in formulas]
            if self._different(normals):
                return True
            objects = [n.objects[0] for n in normals if n.parts == len(n.objects) == 1]
            if len(objects) < len(normals) or any(n.null or n.booleans for n in normals):
                return False
            shared = [n for n in objects[0].required if all(n in o.required for o in objects)]
            return any(
                self._different([self._normal(o.value(name)) for o in objects])
                for name in shared[:MAX_TAGS]
            )
        except CycleError:
            return False

    def _different(self, normals: list[Normal]) -> bool:
        """Whether these are lists of values, none of which is in two of them."""
        found: set[object] = set()
        size = 0
        for normal in normals:
            values = normal.listed()
            if values is None:
                return False
            size += len(values)
            found |= values
        self._work.spend(1 + size // 16)
        return len(found) == size

    def disjoint(self, a: int, b: int) -> bool:
        """Whether it is proved that no value satisfies both."""
        if a == b or FALSE in (a, b):
            return self.empty(a) or self.empty(b)
        if self._formulas.opposed(a, b):
            return True
        key = (a, b) if a < b else (b, a)
        known = self._apart.get(key)
        if known is not None:
            return known
        if key in self._testing:
            return False
        self._testing.add(key)
        self._work.spend(1)
        try:
            found = self._disjoint(self._normal(a), self._normal(b))
        except CycleError:
            return False
        finally:
            self._testing.discard(key)
        self._apart[key] = found
        return found

    def _disjoint(self, a: Normal, b: Normal) -> bool:
        if (a.null and b.null) or a.booleans & b.booleans:
            return False
        work, no_string = self._work, self._formulas.no_string
        return (
            all(self._no_objects(x, y) for x in a.objects for y in b.objects)
            and all(x.meet(y).is_empty(work) for x in a.numbers for y in b.numbers)
            and all(no_string(x.meet(y)) for x in a.strings for y in b.strings)
            and all(self._no_arrays(x, y) for x in a.arrays for y in b.arrays)
        )

    def _no_arrays(self, a: Arrays, b: Arrays) -> bool:
        self._work.spend(1)
        both = a.meet(b, self._formulas, self._work)
        if both is None:
            return True
        return any(self.disjoint(a.item(i), b.item(i)) for i in range(min(both.low, MAX_ITEMS)))

    def _no_objects(self, a: Objects, b: Objects) -> bool:
        """By a member that one of them requires, and for which the other has no such value."""
        required = a.required | b.required
        self._work.spend(1 + len(required) // 8)
        if any(self.disjoint(a.value(name), b.value(name)) for name in required):
            return True
        if not (a.clauses or b.clauses or a.low or b.low or a.high or b.high or a.some or b.some):
            most = [m for m in (a.most(), b.most()) if m is not None]
            return bool(most) and len(required) > min(most)
        return a.meet(b, self._formulas, self._work) is None
