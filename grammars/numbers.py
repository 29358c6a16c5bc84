"""Numbers in a range as trees over their digits; ranges are never listed.

JSON numbers (RFC 8259), and of those only what every parser takes for a finite double: exponents
go to 307.  Integers are written without fraction or exponent.  Where a range bounds the size of a
number, it is written without exponent, except for those that lie inside by their form.
"""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, Context, Decimal

from sgen.grammars.regex import NOTHING
from sgen.grammars.regex_syntax import EMPTY, Chars, Concat, Either, Many, Tree, literal, parse

MAX_DIGITS = 60
"""Digits of a bound."""

FRACTION_DIGITS = 40
"""An excluded bound is replaced by the nearest allowed number of so many decimal places."""

INTEGER = parse("0|-?[1-9][0-9]*")
NUMBER = parse(
    r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE](-[0-9]{1,3}|\+?([0-9]{1,2}|[12][0-9][0-9]|30[0-7])))?"
)
_DIGIT = Chars(((0x30, 0x39),))
_DIGITS = Many(_DIGIT, 0, None)
_FRACTION = Many(Concat((literal("."), _DIGIT, _DIGITS)), 0, 1)
_MINUS = literal("-")
_ANY_MAGNITUDE = parse(
    r"(0|[1-9][0-9]*)(\.[0-9]+)?([eE](-[0-9]{1,3}|\+?([0-9]{1,2}|[12][0-9][0-9]|30[0-7])))?"
)
# As programs write small and large numbers: between 1e-99 and 1, without 1, and above 1e-100.
_SMALL = parse(r"[1-9](\.[0-9]+)?[eE]-(0[1-9]|[1-9][0-9]?)")
_SCALED = parse(r"[1-9](\.[0-9]+)?[eE](-[0-9]{1,2}|\+?([0-9]{1,2}|[12][0-9][0-9]|30[0-7]))")


def _some(low: int, high: int) -> Tree:
    """One digit from `low` to `high`."""
    return Chars(((0x30 + low, 0x30 + high),)) if low <= high else NOTHING


def integer(low: int | None, high: int | None) -> Tree:
    """The integers from `low` to `high`, both included; None: no bound."""
    parts = []
    if high is None or high >= 0:
        parts.append(_natural(max(low or 0, 0), high))
    if low is None or low < 0:
        most = None if low is None else -low
        least = 1 if high is None else max(1, -high)
        parts.append(Concat((_MINUS, _natural(least, most))))
    return Either(tuple(parts))


def _natural(low: int, high: int | None) -> Tree:
    """Numbers without sign from `low` to `high`."""
    if high is not None and low > high:
        return NOTHING
    parts: list[Tree] = []
    width = len(str(low))
    if high is None:
        more = Concat((_some(1, 9), Many(_DIGIT, width, None)))
        return Either((_same_width(str(low), "9" * width), more))
    while width < len(str(high)):
        parts.append(_same_width(str(low), "9" * width))
        low = 10**width
        width += 1
        if width < len(str(high)):  # all numbers of the widths between
            parts.append(Concat((_some(1, 9), Many(_DIGIT, width - 1, len(str(high)) - 2))))
            width = len(str(high))
            low = 10 ** (width - 1)
    parts.append(_same_width(str(low), str(high)))
    return Either(tuple(parts))


def _same_width(low: str, high: str) -> Tree:
    """Digit strings of one length from `low` to `high`."""
    if not low:
        return EMPTY
    rest = len(low) - 1
    if low[1:] == "0" * rest and high[1:] == "9" * rest:
        return Concat((_some(int(low[0]), int(high[0])), Many(_DIGIT, rest, rest)))
    if low[0] == high[0]:
        return Concat((literal(low[0]), _same_width(low[1:], high[1:])))
    between = Concat((_some(int(low[0]) + 1, int(high[0]) - 1), Many(_DIGIT, rest, rest)))
    return Either(
        (
            Concat((literal(low[0]), _same_width(low[1:], "9" * rest))),
            between,
            Concat((literal(high[0]), _same_width("0" * rest, high[1:]))),
        )
    )


