"""Sets of JSON numbers, closed under intersection and complement.

A set is what lies within a range, is a multiple of a divisor (integers: of 1), is one of some
values if these are given, and is in none of some other sets.  So the complement of a set is one
set again.  Values are exact decimals, however they are written: 1, 1.0 and 1e0 are one number.
But a number that must be an integer is only written as one, since many typed readers refuse 1.0
for it, and draft 4 of JSON Schema did too; who wants 1.0 as well asks for it (`point_zero`).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any

from sgen.errors import GrammarError
from sgen.grammars import numbers
from sgen.grammars.automata import Automaton, product
from sgen.grammars.builder import Builder
from sgen.grammars.json_text import Schema, join, refuse
from sgen.grammars.numbers import UNBOUNDED, Exponents, Range
from sgen.grammars.regex import automaton
from sgen.grammars.regex_syntax import Tree
from sgen.grammars.work import MAX_STEPS, Work

NUMBER_KEYWORDS = frozenset(
    {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "format"}
)
INTEGER_FORMATS = {
    **{f"int{bits}": (-(1 << bits - 1), (1 << bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": (0, (1 << bits) - 1) for bits in (8, 16, 32, 64)},
}
FLOAT_FORMATS = frozenset({"float", "double"})  # what a JSON number is anyway

MAX_DIVISOR = 10_000
"""The greatest divisor, in units of its last digit."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """Numbers within a range that `divisor` divides (None: any), and that are among `only` (None:
    no such list) and in none of `without`.  `pointed`: integers among `only` that may be written
    with `.0` too, as a schema wrote them.

    Equal values are equal sets, but equal sets may be different values.
    """

    within: Range = UNBOUNDED
    divisor: Fraction | None = None
    only: frozenset[Fraction] | None = None
    without: frozenset[Numbers] = frozenset()
    pointed: frozenset[Fraction] = frozenset()

    @staticmethod
    def everything() -> Numbers:
        return _EVERYTHING

    @staticmethod
    def nothing() -> Numbers:
        return _NOTHING

    @staticmethod
    def integers() -> Numbers:
        return _INTEGERS

    @staticmethod
    def values(values: list[Any]) -> Numbers:
        """The numbers among some values; true and false are none."""
        exact = [(_exact(v), isinstance(v, float)) for v in values]
        pointed = (v for v, is_float in exact if v is not None and is_float)
        return Numbers(
            only=frozenset(v for v, _ in exact if v is not None),
            pointed=frozenset(v for v in pointed if v.denominator == 1),
        )

    @staticmethod
    def of(schema: Schema, pointer: str, *, integer: bool = False) -> Numbers:
        """What the number keywords of a schema demand of a number; `integer`: and its type.

        GrammarError with the place of a keyword that is malformed or cannot be enforced.  A format
        that is not known, which the caller has dealt with, demands nothing.
        """
        low, low_open = _bound(schema, "minimum", "exclusiveMinimum", pointer, 1)
        high, high_open = _bound(schema, "maximum", "exclusiveMaximum", pointer, -1)
        found = _normal(Range(low, high, low_open, high_open), _divisor(schema, pointer))
        if schema.get("format") in INTEGER_FORMATS:
            least, most = INTEGER_FORMATS[schema["format"]]
            found = found.meet(_normal(Range(Fraction(least), Fraction(most)), Fraction(1)))
        return found.meet(_INTEGERS) if integer else found

    @property
    def finite(self) -> frozenset[Fraction] | None:
        """All members, where they are listed."""
        return self.only

    def meet(self, other: Numbers) -> Numbers:
        """The numbers in both."""
        only = self.only if other.only is None else other.only
        if self.only is not None and other.only is not None:
            only = self.only & other.only
        divisor = self.divisor if other.divisor is None else other.divisor
        if self.divisor is not None and other.divisor is not None:
            divisor = _least_common(self.divisor, other.divisor)
        met = _normal(self.within.meet(other.within), divisor)
        met = replace(met, without=_merged(self.without | other.without))
        if only is None:
            only = met.only
        if only is None:
            return met
        only = frozenset(v for v in only if met._holds(v))
        return Numbers(only=only, pointed=only & (self.pointed | other.pointed))

    def complement(self) -> Numbers:
        """The numbers that are not in it: always one object."""
        if self == _EVERYTHING:
            return _NOTHING
        if self == _NOTHING:
            return _EVERYTHING
        if self == Numbers(without=self.without) and len(self.without) == 1:
            return next(iter(self.without))
        low, high = self.within.low, self.within.high
        if self == Numbers(self.within) and (low is None or high is None):
            low_open = high is not None and not self.within.high_open
            high_open = low is not None and not self.within.low_open
            return Numbers(Range(high, low, low_open, high_open))
        return Numbers(without=frozenset([self]))

    def has(self, value: object) -> bool:
        """Whether a value is a number of the set."""
        exact = _exact(value)
        return exact is not None and self._holds(exact)

    def _holds(self, value: Fraction) -> bool:
        if self.only is not None and value not in self.only:
            return False
        if not self.within.has(value) or (self.divisor is not None and value % self.divisor):
            return False
        return not any(other._holds(value) for other in self.without)

    def is_empty(self, work: Work) -> bool:
        """Whether no number is in it: exactly.  GrammarError if that takes too much work."""
        if self.only is not None:
            return not self.only
        if not self.without:
            return self.within.empty
        return self._texts("none", work) is None

    def lower(self, builder: Builder, *, point_zero: bool = False) -> int:
        """The node of these numbers as JSON texts, in the usual spellings; `point_zero`: integers
        may be written as 1.0.

        GrammarError if a divisor is too large.
        """
        if self.only is not None:
            pointed = self.only if point_zero else self.pointed
            return builder.words(t for v in sorted(self.only) for t in _spellings(v, v in pointed))
        key = ("numbers", self, point_zero)
        known = builder.find(key)
        if known is not None:
            return known
        if self.without or self.divisor not in (None, 1):
            machine = self._machine(builder.work, point_zero)
        else:
            machine, steps = _ready(self, point_zero)
            builder.work.spend(steps)
        return builder.never() if machine is None else builder.lexeme(key, machine)

    def _machine(self, work: Work, point_zero: bool) -> Automaton | None:
        _check_digits(self.within)
        exponents = self._exponents()
        if self.divisor is None or self.divisor.denominator != 1:
            return self._narrowed(numbers.number(self.within, exponents), exponents, work)
        low, high = self.within.low, self.within.high  # multiples of the divisor by now
        tree = numbers.integer(
            None if low is None else int(low),
            None if high is None else int(high),
            point_zero=point_zero,
        )
        return self._narrowed(tree, exponents, work, integer=True)

    def _exponents(self) -> Exponents:
        """The widest notation in which each part of the set is known exactly."""
        divisors = list(self._divisors())
        if not divisors:
            return "all" if self.without else "free"
        return "negative" if min(divisors) >= 1 else "none"

    def _divisors(self) -> list[Fraction]:
        found = [] if self.divisor is None else [self.divisor]
        return found + [d for other in self.without for d in other._divisors()]

    def _texts(self, exponents: Exponents, work: Work) -> Automaton | None:
        """All texts of the numbers in a notation; None if there are none."""
        if self.only is not None:
            for value in self.only:
                _check_digits(Range(value, value))
            parts = [numbers.number(Range(v, v), exponents) for v in sorted(self.only)]
            return automaton(numbers.either(parts), work=work)
        _check_digits(self.within)
        return self._narrowed(numbers.number(self.within, exponents), exponents, work)

    def _narrowed(
        self, tree: Tree, exponents: Exponents, work: Work, *, integer: bool = False
    ) -> Automaton | None:
        """Those texts of a range that the divisor divides and that are in none of `without`;
        `integer`: all of them are integers."""
        machine = automaton(tree, work=work)
        if self.divisor is not None and machine is not None and not (integer and self.divisor == 1):
            machine = _multiples(machine, self.divisor, work)
        for other in self.without:
            less = other._texts(exponents, work)
            if less is not None and machine is not None:
                table = product(machine, less, minus=True, work=work)
                machine = None if table.empty else table
        return machine


_EVERYTHING = Numbers()
_NOTHING = Numbers(only=frozenset())
_INTEGERS = Numbers(divisor=Fraction(1))


@lru_cache(maxsize=256)
def _ready(found: Numbers, point_zero: bool) -> tuple[Automaton | None, int]:
    """The machine of a range, and the work it takes."""
    work = Work()
    return found._machine(work, point_zero), MAX_STEPS - work.left


def _exact(value: object) -> Fraction | None:
    """A number's value as it is written; None for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return Fraction(Decimal(repr(value))) if math.isfinite(value) else None


