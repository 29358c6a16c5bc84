"""Ranges of numbers: by decimal value, exactly, however they are written."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sgen.grammars.automata import run
from sgen.grammars.numbers import Exponents, Range, divisible, integer, number, writable
from sgen.grammars.regex import automaton

WHOLE = st.one_of(st.none(), st.integers(-30, 30), st.integers(-(10**6), 10**6), st.integers())
BOUND = st.one_of(
    st.none(),
    st.sampled_from(["0", "1", "-1", "0.1", "0.5", "100", "1e-7", "1e20", "1.5e300", "-5e-20"]),
    st.integers(-200, 200).map(str),
    st.floats(-1000, 1000, allow_nan=False).map(lambda x: repr(round(x, 3))),
).map(lambda text: None if text is None else exact(text))


def exact(text: str) -> Fraction:
    return Fraction(Decimal(text))


def texts(value: float) -> set[str]:
    """A value as programs write it: Python, C, JavaScript and plainly; 0 only plainly."""
    least, most = exact("5e-324"), exact("1.7976931348623157e308")
    found = {json.dumps(value), f"{value:e}", f"{value:.15e}", f"{value:E}"}
    found.add(json.dumps(value).replace("e+", "e").replace("e-0", "e-"))
    if abs(value) < 1e25:
        found.add(f"{value:f}")
    return {text for text in found if "e" not in text.lower() or least <= abs(exact(text)) <= most}


@settings(max_examples=100, derandomize=True, deadline=None)
@given(
    low=WHOLE,
    high=WHOLE,
    tries=st.lists(st.integers(-(10**7), 10**7), max_size=8),
    point_zero=st.booleans(),
)
def test_integers(low: int | None, high: int | None, tries: list[int], point_zero: bool) -> None:
    machine = automaton(integer(low, high, point_zero=point_zero))
    near = [b + d for b in (low, high) if b is not None for d in (-1, 0, 1)]
    for value in [*tries, *near, 0, 9, 10, -1]:
        inside = (low is None or low <= value) and (high is None or value <= high)
        assert (machine is not None and run(machine, str(value).encode())) == inside
        pointed = f"{value}.0".encode()
        assert (machine is not None and run(machine, pointed)) == (inside and point_zero)
    for wrong in (b"", b"-", b"-0", b"00", b"01", b"1.00", b"1.5", b"1e3", b"+1"):
        assert machine is None or not run(machine, wrong)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(
    low=BOUND,
    high=BOUND,
    opened=st.tuples(st.booleans(), st.booleans()),
    tries=st.lists(st.floats(-1100, 1100, allow_nan=False), max_size=6),
    exponent=st.integers(-300, 300),
)
def test_numbers(
    low: Fraction | None,
    high: Fraction | None,
    opened: tuple[bool, bool],
    tries: list[float],
    exponent: int,
) -> None:
    """All the spellings of a value are inside, or none: also where they are compared digit by
    digit."""
    within = Range(low, high, *opened)
    assume(writable(within))
    machine = automaton(number(within, "all"))
    near = [
        x
        for b in map(float, (b for b in (low, high) if b is not None))
        for x in (b, math.nextafter(b, math.inf), math.nextafter(b, -math.inf), b * 1.1, b + 0.01)
    ]
    power = float(f"1e{exponent}")
    for value in [*tries, *near, 0.0, 1.0, -0.0, power, -power, 4.5 * power]:
        for text in texts(value):
            inside = within.has(exact(text))
            assert (machine is not None and run(machine, text.encode())) == inside, text


@settings(max_examples=300, derandomize=True, deadline=None)
@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_whatever_json_writes_is_a_number(value: float) -> None:
    free, all_doubles = automaton(number(Range(), "free")), automaton(number(Range(), "all"))
    assert free is not None
    assert all_doubles is not None
    assert run(free, json.dumps(value).encode())
    assert run(all_doubles, json.dumps(value).encode())


@pytest.mark.parametrize(
    ("exponents", "yes", "no"),
    [
        ("free", ["1e-7", "1.5E+300", "12.5e3", "0e0", "-0.0e-5", "1.7976931348623157e308"],
         ["1e309", "1.8e308", "1e999", "1e", "1e+", "e5", "01", "1.", ".5", "+1", "", "-"]),
        ("all", ["1e-7", "5e-324", "1E0"], ["12e3", "0e0", "4e-324", "1e308.0", "1e-0"]),
        ("negative", ["1e-7", "-9.99e-1", "1", "10.5"], ["1e0", "1e5", "-1e0"]),
        ("none", ["0.0000001", "-0"], ["1e-7", "1e0"]),
    ],
)  # fmt: skip
def test_notations(exponents: Exponents, yes: list[str], no: list[str]) -> None:
    machine = automaton(number(Range(), exponents))
    assert machine is not None
    assert [t for t in yes if not run(machine, t.encode())] == []
    assert [t for t in no if run(machine, t.encode())] == []


@settings(max_examples=100, derandomize=True, deadline=None)
@given(
    divisor=st.one_of(
        st.integers(1, 60).map(str),
        st.sampled_from(["0.01", "0.5", "2.5", "0.25", "0.001", "1e-8", "1.5", "100", "0.0075"]),
    ).map(exact),
    rounds=st.integers(-50, 50),
    off=st.sampled_from(["0", "0.001", "1", "0.5", "0.00000001", "1e-12"]),
    zeros=st.integers(0, 3),
)
def test_multiples(divisor: Fraction, rounds: int, off: str, zeros: int) -> None:
    value = divisor * rounds + exact(off)
    text = f"{Decimal(value.numerator) / Decimal(value.denominator):f}"
    text += ("." if "." not in text and zeros else "") + "0" * zeros
    assert exact(text) == value
    assert run(divisible(divisor), text.encode()) == (value % divisor == 0)


def test_ranges() -> None:
    zero, one = Fraction(0), Fraction(1)
    assert Range(zero, one).meet(Range(zero, one, low_open=True)) == Range(zero, one, low_open=True)
    assert Range(zero, one, high_open=True).meet(Range(one)).empty
    assert not Range(one).meet(Range(high=one)).empty
    assert Range(zero, one, True, False).negative() == Range(-one, zero, False, True)
    assert not writable(Range(exact("1e-61")))
    assert not writable(Range(exact("1e100")))
    assert writable(Range(high=exact("1.7976931348623157e308")))
    assert writable(Range(high=exact("1e308") - 1))
