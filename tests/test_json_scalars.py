"""Sets of strings and numbers: intersections and complements, by value and as automata."""

from __future__ import annotations

import json
import math
import random
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgen.errors import GrammarError
from sgen.grammars.automata import run
from sgen.grammars.builder import Builder
from sgen.grammars.json_numbers import Numbers
from sgen.grammars.json_strings import Strings
from sgen.grammars.pushdown import Plan, Pushdown
from sgen.grammars.text import Text
from sgen.grammars.work import Work

WORDS = ["", "a", "b", "ab", "ba", "aab", "abab", "é", 'a"b', "a\nb", "a" * 9, "1", "a1", "ab😀"]


def machine(found: Strings | Numbers, *, key: bool = False, point_zero: bool = False) -> Pushdown:
    builder = Builder()
    if isinstance(found, Numbers):
        root = found.lower(builder, point_zero=point_zero)
    else:
        root = found.lower_key(builder) if key else found.lower(builder)
    return Pushdown(Plan(builder.nodes()), root)


def accepts(found: Pushdown, text: str) -> bool:
    return found.possible and run(found, text.encode())


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def random_texts(found: Pushdown, count: int, size: int) -> list[str]:
    """Texts of a machine, closed the shortest way after `size` bytes: there is always one."""
    texts = []
    for seed in range(count):
        rng, state, text = random.Random(seed), found.start, bytearray()
        while not found.accepts(state) or (found.live(state) and rng.random() < 0.5):
            classes, targets = found.row(state)
            choices = [(b, targets[k]) for b, k in enumerate(classes) if k]
            if len(text) >= size:
                nearer = found.distance(state) - 1
                choices = [c for c in choices if found.distance(c[1]) == nearer]
            assert choices
            target = rng.choice(sorted({t for _, t in choices}))
            byte, state = rng.choice([c for c in choices if c[1] == target])
            text.append(byte)
            if len(text) >= size and found.accepts(state):
                break
        texts.append(text.decode())
    return texts


# Strings.

ATOMS = st.one_of(
    st.sampled_from(["^a", "b$", "^[ab]+$", "^(ab|é)*$", "a.b", "^(?!ab)", "[0-9]", "^.{2}$"]).map(
        lambda p: {"pattern": p}
    ),
    st.fixed_dictionaries({}, optional={"minLength": st.integers(0, 5),
                                        "maxLength": st.integers(0, 5)}),
    st.sampled_from([{"format": "uuid"}, {"format": "json-pointer"}, {}]),
)  # fmt: skip