def _normal(within: Range, divisor: Fraction | None) -> Numbers:
    """A set whose bounds are multiples of the divisor, and which is a list if it has one member."""
    if divisor is not None:
        low, high = within.low, within.high
        if low is not None:
            rounds = low / divisor
            low = divisor * (math.floor(rounds) + 1 if within.low_open else math.ceil(rounds))
        if high is not None:
            rounds = high / divisor
            high = divisor * (math.ceil(rounds) - 1 if within.high_open else math.floor(rounds))
        within = Range(low, high)
    if within.empty:
        return _NOTHING
    if within.low is not None and within.low == within.high:
        return Numbers(only=frozenset([within.low]))
    return Numbers(within, divisor)


def _least_common(a: Fraction, b: Fraction) -> Fraction:
    return Fraction(math.lcm(a.numerator * b.denominator, b.numerator * a.denominator),
                    a.denominator * b.denominator)  # fmt: skip


def _merged(without: frozenset[Numbers]) -> frozenset[Numbers]:
    """Lists of values that are left out as one list."""
    lists = [n.only for n in without if n.only is not None]
    if len(lists) < 2:
        return without
    rest = frozenset(n for n in without if n.only is None)
    return rest | {Numbers(only=frozenset().union(*lists))}


def _check_digits(within: Range) -> None:
    if not numbers.writable(within):
        raise GrammarError(
            f"a bound of more than {numbers.MAX_DIGITS} digits",
            keyword="minimum",
            hint="leave it out if it is meant as no bound",
        )


