"""Objects in any order: which texts they hold, and what is left to close them."""

from __future__ import annotations

import itertools
import json
import random

import pytest

from sgen.errors import GrammarError
from sgen.grammars.automata import Literal
from sgen.grammars.builder import Builder
from sgen.grammars.frames import POSITION_BITS, Cost, Member, Unordered
from sgen.grammars.grammar import Grammar
from sgen.grammars.masks import Masker
from sgen.grammars.matcher import Matcher
from sgen.grammars.plan import Plan
from tests.test_automata import check_distances
from tests.vocabularies import small
from tests.walks import close, random_text

SMALL = small()
DECLARED = {"a": True, "bb": False, "name": True, "kind": False}  # name: required
VALUES = {"a": "1", "bb": "[]", "name": "true", "kind": "12", "x": "7"}


def grammar_of(low: int, high: int | None, *, extras: bool, in_c: bool = True) -> Grammar:
    builder = Builder()

    def pair(key: str) -> tuple[int, int]:
        return builder.literal(f'"{key}":'.encode()), builder.literal(VALUES[key].encode())

    frame = Unordered(
        members=tuple(Member(*pair(key), required) for key, required in DECLARED.items()),
        extras=(pair("x"),) if extras else (),
        low=low,
        high=high,
        open=builder.literal(b"{ "),  # longer than what it stands for in compact JSON
        comma=builder.literal(b","),
        close=builder.literal(b"}"),
        empty=builder.literal(b"{}"),
    )
    root = builder.frame(frame)
    return Grammar(Plan.of(builder.nodes(), root), in_c=in_c)


def text_of(keys: tuple[str, ...]) -> bytes:
    members = ",".join(f'"{key}":{VALUES[key]}' for key in keys)
    return f"{{ {members}}}".encode() if keys else b"{}"


BOUNDS = [(0, None), (3, None), (4, None), (5, None), (0, 2), (0, 3), (3, 3), (4, 6)]


@pytest.mark.parametrize(("low", "high"), BOUNDS)
@pytest.mark.parametrize("extras", [False, True])
@pytest.mark.parametrize("in_c", [False, True])
def test_every_order_and_no_other(low: int, high: int | None, extras: bool, in_c: bool) -> None:
    if low > len(DECLARED) + extras:
        with pytest.raises(GrammarError, match="no text"):
            grammar_of(low, high, extras=extras, in_c=in_c)
        return
    grammar = grammar_of(low, high, extras=extras, in_c=in_c)
    found = 0
    for size in range(6):
        for keys in itertools.product([*DECLARED, "x"], repeat=size):
            own = [key for key in keys if key in DECLARED]
            fits = (
                len(set(own)) == len(own)
                and {"a", "name"} <= set(own)
                and (extras or "x" not in keys)
                and len(set(keys)) >= low
                and (high is None or len(keys) <= high)
            )
            assert grammar.matches(text_of(keys)) == fits, keys
            found += fits
    assert found
    check_distances(grammar.automaton, limit=2_000)


@pytest.mark.parametrize(("low", "high"), BOUNDS)
def test_some_token_lowers_the_bound(low: int, high: int | None) -> None:
    """From any place on any way, following the bound comes to an end."""
    masker = Masker(grammar_of(low, high, extras=True), SMALL)
    rng = random.Random(low)
    for _ in range(4):
        matcher = Matcher(masker)
        for byte in random_text(masker.grammar, rng)[: rng.randrange(30)]:
            assert matcher.accept(SMALL.token_bytes.index(bytes([byte])))
        close(matcher, len(SMALL))


def test_many_optional_members_need_few_states() -> None:
    """Positions are met as they are read: 2^40 of them cost nothing."""
    builder = Builder()
    value = builder.literal(b"1")
    names = [f"p{i:02}" for i in range(40)]
    members = tuple(Member(builder.literal(f'"{n}":'.encode()), value, False) for n in names)
    opening, comma, close, empty = map(builder.literal, (b"{", b",", b"}", b"{}"))
    root = builder.frame(Unordered(members, (), 0, None, opening, comma, close, empty))
    grammar = Grammar(Plan.of(builder.nodes(), root))
    random.Random(0).shuffle(names)
    text = json.dumps(dict.fromkeys(names, 1), separators=(",", ":")).encode()
    assert grammar.matches(text)
    assert not grammar.matches(text[:-1] + b',"p07":1}')
    assert grammar.num_states < 2_000


def test_a_signs_cost_is_the_one_that_is_read() -> None:
    builder = Builder()
    key, value = builder.literal(b'"k":'), builder.literal(b"1")
    opening, comma, close, empty = map(builder.literal, (b"{\n  ", b",", b"\n}", b"{}"))
    member = Member(key, value, True)
    frame = Unordered((member, member), (), 0, None, opening, comma, close, empty)
    nodes = builder.nodes()

    def cost(number: int) -> Cost:
        node = nodes[number]
        assert isinstance(node, Literal)
        return Cost(len(node.word), 0, 1)

    at = frame.costs(cost)
    assert at(0) == Cost(len('{\n  "k":1,"k":1\n}'), 1, 7)
    assert at(1) == Cost(len(',"k":1\n}'), 1, 4)


def test_positions_that_do_not_fit() -> None:
    member = Member(0, 0, False)
    Unordered((member,) * (POSITION_BITS - 1), (), 0, None, 0, 0, 0, 0)
    for count, high in ((POSITION_BITS, None), (50, 2**13), (0, 2**64)):
        with pytest.raises(GrammarError, match="any order"):
            Unordered((member,) * count, (), 0, high, 0, 0, 0, 0)
