r"""Ranges of numbers as trees over their text: by decimal value, exactly, and never listed.

The texts of a range are JSON numbers (RFC 8259) in plain digits, and those in scientific notation
as programs write it: one digit other than 0 before the point, and a finite double.  Of those texts
a range holds all whose value lies in it.  Where nothing bounds a number it may also be written in
other ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from sgen.grammars.automata import Table, classes_of
from sgen.grammars.regex_parser import parse
from sgen.grammars.regex_syntax import EMPTY, NOTHING, Chars, Concat, Either, Many, Tree, literal

Exponents = Literal["none", "negative", "all", "free"]
"""What may be in scientific notation: with "negative", only numbers between -1 and 1; with "free",
all, and those without bounds in any notation that JSON has."""

MAX_DIGITS = 60
"""Digits of a bound before the point, and after it."""

_DIGIT = Chars(((0x30, 0x39),))
_DIGITS = Many(_DIGIT, 0, None)
_ZERO = Chars(((0x30, 0x30),))
_ZEROS = Many(_ZERO, 0, None)
_NONZERO = Chars(((0x31, 0x39),))
_MINUS = literal("-")
_POINT = literal(".")
_FRACTION = Many(Concat((_POINT, _DIGIT, _DIGITS)), 0, 1)
_FREE = parse(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE](-[0-9]{1,3}|\+?[0-9]{1,2}))?")
_POINT_ZERO = Many(literal(".0"), 0, 1)
_E = Chars(((0x45, 0x45), (0x65, 0x65)))
_EXACT = Context(prec=2_000)


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high` (None: no bound), without those ends that are open.

    Bounds are decimals: their denominators divide a power of ten.
    """

    low: Fraction | None = None
    high: Fraction | None = None
    low_open: bool = False
    high_open: bool = False

    @property
    def empty(self) -> bool:
        if self.low is None or self.high is None or self.low < self.high:
            return False
        return self.low > self.high or self.low_open or self.high_open

    def has(self, value: Fraction) -> bool:
        above = self.low is None or value > self.low or (value == self.low and not self.low_open)
        return above and (
            self.high is None or value < self.high or (value == self.high and not self.high_open)
        )

    def meet(self, other: Range) -> Range:
        lows = [(r.low, r.low_open) for r in (self, other) if r.low is not None]
        highs = [(r.high, not r.high_open) for r in (self, other) if r.high is not None]
        low, low_open = max(lows, default=(None, False))
        high, high_closed = min(highs, default=(None, True))
        return Range(low, high, low_open, not high_closed)

    def negative(self) -> Range:
        """The range of the same numbers with the other sign."""
        low = None if self.high is None else -self.high
        high = None if self.low is None else -self.low
        return Range(low, high, self.high_open, self.low_open)


UNBOUNDED = Range()
_FROM_ZERO = Range(Fraction(0))
_DOUBLES = Range(Fraction(Decimal("5e-324")), Fraction(Decimal("1.7976931348623157e308")))
_BELOW_ONE = Range(high=Fraction(1), high_open=True)


def in_digits(value: Fraction) -> tuple[str, str]:
    """The digits before and after the point of a decimal that is not negative."""
    text = f"{_EXACT.divide(Decimal(value.numerator), Decimal(value.denominator)):f}"
    whole, _, rest = text.partition(".")
    return whole, rest.rstrip("0")


def writable(within: Range) -> bool:
    """Whether the bounds of a range have few enough digits."""
    return all(
        _is_short(magnitudes.low, nearest=True) and _is_short(magnitudes.high, nearest=False)
        for magnitudes in (within.meet(_FROM_ZERO), within.negative().meet(_FROM_ZERO))
        if not magnitudes.empty
    )


def _is_short(bound: Fraction | None, *, nearest: bool) -> bool:
    """A bound's last zeros cost nothing, nor do the last nines of the one further from 0."""
    if bound is None:
        return True
    whole, rest = in_digits(bound)
    if not rest and len(whole) > MAX_DIGITS and not nearest:
        whole = min(whole.rstrip("0"), whole.rstrip("9"), key=len)
    return len(whole) <= MAX_DIGITS and len(rest) <= MAX_DIGITS


@lru_cache(maxsize=256)
def number(within: Range, exponents: Exponents) -> Tree:
    """The numbers of a range."""
    parts = [_FREE] if within == UNBOUNDED and exponents == "free" else []
    for sign, magnitudes in ((EMPTY, within), (_MINUS, within.negative())):
        found = magnitudes.meet(_FROM_ZERO)
        if not found.empty:
            parts.append(Concat((sign, Either((_plain(found), _scientific(found, exponents))))))
    return either(parts)


