"""Sets of JSON arrays, closed under intersection and complement.

What a schema demands of an array is what the items at each place are, how many there are, and how
many of them, from some place on, are of a kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from sgen.grammars.json_document import Where
from sgen.grammars.json_formula import FALSE, TRUE, Formulas
from sgen.grammars.work import Work


@dataclass(frozen=True, slots=True)
class Among:
    """Of the items from index `start` on, `low` to `high` are in `formula`."""

    start: int
    formula: int
    low: int
    high: int | None


class SeenItems(NamedTuple):
    """What `unevaluatedItems` leaves out: the first `first` items, all, or those in a formula."""

    first: int = 0
    all: bool = False
    inside: tuple[int, ...] = ()

    def join(self, other: SeenItems) -> SeenItems:
        inside = tuple(dict.fromkeys(self.inside + other.inside))
        return SeenItems(max(self.first, other.first), self.all or other.all, inside)


UNSEEN_ITEMS = SeenItems()


@dataclass(frozen=True, slots=True)
class Arrays:
    """A set of arrays: items by `prefix`, then by `rest`; from `low` to `high` of them.

    `unique` is where the schema demands that no two items are equal.
    """

    prefix: tuple[int, ...] = ()
    rest: int = TRUE
    low: int = 0
    high: int | None = None
    among: tuple[Among, ...] = ()
    unique: tuple[Where] | None = None
    seen: SeenItems = UNSEEN_ITEMS

    def item(self, index: int) -> int:
        return self.prefix[index] if index < len(self.prefix) else self.rest

    def meet(self, other: Arrays, formulas: Formulas, work: Work) -> Arrays | None:
        """The arrays in both; None if there is visibly none."""
        if other == _ALL:
            return self
        if self == _ALL:
            return other
        size = max(len(self.prefix), len(other.prefix))
        work.spend(4 + size)
        prefix = [formulas.both(self.item(i), other.item(i)) for i in range(size)]
        highs = [h for h in (self.high, other.high) if h is not None]
        met = Arrays(
            tuple(prefix),
            formulas.both(self.rest, other.rest),
            max(self.low, other.low),
            min(highs, default=None),
            tuple(dict.fromkeys(self.among + other.among)),
            self.unique or other.unique,
            self.seen.join(other.seen),
        )
        return None if met.impossible() else met

    def most(self) -> int | None:
        """No array has more items; None: no bound."""
        for i, formula in enumerate(self.prefix):
            if formula == FALSE:
                return i if self.high is None else min(i, self.high)
        if self.rest == FALSE:
            size = len(self.prefix)
            return size if self.high is None else min(size, self.high)
        return self.high

    def impossible(self) -> bool:
        """Whether one can see that no array is in it."""
        most = self.most()
        if most is not None and self.low > most:
            return True
        return any(a.low and a.formula == FALSE for a in self.among)

    def complement(self, flip: Callable[[int], int]) -> list[Arrays]:
        """The arrays that are not in it, as a union; `flip` complements a formula.  `unique` is
        left out of account."""
        found = []
        for i, formula in enumerate(self.prefix):
            inverse = flip(formula)
            if inverse != FALSE:
                found.append(Arrays((TRUE,) * i + (inverse,), low=i + 1))
        inverse = flip(self.rest)
        if inverse != FALSE:
            found.append(Arrays(among=(Among(len(self.prefix), inverse, 1, None),)))
        for among in self.among:
            start, formula, low, high = among.start, among.formula, among.low, among.high
            if low:
                found.append(Arrays(among=(Among(start, formula, 0, low - 1),)))
            if high is not None:
                found.append(Arrays(among=(Among(start, formula, high + 1, None),)))
        if self.low:
            found.append(Arrays(high=self.low - 1))
        if self.high is not None:
            found.append(Arrays(low=self.high + 1))
        return found


_ALL = Arrays()


def unseen(spec: Arrays, formula: int, formulas: Formulas) -> Arrays:
    """The arrays whose items that `spec` has not looked at are in `formula`."""
    if spec.seen.all:
        return _ALL
    inside = formulas.or_((formula, *spec.seen.inside))
    return Arrays((TRUE,) * spec.seen.first, inside)
