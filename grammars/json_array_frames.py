"""Arrays as networks: the items that have a place of their own, and then others.

Counts are kept by a `Repeat`, unless some of the items are counted apart; then they are in the
network's states.  That no two items are equal is enforced where the items are a few listed values:
these are read at most once each, in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

from sgen.grammars.builder import Builder
from sgen.grammars.frames import DONE, Member, Network, Option, Repeat, Unordered
from sgen.grammars.json_arrays import Among, Arrays
from sgen.grammars.json_document import pointer_of
from sgen.grammars.json_formula import FALSE, TRUE, Formulas
from sgen.grammars.json_layout import Layout
from sgen.grammars.json_text import join, refuse

MAX_DISTINCT = 60
MAX_STATES = 5_000

Listed = Callable[[int], "list[int] | None"]
"""The nodes of the values of a formula, one each; None if they are not listed."""


def plain_array(
    builder: Builder,
    layout: Layout,
    prefix: list[int],
    rest: int | None,
    low: int,
    high: int | None,
) -> int:
    """The array of these items and then any number of `rest`; from `low` to `high` in all."""
    states: list[tuple[Option, ...]] = []
    fixed = max(len(prefix), 1)
    more = rest is not None and (high is None or high > fixed)
    for i in range(fixed):
        item = prefix[i] if i < len(prefix) else rest
        options: list[Option] = []
        if item is not None and (high is None or i < high):
            options.append(((layout.comma if i else layout.open_array, item), i + 1))
        if i >= low:
            options.append(((layout.close_array if i else layout.empty_array,), DONE))
        states.append(tuple(options))
    close: Option = ((layout.close_array,), DONE)
    if rest is None or not more:
        states.append((close,) if fixed >= low else ())
    elif high is None and low <= fixed:
        states.append((((layout.comma, rest), fixed), close))
    else:
        item = builder.sequence((layout.comma, rest))
        counted = Repeat(item, max(low - fixed, 0), None if high is None else high - fixed)
        states += [(((builder.frame(counted),), fixed + 1),), (close,)]
    number = builder.reserve()
    builder.define(number, Network(tuple(states), nests=True))
    return number


class ArrayNetwork:
    """The network of one `Arrays`, whatever it demands; `node` gives the node of a formula."""

    def __init__(
        self,
        builder: Builder,
        layout: Layout,
        formulas: Formulas,
        spec: Arrays,
        node: Callable[[int], int],
        listed: Listed,
    ) -> None:
        self._builder = builder
        self._layout = layout
        self._formulas = formulas
        self._spec = spec
        self._node = node
        self._listed = listed
        self._high = spec.most()

    def lower(self) -> int:
        spec = self._spec
        if spec.unique is not None and (self._high is None or self._high > 1):
            return self._distinct(pointer_of(spec.unique[0]))
        if spec.among:
            return self._counted()
        prefix = spec.prefix if self._high is None else spec.prefix[: self._high]
        return plain_array(
            self._builder,
            self._layout,
            list(map(self._node, prefix)),
            None if spec.rest == FALSE else self._node(spec.rest),
            spec.low,
            self._high,
        )

    def _counted(self) -> int:
        """States are (items so far, of each kind that is counted so far)."""
        spec, layout = self._spec, self._layout
        start = (0, (0,) * len(spec.among))
        positions, numbers = [start], {start: 0}
        states: list[tuple[Option, ...]] = []
        for index, counts in positions:  # grows while it is walked
            options: list[Option] = []
            for formula, after in self._items(index, counts):
                if after not in numbers:
                    numbers[after] = len(positions)
                    positions.append(after)
                sign = layout.comma if index else layout.open_array
                options.append(((sign, self._node(formula)), numbers[after]))
            if index >= spec.low and all(
                c >= a.low for c, a in zip(counts, spec.among, strict=True)
            ):
                options.append(((layout.close_array if index else layout.empty_array,), DONE))
            states.append(tuple(options))
            self._builder.work.spend(1 + len(options))
            if len(states) > MAX_STATES:
                refuse(f"counting some of the items needs more than {MAX_STATES:,} states",
                       "contains", "", "use smaller bounds")  # fmt: skip
        number = self._builder.reserve()
        self._builder.define(number, Network(tuple(states), nests=True))
        return number

    def _items(
        self, index: int, counts: tuple[int, ...]
    ) -> Iterator[tuple[int, tuple[int, tuple[int, ...]]]]:
        """Formulas of the next item, and the position after it."""
        spec = self._spec
        if self._high is not None and index >= self._high:
            return
        after = index + 1
        if self._high is None:
            starts = [a.start for a in spec.among]
            after = min(after, max(len(spec.prefix), spec.low, *starts, 1))
        ways = [self._ways(index, c, a) for c, a in zip(counts, spec.among, strict=True)]
        for chosen in product(*ways):
            formula = self._formulas.and_([spec.item(index), *(f for f, _ in chosen)])
            if formula != FALSE:
                yield formula, (after, tuple(c for _, c in chosen))

    def _ways(self, index: int, count: int, among: Among) -> list[tuple[int, int]]:
        """What an item may be as one count sees it: (formula, count afterwards)."""
        if index < among.start or (among.high is None and count >= among.low):
            return [(TRUE, count)]
        counted = (among.formula, count + 1)
        if among.high is None:  # not to be counted is allowed to all
            return [counted, (TRUE, count)]
        others = (self._formulas.not_(among.formula), count)
        return [counted, others] if count < among.high else [others]

    def _distinct(self, pointer: str) -> int:
        spec, layout = self._spec, self._layout
        place = join(pointer, "uniqueItems")
        values = None if spec.prefix or spec.among else self._listed(spec.rest)
        if values is None or len(values) > MAX_DISTINCT:
            refuse("uniqueItems is supported for items of at most "
                   f"{MAX_DISTINCT} listed values", "uniqueItems", place,
                   "leave it out, or check the items afterwards")  # fmt: skip
        nothing = self._builder.sequence(())
        return self._builder.frame(
            Unordered(
                tuple(Member(nothing, value, False) for value in values),
                (),
                spec.low,
                None if self._high is None or self._high >= len(values) else self._high,
                layout.open_array,
                layout.comma,
                layout.close_array,
                layout.empty_array,
            )
        )