def integer(low: int | None, high: int | None, *, point_zero: bool = False) -> Tree:
    """The integers from `low` to `high`, both included, in plain digits; `point_zero`: they may
    have `.0` after them."""
    parts = []
    if high is None or high >= 0:
        parts.append(_natural(max(low or 0, 0), high))
    if low is None or low < 0:
        most = None if low is None else -low
        least = 1 if high is None else max(1, -high)
        parts.append(Concat((_MINUS, _natural(least, most))))
    return Concat((either(parts), _POINT_ZERO)) if point_zero else either(parts)


@lru_cache(maxsize=16)
def divisible(divisor: Fraction) -> Table:
    """The plain decimals that are multiples of `divisor`, among texts that are numbers.

    With `places` digits after the point the divisor is an integer, `modulus`.  State 0 is the
    start; 1 + r: the digits before the point leave the remainder r; then the same again after the
    point and for each digit that may follow, after the last of which there are only zeros.
    """
    places, modulus = places_and_modulus(divisor)
    digits = [(0x30 + d, d) for d in range(10)]
    rows = [classes_of([*((b, b, 1 + d % modulus) for b, d in digits), (0x2D, 0x2D, 1)])]
    accepting = [False]
    for place in range(-1, places + 1):  # -1: before the point
        here = 1 + modulus * (place + 1)
        for rest in range(modulus):
            after = here if place < 0 else here + modulus
            edges = [(b, b, after + (10 * rest + d) % modulus) for b, d in digits]
            if place == places:
                edges = [(0x30, 0x30, here + rest)]
            if place < 0:
                edges.append((0x2E, 0x2E, here + modulus + rest))
            rows.append(classes_of(edges))
            accepting.append(rest * 10 ** (places - max(place, 0)) % modulus == 0)
    return Table(rows, accepting)


def places_and_modulus(divisor: Fraction) -> tuple[int, int]:
    """The digits of a decimal after the point, and what it is as a multiple of the last one."""
    places = len(in_digits(divisor)[1])
    return places, int(divisor * 10**places)


def either(parts: list[Tree]) -> Tree:
    return Either(tuple(parts)) if parts else NOTHING


# Whole parts.


def _some(low: int, high: int) -> Tree:
    """One digit from `low` to `high`."""
    return Chars(((0x30 + low, 0x30 + high),)) if low <= high else NOTHING


def _exactly(digits: str) -> Tree:
    zeros = len(digits) - len(digits.rstrip("0"))
    if zeros < 2:
        return literal(digits)
    return Concat((literal(digits[:-zeros]), Many(_ZERO, zeros, zeros)))


def _natural(low: int, high: int | None) -> Tree:
    """Numbers without sign from `low` to `high`."""
    if high is not None and low > high:
        return NOTHING
    parts: list[Tree] = []
    width = len(str(low))
    if high is None:
        more = Concat((_NONZERO, Many(_DIGIT, width, None)))
        return Either((_same_width(str(low), "9" * width), more))
    while width < len(str(high)):
        parts.append(_same_width(str(low), "9" * width))
        low = 10**width
        width += 1
        if width < len(str(high)):  # all numbers of the widths between
            parts.append(Concat((_NONZERO, Many(_DIGIT, width - 1, len(str(high)) - 2))))
            width = len(str(high))
            low = 10 ** (width - 1)
    parts.append(_same_width(str(low), str(high)))
    return Either(tuple(parts))


def _same_width(low: str, high: str) -> Tree:
    """Digit strings of one length from `low` to `high`."""
    if low == high:
        return _exactly(low)
    same = next(i for i, (a, b) in enumerate(zip(low, high, strict=True)) if a != b)
    if same:
        return Concat((_exactly(low[:same]), _same_width(low[same:], high[same:])))
    rest = len(low) - 1
    if low[1:] == "0" * rest and high[1:] == "9" * rest:
        return Concat((_some(int(low[0]), int(high[0])), Many(_DIGIT, rest, rest)))
    between = Concat((_some(int(low[0]) + 1, int(high[0]) - 1), Many(_DIGIT, rest, rest)))
    return Either(
        (
            Concat((literal(low[0]), _same_width(low[1:], "9" * rest))),
            between,
            Concat((literal(high[0]), _same_width("0" * rest, high[1:]))),
        )
    )


# Magnitudes.


