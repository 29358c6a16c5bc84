"""Sets of JSON values in normal form as nodes of a grammar."""

from __future__ import annotations

from collections.abc import Callable

from sgen.grammars.builder import Builder
from sgen.grammars.json_algebra import Algebra
from sgen.grammars.json_array_frames import ArrayNetwork
from sgen.grammars.json_arrays import Arrays
from sgen.grammars.json_document import Where, pointer_of
from sgen.grammars.json_formula import FALSE
from sgen.grammars.json_layout import Layout
from sgen.grammars.json_normal import Normal
from sgen.grammars.json_numbers import Numbers
from sgen.grammars.json_object_frames import (
    MAX_SUBSETS,
    MAX_UNORDERED,
    Declared,
    ObjectNetwork,
    Order,
    keeps_order,
    other_keys,
    plain_object,
    unordered_object,
)
from sgen.grammars.json_objects import Objects
from sgen.grammars.json_text import refuse, write


class SetFrames:
    """Nodes of sets; `node` gives those of the formulas of their members and items."""

    def __init__(
        self,
        builder: Builder,
        layout: Layout,
        algebra: Algebra,
        node: Callable[[int], int],
        order: Order,
    ) -> None:
        self._builder = builder
        self._layout = layout
        self._algebra = algebra
        self._node = node
        self._order = order

    def normal(self, normal: Normal, where: Where) -> int:
        """The node of a set of values; `where` its schema stands, if it is one."""
        builder, point_zero = self._builder, self._layout.point_zero
        found = []
        if normal.null:
            found.append(builder.literal(b"null"))
        if normal.booleans:
            found.append(builder.words(_boolean(b) for b in sorted(normal.booleans)))
        found += [n.lower(builder, point_zero=point_zero) for n in normal.numbers]
        found += [strings.lower(builder) for strings in normal.strings]
        found += [self.array(arrays) for arrays in normal.arrays]
        found += [self._object(objects, where) for objects in normal.objects]
        return builder.alternatives(found)

    def array(self, spec: Arrays) -> int:
        """The node of a set of arrays."""
        network = ArrayNetwork(
            self._builder, self._layout, self._algebra.formulas, spec, self._node, self._listed
        )
        return network.lower()

    def _listed(self, formula: int) -> list[int] | None:
        """The nodes of the values of a formula, one each; None if they are not all listed."""
        normal = self._algebra.normal(formula)
        numbers = [n.finite for n in normal.numbers]
        strings = [s.finite for s in normal.strings]
        if normal.arrays or normal.objects or None in numbers or None in strings:
            return None
        builder = self._builder
        found = [builder.literal(b"null")] if normal.null else []
        found += [builder.literal(_boolean(b)) for b in sorted(normal.booleans)]
        for values in numbers:
            found += [
                Numbers(only=frozenset([v])).lower(builder, point_zero=self._layout.point_zero)
                for v in sorted(values or ())
            ]
        for texts in strings:
            found += [builder.literal(write(text)) for text in sorted(texts or ())]
        return found

    def _check_low(self, spec: Objects, where: Where) -> None:
        named = sum(value != FALSE for value in spec.names.values())
        named += len(spec.required.keys() - spec.names.keys())
        if not spec.closed() and spec.low > named + 1:
            refuse(f"at least {spec.low:,} properties of which {named:,} are declared is not "
                   "supported: others may repeat each other", "minProperties",
                   pointer_of(where), "declare more of them, or lower the bound")  # fmt: skip

    def _object(self, spec: Objects, where: Where) -> int:
        builder, layout, formulas = self._builder, self._layout, self._algebra.formulas
        most = spec.most()
        free = spec.high is None or (most is not None and most < spec.high)
        counted = spec.low > 1 or not free
        order = self._order
        if order == "relaxed" and len(spec.names) + len(spec.required) > MAX_UNORDERED:
            order = "schema"
        if order != "schema":  # `Unordered` counts other keys, but only one as the least
            counted = spec.low > len(spec.required) + 1 and not spec.closed()
        self._check_low(spec, where)
        if spec.some or spec.clauses or counted:
            ordered = order == "schema" or (
                order == "relaxed" and len(spec.names) + len(spec.required) > MAX_SUBSETS
            )
            network = ObjectNetwork(builder, layout, formulas, spec, self._node, ordered=ordered)
            return network.lower()
        names = dict.fromkeys((*spec.names, *spec.required))
        members = [
            Declared(name, self._node(value), name in spec.required)
            for name in names
            if (value := spec.value(name)) != FALSE or name in spec.required
        ]
        others = [(key, self._node(f)) for key, f, _ in other_keys(builder, formulas, spec, names)]
        if keeps_order(order, members, others) and free and spec.low <= 1:
            return plain_object(builder, layout, members, others, empty=not spec.low)
        high = None if free else spec.high
        leading = spec.required if order == "relaxed" else ()
        return unordered_object(
            builder, layout, members, others, spec.low, high, pointer_of(where), leading
        )


def _boolean(value: bool) -> bytes:
    return b"true" if value else b"false"
