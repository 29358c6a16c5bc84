"""Characters as bytes: UTF-8, and the spellings inside JSON strings."""

from __future__ import annotations

import json
import random

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from sgen.grammars import charset
from sgen.grammars.automata import run
from sgen.grammars.encoding import character

CHARACTERS = st.characters(exclude_categories=("Cs",))
SETS = st.lists(st.tuples(CHARACTERS, st.integers(0, 3000)), min_size=1, max_size=5).map(
    lambda pairs: charset.normal((ord(c), min(ord(c) + n, 0x10FFFF)) for c, n in pairs)
)


def holds(ranges: charset.Ranges, char: str) -> bool:
    return any(low <= ord(char) <= high for low, high in ranges)


@settings(max_examples=80, derandomize=True, deadline=None)
@given(ranges=SETS, seed=st.integers(0, 999))
def test_spellings_of_a_set(ranges: charset.Ranges, seed: int) -> None:
    rng = random.Random(seed)
    plain, quoted = character(ranges, "utf8"), character(ranges, "json")
    canonical = character(ranges, "canonical")
    ends = [code for pair in ranges for code in (pair[0] - 1, pair[0], pair[1], pair[1] + 1)]
    for code in [*ends, *(rng.randrange(0x110000) for _ in range(10)), 0x0A, 0x22]:
        if not 0 <= code < 0x110000 or 0xD800 <= code < 0xE000:
            continue
        char, expected = chr(code), holds(ranges, chr(code))
        assert run(plain, char.encode()) == expected
        written = json.dumps(char, ensure_ascii=False)[1:-1].encode()
        assert run(canonical, written) == run(quoted, written) == expected
        escaped = "".join(f"\\u{unit:04X}" for unit in utf16(char)).encode()
        assert run(quoted, escaped) == run(quoted, escaped.lower().replace(b"U", b"u")) == expected
        if code >= 0x20:
            assert not run(canonical, escaped)


def utf16(char: str) -> list[int]:
    data = char.encode("utf-16-be")
    return [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2)]


@pytest.mark.parametrize(
    "wrong",
    [b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff", b"\xe2\x82", b"\x80", b"ab", b"",
     b"\\ud800", b"\\udc00", b"\\ud800\\u0041", b"\n", b'"', b"\\", b"\\x", b"\\u12g4"],
)  # fmt: skip
def test_never_written(wrong: bytes) -> None:
    machine = character(charset.SCALARS, "json")
    assert not run(machine, wrong)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(a=SETS, b=SETS, char=CHARACTERS)
def test_set_operations(a: charset.Ranges, b: charset.Ranges, char: str) -> None:
    in_a, in_b = holds(a, char), holds(b, char)
    assert holds(charset.union(a, b), char) == (in_a or in_b)
    assert holds(charset.intersection(a, b), char) == (in_a and in_b)
    assert holds(charset.difference(a, b), char) == (in_a and not in_b)
    assert charset.complement(charset.complement(a)) == a


@pytest.mark.parametrize("pattern", [r"\p{Lu}", r"\P{L}", r"\d", r"[^\s]"])
def test_matching(pattern: str) -> None:
    ranges = charset.matching(pattern)
    rng = random.Random(0)
    for code in [
        *range(0x250),
        0xD7FF,
        0xE000,
        *(rng.randrange(0xE000, 0x110000) for _ in range(2000)),
    ]:
        assert holds(ranges, chr(code)) == bool(regex.fullmatch(pattern, chr(code)))