def _plain(within: Range) -> Tree:
    """Plain decimals without sign; the range begins at 0 or above, and is not empty."""
    assert within.low is not None
    whole, rest = in_digits(within.low)
    first: Tree = Concat((_exactly(whole), _fraction(rest, within.low_open, None, False)))
    least = int(whole) + 1
    if not rest and not within.low_open:
        first, least = NOTHING, int(whole)
    if within.high is None:
        return Either((first, Concat((_natural(least, None), _FRACTION))))
    high_whole, high_rest = in_digits(within.high)
    if whole == high_whole:
        both = _fraction(rest, within.low_open, high_rest, within.high_open)
        return Concat((_exactly(whole), both))
    last = Concat((_exactly(high_whole), _fraction("", False, high_rest, within.high_open)))
    between = Concat((_natural(least, int(high_whole) - 1), _FRACTION))
    return Either((first, between, last))


def _scientific(within: Range, exponents: Exponents) -> Tree:
    """Scientific notation without sign, of those numbers that may be written so."""
    within = within.meet(_DOUBLES)
    if exponents == "negative":
        within = within.meet(_BELOW_ONE)
    if exponents == "none" or within.empty:
        return NOTHING
    assert within.low is not None
    assert within.high is not None
    low, least = _scaled(within.low)
    high, most = _scaled(within.high)
    if high == 1 and within.high_open:
        high, most = Fraction(10), most - 1
    if least == most:
        mantissa = Range(low, high, within.low_open, within.high_open)
        return Concat((_plain(mantissa), _exponent(least, most)))
    first = Range(low, Fraction(10), within.low_open, high_open=True)
    between = Range(Fraction(1), Fraction(10), high_open=True)
    last = Range(Fraction(1), high, high_open=within.high_open)
    return Either(
        (
            Concat((_plain(first), _exponent(least, least))),
            Concat((_plain(between), _exponent(least + 1, most - 1))),
            Concat((_plain(last), _exponent(most, most))),
        )
    )


def _scaled(value: Fraction) -> tuple[Fraction, int]:
    """A number from 1 to 10, and the power of ten by which it makes `value`."""
    exponent = _EXACT.divide(Decimal(value.numerator), Decimal(value.denominator)).adjusted()
    return value / Fraction(10) ** exponent, exponent


def _exponent(low: int, high: int) -> Tree:
    """An exponent from `low` to `high`, of up to three digits."""
    parts = []
    if low < 0:
        parts.append(Concat((_MINUS, _padded(max(1, -high), -low))))
    if high >= 0:
        parts.append(Concat((Many(literal("+"), 0, 1), _padded(max(0, low), high))))
    return Concat((_E, Either(tuple(parts)))) if low <= high else NOTHING


def _padded(low: int, high: int) -> Tree:
    """Numbers of up to three digits, zeros first allowed."""
    return Either(
        tuple(
            _same_width(f"{low:0{width}}", f"{min(high, 10**width - 1):0{width}}")
            for width in (1, 2, 3)
            if low < 10**width
        )
    )


# Fractions: digits d with 0.low <= 0.d <= 0.high, or < where an end is open.  `low` and `high`
# have no zeros last, and are "" for 0; `high` is None for 1.


def _fraction(low: str, low_open: bool, high: str | None, high_open: bool) -> Tree:
    """What may follow a whole part."""
    digits = Concat((_POINT, _digits(low, low_open, high, high_open, some=True)))
    zero = not low and not low_open and (high != "" or not high_open)
    return Either((EMPTY, digits)) if zero else digits


def _digits(low: str, low_open: bool, high: str | None, high_open: bool, *, some: bool) -> Tree:
    """Digits within the bounds; `some`: at least one."""
    if high == "":
        fits = not low and not low_open and not high_open
        return Many(_ZERO, int(some), None) if fits else NOTHING
    tight = bool(low) or low_open
    if high is None and not tight:
        return Many(_DIGIT, int(some), None)
    if high is None and not low:
        return Concat((_ZEROS, _NONZERO, _DIGITS))
    bottom = int(low[:1] or "0")
    top = 9 if high is None else int(high[0])
    parts: list[Tree] = [] if some or tight else [EMPTY]
    if bottom == top:
        rest = _digits(low[1:], low_open, None if high is None else high[1:], high_open, some=False)
        return Either((*parts, Concat((_some(top, top), rest))))
    if bottom > top:
        return NOTHING
    if tight:
        rest = _digits(low[1:], low_open, None, False, some=False)
        parts.append(Concat((_some(bottom, bottom), rest)))
    if high is not None:
        rest = _digits("", False, high[1:], high_open, some=False)
        parts.append(Concat((_some(top, top), rest)))
    free = _some(bottom + tight, top - (high is not None))
    return Either((*parts, Concat((free, _DIGITS))))