def combined(atoms: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, Any]]:
    """A set, and whether a value ought to be in it."""

    def grow(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.one_of(
            inner.map(lambda a: (a[0].complement(), lambda v: not a[1](v))),
            st.tuples(inner, inner).map(
                lambda p: (p[0][0].meet(p[1][0]), lambda v: p[0][1](v) and p[1][1](v))
            ),
        )

    return st.recursive(atoms, grow, max_leaves=4)


def string_atoms() -> st.SearchStrategy[Any]:
    schemas = ATOMS.map(lambda s: Strings.of(s, "")).map(lambda s: (s, s.has))
    lists = st.lists(st.sampled_from(WORDS), max_size=4).map(
        lambda v: (Strings.values(v), lambda word: word in v)
    )
    return st.one_of(schemas, lists)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(pair=combined(string_atoms()))
def test_strings_are_an_algebra(pair: tuple[Strings, Any]) -> None:
    found, expected = pair
    assert [w for w in WORDS if found.has(w) != expected(w)] == []
    value, key = machine(found), machine(found, key=True)
    assert [w for w in WORDS if accepts(value, quoted(w)) != expected(w)] == []
    assert [w for w in WORDS if accepts(key, quoted(w)) != expected(w)] == []
    assert found.is_empty(Work()) == (not value.possible)
    assert found.meet(found.complement()).is_empty(Work())
    if value.possible:
        for text in random_texts(value, 3, 12) + random_texts(key, 2, 12):
            assert found.has(json.loads(text)), text


@pytest.mark.parametrize(
    ("schema", "yes", "no"),
    [
        ({"pattern": r"^(?:\S+\s+){0,29}\S+$", "maxLength": 300},
         ["a b", "a" * 300, "a " * 29 + "b"], ["a" * 301, "a " * 30 + "b", ""]),
        ({"format": "uri", "minLength": 9, "maxLength": 2083},
         ["http://a/" + "b" * 2074, "http://a."], ["http://a/" + "b" * 2075, "http://a"]),
        ({"format": "email", "pattern": "@example\\.org$", "maxLength": 20},
         ["ab@example.org", "a23456@example.org"], ["a@example.com", "a23456789@example.org"]),
        ({"pattern": "^(€|ab)$", "maxLength": 1}, ["€"], ["ab", ""]),
        ({"pattern": "^(€|ab)+$", "minLength": 2, "maxLength": 3},
         ["ab", "€€", "€ab", "ab€"], ["€", "abab"]),
        ({"minLength": 2, "maxLength": 3, "pattern": "^(..)*$"}, ["ab", "😀é"], ["abc", "a"]),
        ({"contentEncoding": "base64", "minLength": 4}, ["YWI=", "AAAA"], ["", "YWI"]),
        ({"format": "hostname", "pattern": "^[a-z.]*$"}, ["a." * 126 + "a"], ["a." * 127 + "a"]),
    ],
)  # fmt: skip
def test_patterns_formats_and_lengths_together(
    schema: dict[str, Any], yes: list[str], no: list[str]
) -> None:
    found = Strings.of(schema, "")
    value = machine(found)
    for texts, expected in ((yes, True), (no, False)):
        assert [t for t in texts if found.has(t) != expected] == []
        assert [t for t in texts if accepts(value, quoted(t)) != expected] == []
    for text in random_texts(value, 10, 20):
        assert found.has(json.loads(text))


def test_every_spelling_of_a_value_but_one_of_a_key() -> None:
    found = Strings.of({"pattern": "^a/é$"}, "")
    assert accepts(machine(found), r'"\u0061\/\u00E9"')
    assert not accepts(machine(found, key=True), r'"\u0061\/\u00E9"')
    assert accepts(machine(found, key=True), '"a/é"')
    rest = Strings.values(["a"]).complement()
    assert not accepts(machine(rest), r'"\u0061"')
    assert accepts(machine(rest), r'"\u0062"')


def test_plain_strings_are_the_ready_made_lexeme() -> None:
    builder = Builder()
    first = Strings.everything().lower(builder)
    assert isinstance(builder.nodes()[first], Text)
    assert Strings.of({}, "").lower(builder) == first
    assert Strings.of({"maxLength": 3}, "").lower(builder) != first
    assert len(builder.nodes()) == 2


def test_the_normal_forms_of_strings() -> None:
    everything, nothing = Strings.everything(), Strings.nothing()
    assert everything.complement() == nothing
    assert nothing.complement() == everything
    shorter = Strings.of({"maxLength": 3}, "")
    assert shorter.complement() == Strings.of({"minLength": 4}, "")
    named = Strings.matching("^a", "")
    assert named.complement().complement() == named
    assert Strings.values(["ab", "b", 1, None]).meet(named) == Strings.values(["ab"])
    without = Strings.values(["a"]).complement().meet(Strings.values(["b"]).complement())
    assert without == Strings.values(["a", "b"]).complement()
    assert without.finite is None
    assert named.meet(Strings.values(["x"])).finite == frozenset()


@pytest.mark.parametrize(
    ("schema", "keyword", "pointer"),
    [
        ({"pattern": "("}, "group", "/a/pattern"),
        ({"pattern": r"(a)\1"}, "backreference", "/a/pattern"),
        ({"minLength": -1}, "minLength", "/a/minLength"),
        ({"contentEncoding": "quoted-printable"}, "contentEncoding", "/a/contentEncoding"),
    ],
)
def test_strings_refused(schema: dict[str, Any], keyword: str, pointer: str) -> None:
    with pytest.raises(GrammarError) as caught:
        Strings.of(schema, "/a")
    assert (caught.value.keyword, caught.value.pointer) == (keyword, pointer)


# Numbers.

VALUES = [
    0, 1, -1, 2, 3, 6, 7, 10, 99, 100, 0.5, 0.25, -0.5, 1.5, 2.25, 0.01, 0.03, 1e-7, 1e16, 1e22,
    -1e30, 123456.789, 2**53, 2**64, 9.999999, 0.1,
]  # fmt: skip
LIMITS = st.sampled_from([0, 1, -1, 0.5, 2, 9.5, 100, 1e-7, 1e20, -0.25, 3])
SCHEMAS = st.fixed_dictionaries(
    {},
    optional={
        "minimum": LIMITS,
        "maximum": LIMITS,
        "exclusiveMinimum": st.one_of(LIMITS, st.booleans()),
        "exclusiveMaximum": st.one_of(LIMITS, st.booleans()),
        "multipleOf": st.sampled_from([1, 2, 3, 0.5, 0.01, 2.5]),
    },
)


def satisfies(schema: dict[str, Any], integer: bool, value: float) -> bool:
    """By the keywords, one after the other."""
    exact = Fraction(repr(value))
    bounds = {k: v for k, v in schema.items() if not isinstance(v, bool)}
    low_open = schema.get("exclusiveMinimum") is True
    high_open = schema.get("exclusiveMaximum") is True
    checks = {
        "minimum": lambda b: exact > b or (exact == b and not low_open),
        "maximum": lambda b: exact < b or (exact == b and not high_open),
        "exclusiveMinimum": lambda b: exact > b,
        "exclusiveMaximum": lambda b: exact < b,
        "multipleOf": lambda b: exact % b == 0,
    }
    fits = all(checks[k](Fraction(repr(b))) for k, b in bounds.items())
    return fits and (not integer or exact.denominator == 1)


def number_atoms() -> st.SearchStrategy[Any]:
    schemas = st.tuples(SCHEMAS, st.booleans()).map(
        lambda p: (Numbers.of(p[0], "", integer=p[1]), lambda v: satisfies(*p, v))
    )
    lists = st.lists(st.sampled_from(VALUES), max_size=4).map(
        lambda v: (Numbers.values(v), lambda value: value in v)
    )
    return st.one_of(schemas, lists)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(pair=combined(number_atoms()))
def test_numbers_are_an_algebra(pair: tuple[Numbers, Any]) -> None:
    found, expected = pair
    assert [v for v in VALUES if found.has(v) != expected(v)] == []
    assert not found.has("1")
    assert not found.has(True)
    assert not found.has(math.inf)
    value = machine(found, point_zero=True)
    for number in VALUES:
        plain = f"{number:f}".rstrip("0").rstrip(".") if isinstance(number, float) else str(number)
        if Fraction(plain) == Fraction(repr(number)):
            assert accepts(value, plain) == expected(number), plain
        if accepts(value, json.dumps(number)):
            assert expected(number), number
    assert found.is_empty(Work()) == (not value.possible)
    assert found.meet(found.complement()).is_empty(Work())
    if value.possible:
        for text in random_texts(value, 4, 12):
            assert found.has(json.loads(text)), text


def test_integers_are_written_without_a_point_unless_asked_for() -> None:
    for found, some in (
        (Numbers.integers(), "12"),
        (Numbers.of({"minimum": 3, "maximum": 40}, "", integer=True), "12"),
        (Numbers.of({"multipleOf": 4}, "", integer=True), "12"),
        (Numbers.values([12]), "12"),
        (Numbers.integers().meet(Numbers.values([3]).complement()), "12"),
    ):
        strict, loose = machine(found), machine(found, point_zero=True)
        assert [accepts(m, some) for m in (strict, loose)] == [True, True]
        assert [accepts(m, some + ".0") for m in (strict, loose)] == [False, True]
        assert [accepts(m, some + ".5") for m in (strict, loose)] == [False, False]
    listed = machine(Numbers.values([2.0, 1.5, 3]))
    assert [accepts(listed, t) for t in ("2.0", "2", "1.5", "3", "3.0")] == [True] * 4 + [False]


def test_what_programs_write_within_bounds() -> None:
    """Also in scientific notation, as far as no divisor is involved."""
    found = machine(Numbers.of({"minimum": -1e18, "exclusiveMaximum": 1e18}, ""))
    rng = random.Random(0)
    for _ in range(500):
        number = rng.uniform(-1, 1) * 10.0 ** rng.randint(-30, 19)
        assert accepts(found, json.dumps(number)) == (-1e18 <= number < 1e18)
    share = machine(Numbers.of({"minimum": 0, "maximum": 1}, ""))
    assert [accepts(share, t) for t in ("1e-07", "9.99E-1", "1e0", "1e1", "1.1e0", "-1e-9")] == [
        True, True, True, False, False, False
    ]  # fmt: skip
    fraction = machine(Numbers.everything().meet(Numbers.integers().complement()))
    assert [accepts(fraction, t) for t in ("1e-07", "0.5", "1.0", "1", "1e5")] == [
        True, True, False, False, False
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "yes", "no"),
    [
        ({"format": "int32"}, ["2147483647", "-2147483648"], ["2147483648", "-2147483649"]),
        ({"format": "uint8"}, ["0", "255"], ["256", "-1"]),
        ({"format": "int64", "minimum": 5}, ["5", "9223372036854775807"], ["4"]),
        ({"format": "double"}, ["1.5", "1e300"], ["1e400"]),
        ({"multipleOf": 0.01}, ["0.07", "1.1", "19.990", "-3", "4.00"], ["0.075", "1.001"]),
        ({"multipleOf": 1e-8}, ["12391239123", "0.00000001"], ["0.000000001"]),
        ({"multipleOf": 3, "minimum": 100, "maximum": 200}, ["102", "198"], ["99", "100", "201"]),
        ({"minimum": 5, "exclusiveMinimum": True}, ["5.1", "6"], ["5", "5.0"]),
        ({"maximum": 1.7976931348623157e308}, ["1", "1e308", "-5"], ["1.8e308"]),
    ],
)  # fmt: skip
def test_numbers_by_keyword(schema: dict[str, Any], yes: list[str], no: list[str]) -> None:
    found = machine(Numbers.of(schema, ""))
    assert [t for t in yes if not accepts(found, t)] == []
    assert [t for t in no if accepts(found, t)] == []