def _multiples(machine: Automaton, divisor: Fraction, work: Work) -> Automaton | None:
    places, modulus = numbers.places_and_modulus(divisor)
    if modulus * (places + 1) > MAX_DIVISOR:
        raise GrammarError(
            f"a multiple of {divisor} needs more than {MAX_DIVISOR:,} states",
            keyword="multipleOf",
            hint="use a smaller or rounder divisor",
        )
    work.spend(modulus * (places + 1))
    table = product(machine, numbers.divisible(divisor), minus=False, work=work)
    return None if table.empty else table


def _spellings(value: Fraction, pointed: bool) -> list[bytes]:
    """A value in plain digits, and as a double's shortest text if it is exactly that one and no
    integer, or if integers may be written so too."""
    whole, rest = numbers.in_digits(abs(value))
    sign = "-" if value < 0 else ""
    texts = [f"{sign}{whole}.{rest}" if rest else sign + whole]
    if pointed and not rest:
        texts.append(f"{sign}{whole}.0")
    if (pointed or rest) and abs(value) < _TOO_GREAT:
        shortest = json.dumps(float(value))
        if Fraction(Decimal(shortest)) == value:
            texts.append(shortest)
    return [text.encode() for text in dict.fromkeys(texts)]


_TOO_GREAT = 10**308


def _bound(
    schema: Schema, inclusive: str, exclusive: str, pointer: str, sign: int
) -> tuple[Fraction | None, bool]:
    """The stricter of two bounds, and whether it is itself excluded.

    Draft 4 wrote the exclusive one as a flag beside the other.
    """
    flag = schema.get(exclusive)
    found = []
    for keyword, is_open in ((inclusive, flag is True), (exclusive, True)):
        value = schema.get(keyword)
        if keyword not in schema or (keyword == exclusive and isinstance(value, bool)):
            continue
        bound = _exact(value)
        if bound is None or not numbers.writable(Range(high=abs(bound))):
            refuse(f"{keyword} must be a number of at most {numbers.MAX_DIGITS} digits", keyword,
                   join(pointer, keyword), "leave it out if it is meant as no bound")  # fmt: skip
        found.append((bound, is_open))
    if not found:
        return None, False
    return max(found, key=lambda b: (b[0] * sign, b[1]))


def _divisor(schema: Schema, pointer: str) -> Fraction | None:
    if "multipleOf" not in schema:
        return None
    divisor = _exact(schema["multipleOf"])
    if divisor is None or divisor <= 0:
        refuse("multipleOf must be a number above 0", "multipleOf", join(pointer, "multipleOf"))
    return divisor
