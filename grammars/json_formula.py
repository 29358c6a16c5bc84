"""Boolean combinations of JSON Schemas, equal ones once.

A formula is a number.  Its leaves are schemas, by their place in the document, and sets of values
in normal form; what it means is found out elsewhere, and only when it matters.  So formulas of a
recursive schema are finite, and a schema and its own complement cancel out unread.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from itertools import combinations
from typing import Any, Literal

from sgen.grammars.json_heads import none_inside, simplified, some_inside
from sgen.grammars.json_strings import Strings
from sgen.grammars.work import Work

TRUE, FALSE = 0, 1

Kind = Literal["true", "false", "leaf", "not", "less", "and", "or", "one"]
"""`not` and `less` are of leaves only.  `less` is a part of the complement: see `Formulas.less`.
`one`: exactly one of the parts holds."""


class Formulas:
    """All formulas of one compilation."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._kinds: list[Kind] = ["true", "false"]
        self._parts: list[tuple[int, ...]] = [(), ()]
        self._leaves: dict[int, Any] = {}
        self._known: dict[Hashable, int] = {}
        self._negations: dict[int, int] = {TRUE: FALSE, FALSE: TRUE}
        self._outside: dict[int, set[int]] = {}  # formulas that exclude each other
        self._no_string: dict[Strings, bool] = {}

    def kind(self, formula: int) -> Kind:
        return self._kinds[formula]

    def parts(self, formula: int) -> tuple[int, ...]:
        return self._parts[formula]

    def content(self, formula: int) -> Any:
        """What a leaf was made with."""
        return self._leaves[formula]

    def leaf(self, content: Any) -> int:
        """A formula of its own; the caller keeps equal ones apart."""
        number = self._new("leaf", ())
        self._leaves[number] = content
        return number

    def not_(self, formula: int) -> int:
        """The complement."""
        known = self._negations.get(formula)
        if known is None:
            known = self._flipped(formula, self.not_)
            if known is None:
                known = self._new("not", (formula,))
            self._negations[formula] = known
            self._negations.setdefault(known, formula)
        return known

    def less(self, formula: int, depth: int) -> int:
        """Values that are surely not in a formula: those of which the type, or a part that is at
        most `depth` levels inside, says so."""
        if formula in (TRUE, FALSE):
            return self._negations[formula]
        key = ("less", formula, depth)
        known = self._known.get(key)
        if known is None:
            known = self._flipped(formula, lambda part: self.less(part, depth))
            if known is None and self._kinds[formula] == "not":
                known = self._parts[formula][0]
            if known is None:
                known = self._new("less", (formula, depth))
                self._outside.setdefault(formula, set()).add(known)
                self._outside.setdefault(known, set()).add(formula)
            self._known[key] = known
        return known

    def _flipped(self, formula: int, flip: Callable[[int], int]) -> int | None:
        """The complement of a combination, by that of its parts."""
        kind, parts = self._kinds[formula], self._parts[formula]
        if kind == "and":
            return self.or_(map(flip, parts))
        if kind == "or":
            return self.and_(map(flip, parts))
        if kind == "one":
            pairs = [self.and_(pair) for pair in combinations(parts, 2)]
            return self.or_([self.and_(map(flip, parts)), *pairs])
        return None

    def opposed(self, a: int, b: int) -> bool:
        """Whether one is known as the complement of the other."""
        return self._negations.get(a) == b or b in self._outside.get(a, ())

    def both(self, a: int, b: int) -> int:
        """The intersection of two formulas, of which one often says nothing."""
        if b == TRUE or a == b:
            return a
        return b if a == TRUE else self.and_((a, b))

    def and_(self, formulas: Iterable[int]) -> int:
        return self._combined("and", formulas, TRUE, FALSE)

    def or_(self, formulas: Iterable[int]) -> int:
        return self._combined("or", formulas, FALSE, TRUE)

    def no_string(self, strings: Strings) -> bool:
        """Whether a set of strings is empty; found out once."""
        known = self._no_string.get(strings)
        if known is None:
            known = self._no_string[strings] = self._proved_empty(strings)
        return known

    def _proved_empty(self, strings: Strings) -> bool:
        if none_inside(strings):
            return True
        strings = simplified(strings)
        return not some_inside(strings) and strings.is_empty(self._work)

    def one(self, formulas: Iterable[int]) -> int:
        """Exactly one of them."""
        parts = tuple(f for f in formulas if f != FALSE)
        if len(parts) < 2:
            return parts[0] if parts else FALSE
        return self._intern("one", parts)

    def _combined(
        self, kind: Literal["and", "or"], formulas: Iterable[int], neutral: int, final: int
    ) -> int:
        parts: dict[int, None] = {}
        for formula in formulas:
            if formula == final:
                return final
            if formula == neutral:
                continue
            inner = self._parts[formula] if self._kinds[formula] == kind else (formula,)
            for part in inner:
                if self._negations.get(part) in parts:
                    return final
                excluded = self._outside.get(part)
                if excluded and final == FALSE and not excluded.isdisjoint(parts):
                    return final
                parts[part] = None
        if len(parts) < 2:
            return next(iter(parts), neutral)
        return self._intern(kind, tuple(parts))

    def _intern(self, kind: Kind, parts: tuple[int, ...]) -> int:
        key = (kind, parts)
        number = self._known.get(key)
        if number is None:
            number = self._known[key] = self._new(kind, parts)
        return number

    def _new(self, kind: Kind, parts: tuple[int, ...]) -> int:
        self._work.spend(1 + len(parts) // 16)
        self._kinds.append(kind)
        self._parts.append(parts)
        return len(self._kinds) - 1