def test_the_normal_forms_of_numbers() -> None:
    assert Numbers.of({"multipleOf": 4}, "").meet(Numbers.of({"multipleOf": 6}, "")) == (
        Numbers.of({"multipleOf": 12}, "")
    )
    assert Numbers.of({"minimum": 3.5, "maximum": 4.5}, "", integer=True) == Numbers.values([4])
    assert Numbers.of({"minimum": 3.5, "maximum": 3.9}, "", integer=True) == Numbers.nothing()
    above = Numbers.of({"exclusiveMinimum": 3}, "")
    assert above.complement() == Numbers.of({"maximum": 3}, "")
    even = Numbers.of({"multipleOf": 2}, "")
    assert even.complement().complement() == even
    assert Numbers.everything().complement() == Numbers.nothing()


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"minimum": 10**70 + 1}, "minimum"),
        ({"multipleOf": 0}, "multipleOf"),
        ({"maximum": "1"}, "maximum"),
    ],
)
def test_numbers_refused(schema: dict[str, Any], keyword: str) -> None:
    with pytest.raises(GrammarError) as caught:
        Numbers.of(schema, "/a")
    assert (caught.value.keyword, caught.value.pointer) == (keyword, f"/a/{keyword}")


def test_values_beyond_the_digits_that_automata_compare() -> None:
    tiny = Numbers.values([5e-324])
    assert accepts(machine(tiny), "5e-324")
    with pytest.raises(GrammarError) as caught:
        machine(tiny.complement())
    assert caught.value.keyword == "minimum"


def test_a_divisor_that_takes_too_many_states_is_refused() -> None:
    with pytest.raises(GrammarError) as caught:
        machine(Numbers.of({"multipleOf": 0.123456789}, ""))
    assert caught.value.keyword == "multipleOf"
