"""Sets of characters as sorted, disjoint ranges of code points.

Only Unicode scalar values occur (no surrogates), so whatever is built from these sets is valid
UTF-8.  Regex dialects disagree on some classes (`\\d` is ten digits in ECMA-262 and hundreds in
Python); for each such class there is an inner set, which every dialect contains, and an outer
set, which contains every dialect's.
"""

from __future__ import annotations

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


@lru_cache(maxsize=1)
def _all_characters() -> str:
    return "".join(map(chr, range(0xD800))) + "".join(map(chr, range(0xE000, 0x110000)))


@lru_cache(maxsize=128)
def matching(pattern: str) -> Ranges:
    """The characters that a one-character pattern of the `regex` package matches."""
    runs = regex.finditer(f"(?:{pattern})+", _all_characters())
    # Offsets in that text skip the 2,048 surrogates.
    found = []
    for run in runs:
        low, high = run.start(), run.end() - 1
        if low < 0xD800 <= high:
            found += [(low, 0xD7FF), (0xE000, high + 0x800)]
        else:
            shift = 0x800 if low >= 0xD800 else 0
            found.append((low + shift, high + shift))
    return normal(found)


_INNER: dict[str, Ranges] = {
    "d": normal([(0x30, 0x39)]),
    "w": normal([(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]),
    # What ECMA-262, Python and Rust all count as white space.
    "s": of(
        "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
        "\u2028\u2029\u202f\u205f\u3000"
    ),
}


@lru_cache(maxsize=16)
def shorthand(letter: str, *, outer: bool) -> Ranges:
    r"""The set of `\d`, `\w`, `\s` or, by a capital letter, its complement."""
    if letter.isupper():
        return complement(shorthand(letter.lower(), outer=not outer))
    if not outer:
        return _INNER[letter]
    extra = ((0x1C, 0x1F), (0xFEFF, 0xFEFF)) if letter == "s" else ()
    return union(_INNER[letter], matching(rf"\{letter}"), extra)
