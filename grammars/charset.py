"""Sets of characters as sorted, disjoint ranges of code points.

Only Unicode scalar values occur (no surrogates), so whatever is built from these sets is valid
UTF-8.  The shorthand classes are those of ECMA-262.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache

import regex

Ranges = tuple[tuple[int, int], ...]
"""Sorted, disjoint, non-adjacent (first, last) pairs, both ends included."""

SCALARS: Ranges = ((0, 0xD7FF), (0xE000, 0x10FFFF))
LINE_ENDS: Ranges = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))


def normal(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Sort, merge what overlaps or touches, and drop surrogates."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return intersection(tuple(merged), SCALARS)


def single(char: str) -> Ranges:
    return ((ord(char), ord(char)),)


def of(chars: str) -> Ranges:
    return normal((ord(c), ord(c)) for c in chars)


def union(*sets: Ranges) -> Ranges:
    return normal(r for s in sets for r in s)


def intersection(a: Ranges, b: Ranges) -> Ranges:
    out = []
    i = j = 0
    while i < len(a) and j < len(b):
        low, high = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if low <= high:
            out.append((low, high))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return tuple(out)


def complement(ranges: Ranges) -> Ranges:
    """Every other scalar value."""
    gaps = []
    start = 0
    for low, high in ranges:
        if start < low:
            gaps.append((start, low - 1))
        start = high + 1
    if start <= 0x10FFFF:
        gaps.append((start, 0x10FFFF))
    return intersection(tuple(gaps), SCALARS)


def difference(a: Ranges, b: Ranges) -> Ranges:
    return intersection(a, complement(b))


# Where characters differ from their neighbours; elsewhere are long runs of unassigned or private
# ones, of which the first stands for all.
_VARIED: Ranges = ((0, 0xD7FF), (0xE000, 0x3FFFF), (0xE0000, 0xE0FFF))


@lru_cache(maxsize=1)
def _samples() -> tuple[str, list[tuple[int, int]]]:
    """A text with a character for each run of characters that no property tells apart, and what
    it stands for: (offset in the text, code point) where either skips, for all offsets from there.
    """
    ends = [(plane + 0xFFFE, plane + 0xFFFF) for plane in range(0x40000, 0x110000, 0x10000)]
    varied = normal([*_VARIED, *ends])
    text, shifts = [], []
    size = 0
    for (low, high), (following, _) in zip(varied, [*varied[1:], (0x110000, 0)], strict=True):
        shifts.append((size, low))
        text.append("".join(map(chr, range(low, high + 1))))
        size += high + 1 - low
        if high + 1 < following and high != 0xD7FF:
            shifts.append((size, high + 1))
            text.append(chr(high + 1))
            size += 1
    return "".join(text), shifts


@lru_cache(maxsize=128)
def matching(pattern: str) -> Ranges:
    """The characters that a one-character pattern of the `regex` package matches."""
    text, shifts = _samples()
    offsets = [offset for offset, _ in shifts]
    found = []
    for run in regex.finditer(f"(?:{pattern})+", text):
        at, end = run.span()
        while at < end:
            i = bisect_right(offsets, at) - 1
            upto = min(end, offsets[i + 1] if i + 1 < len(offsets) else len(text))
            low = shifts[i][1] + at - offsets[i]
            is_last = upto == (offsets[i + 1] if i + 1 < len(offsets) else len(text))
            stop = shifts[i + 1][1] if is_last and i + 1 < len(shifts) else low + upto - at
            found.append((low, stop - 1))
            at = upto
    return normal(found)


_SHORTHAND: dict[str, Ranges] = {
    "d": normal([(0x30, 0x39)]),
    "w": normal([(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]),
    "s": of(
        "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
        "\u2028\u2029\u202f\u205f\u3000\ufeff"
    ),
}


@lru_cache(maxsize=8)
def shorthand(letter: str) -> Ranges:
    r"""The set of `\d`, `\w`, `\s` or, by a capital letter, its complement."""
    if letter.isupper():
        return complement(_SHORTHAND[letter.lower()])
    return _SHORTHAND[letter]


# Where letters of two cases are, one to one; what lies elsewhere has no case here.
_CASED: Ranges = (
    (0x41, 0x7A),
    (0xC0, 0x587),
    (0x10A0, 0x10FF),
    (0x13A0, 0x13FD),
    (0x1C90, 0x1CBF),
    (0x1D79, 0x1D8E),
    (0x1E00, 0x1FFC),
    (0x2160, 0x2188),
    (0x24B6, 0x24E9),
    (0x2C00, 0x2D2D),
    (0xA640, 0xA7FF),
    (0xAB53, 0xABBF),
    (0xFF21, 0xFF5A),
    (0x10400, 0x105BC),
    (0x10C80, 0x10CF2),
    (0x118A0, 0x118DF),
    (0x16E40, 0x16E7F),
    (0x1E900, 0x1E943),
)


@lru_cache(maxsize=1)
def _other_cases() -> dict[int, list[int]]:
    """For each character with a case, those that differ from it in nothing else."""
    groups: dict[str, list[int]] = {}
    for low, high in _CASED:
        for code in range(low, high + 1):
            groups.setdefault(chr(code).lower(), []).append(code)
    found: dict[int, list[int]] = {}
    for key, codes in groups.items():
        if len(key) == 1 and len(codes) > 1:
            found |= dict.fromkeys(codes, codes)
    return found


@lru_cache(maxsize=512)
def any_case(ranges: Ranges) -> Ranges:
    """The set with the other case of each of its letters."""
    others = _other_cases()
    cased = intersection(ranges, _CASED)
    codes = (code for low, high in cased for code in range(low, high + 1))
    return union(ranges, tuple((c, c) for code in codes for c in others.get(code, ())))
