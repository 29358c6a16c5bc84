"""Ranges of numbers: by value, however they are written."""

from __future__ import annotations

import json
import math
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from sgen.grammars.automata import run
from sgen.grammars.numbers import integer, number
from sgen.grammars.regex import automaton

WHOLE = st.one_of(st.none(), st.integers(-30, 30), st.integers(-(10**6), 10**6), st.integers())
BOUND = st.one_of(
    st.none(),
    st.sampled_from([0.0, 1.0, -1.0, 0.1, 0.5, 100.0]),
    st.integers(-200, 200).map(float),
    st.floats(-1000, 1000, allow_nan=False).map(lambda x: round(x, 3)),
)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(low=WHOLE, high=WHOLE, tries=st.lists(st.integers(-(10**7), 10**7), max_size=8))
def test_integers(low: int | None, high: int | None, tries: list[int]) -> None:
    machine = automaton(integer(low, high))
    near = [b + d for b in (low, high) if b is not None for d in (-1, 0, 1)]
    for value in [*tries, *near, 0, 9, 10, -1]:
        inside = (low is None or low <= value) and (high is None or value <= high)
        assert (machine is not None and run(machine, str(value).encode())) == inside
    for wrong in (b"", b"-", b"-0", b"00", b"01", b"1.0", b"1e3", b"+1"):
        assert machine is None or not run(machine, wrong)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(
    low=BOUND,
    high=BOUND,
    above=st.booleans(),
    below=st.booleans(),
    tries=st.lists(st.floats(-1100, 1100, allow_nan=False), max_size=8),
    exponent=st.integers(-40, 40),
)
def test_numbers(
    low: float | None,
    high: float | None,
    above: bool,
    below: bool,
    tries: list[float],
    exponent: int,
) -> None:
    bounds = [None if b is None else Decimal(repr(b)) for b in (low, high)]
    machine = automaton(number(*bounds, above=above, below=below))
    near = [
        x
        for b in (low, high)
        if b is not None
        for x in (b, math.nextafter(b, math.inf), math.nextafter(b, -math.inf), b + 0.01, b - 0.01)
    ]
    for value in [*tries, *near, *map(int, tries), 0, 1, 10.0**exponent, -(10.0**exponent)]:
        inside = (low is None or (value > low if above else value >= low)) and (
            high is None or (value < high if below else value <= high)
        )
        text = json.dumps(value)
        accepted = machine is not None and run(machine, text.encode())
        assert inside or not accepted
        if inside and "e" not in text:
            assert accepted, text


def test_exponents() -> None:
    """Where a bound allows them by their form, and never beyond what a double holds."""
    free, positive = automaton(number(None, None)), automaton(number(Decimal(0), None, above=True))
    share = automaton(number(Decimal(0), Decimal(1)))
    tiny = automaton(number(Decimal("1e-31"), None))
    assert free is not None
    assert positive is not None
    assert share is not None
    assert tiny is not None
    for text in (b"1e-7", b"1.5E+300", b"-2e307", b"1e05"):
        assert run(free, text)
    for text in (b"1e308", b"1e999", b"1e", b"1e+", b"e5"):
        assert not run(free, text)
    assert [run(positive, t) for t in (b"5e-324", b"1e-99", b"0e5", b"0.0", b"2e+20")] == [
        False, True, False, False, True
    ]  # fmt: skip
    assert [run(share, t) for t in (b"1e-07", b"9.99e-1", b"1e0", b"1e1")] == [
        True, True, False, False
    ]  # fmt: skip
    assert not run(tiny, b"1e-99")
    assert run(tiny, b"0.1")