def number(
    low: Decimal | None, high: Decimal | None, *, above: bool = False, below: bool = False
) -> Tree:
    """The numbers from `low` to `high`; `above`, `below`: without that bound itself."""
    if low is None and high is None:
        return NUMBER
    from_zero = low is None or low <= 0, high is None or high >= 0
    if low is not None and above:
        low = _next_up(low)
    if high is not None and below:
        high = _next_up(high.copy_negate()).copy_negate()
    parts = []
    if high is None or high >= 0:
        least = low if low is not None and low > 0 else Decimal(0)
        parts.append(_magnitude(least, high, from_zero=from_zero[0]))
    if low is None or low <= 0:
        least = high.copy_negate() if high is not None and high < 0 else Decimal(0)
        most = None if low is None else low.copy_negate()
        parts.append(Concat((_MINUS, _magnitude(least, most, from_zero=from_zero[1]))))
    return Either(tuple(parts))


def _next_up(bound: Decimal) -> Decimal:
    """A number above `bound`, from which on nothing rounds to `bound` as a double.

    It lies just past the middle between the bound's double and the next one.
    """
    exact = Context(prec=1_500, rounding=ROUND_CEILING)
    here = float(bound)
    above = math.nextafter(here, math.inf)
    middle = exact.divide(exact.add(Decimal(here), Decimal(above)), Decimal(2))
    place = Decimal(1).scaleb(-FRACTION_DIGITS)
    least = exact.quantize(max(middle, bound), place)
    return exact.add(least, place)


def _magnitude(low: Decimal, high: Decimal | None, *, from_zero: bool) -> Tree:
    """Numbers without sign from `low`, which is not negative, to `high`; `from_zero`: from the
    first one above 0 at the latest."""
    if high is not None and low > high:
        return NOTHING
    if low == 0 and high is None:
        return _ANY_MAGNITUDE
    parts = [_decimal(low, high)]
    if from_zero and high is None:
        parts.append(_SCALED)
    elif from_zero and high is not None and high >= 1:
        parts.append(_SMALL)
    return Either(tuple(parts))


def _decimal(low: Decimal, high: Decimal | None) -> Tree:
    low_whole, low_rest = _split(low)
    if high is None:
        return Either(
            (
                Concat((integer(low_whole, low_whole), _fraction(low_rest, None))),
                Concat((_natural(low_whole + 1, None), _FRACTION)),
            )
        )
    high_whole, high_rest = _split(high)
    if low_whole == high_whole:
        return Concat((integer(low_whole, low_whole), _fraction(low_rest, high_rest)))
    return Either(
        (
            Concat((integer(low_whole, low_whole), _fraction(low_rest, None))),
            Concat((_natural(low_whole + 1, high_whole - 1), _FRACTION)),
            Concat((integer(high_whole, high_whole), _fraction("", high_rest))),
        )
    )


def _split(value: Decimal) -> tuple[int, str]:
    whole, _, rest = f"{value:f}".partition(".")
    return int(whole), rest.rstrip("0")


def _fraction(low: str, high: str | None) -> Tree:
    """What may follow the whole part: 0.low <= 0.digits <= 0.high."""
    digits = _digits_between(low, high)
    fraction = Concat((literal("."), digits))
    return fraction if low else Either((EMPTY, fraction))


def _digits_between(low: str, high: str | None, *, first: bool = True) -> Tree:
    """Digits d, at least one if `first`, with 0.low <= 0.d <= 0.high.  `low` has no zeros last."""
    if not low and high is None:
        return Many(_DIGIT, int(first), None)
    if not low and not high:
        return Many(_some(0, 0), int(first), None)
    bottom = int(low[0]) if low else 0
    top = int(high[0]) if high else 9 if high is None else 0
    if bottom > top:
        return NOTHING
    after_high = None if high is None else high[1:]
    parts: list[Tree] = [] if first or low else [EMPTY]
    if bottom == top:
        parts.append(Concat((_some(bottom, top), _rest(low[1:], after_high))))
    else:
        free_low, free_high = bottom, top
        if low:
            parts.append(Concat((_some(bottom, bottom), _rest(low[1:], None))))
            free_low += 1
        if high is not None:
            parts.append(Concat((_some(top, top), _rest("", after_high))))
            free_high -= 1
        parts.append(Concat((_some(free_low, free_high), _DIGITS)))
    return Either(tuple(parts))


def _rest(low: str, high: str | None) -> Tree:
    return _digits_between(low, high, first=False)
