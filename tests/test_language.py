"""Symbols, positions and networks: what the automata of combined languages are made of."""

from __future__ import annotations

import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgen.errors import GrammarError
from sgen.grammars import language
from sgen.grammars.automata import run
from sgen.grammars.charset import SCALARS, Ranges, normal
from sgen.grammars.combination import Language, combined
from sgen.grammars.frames import Limited
from sgen.grammars.pushdown import Pushdown
from sgen.grammars.regex import whole
from sgen.grammars.regex_parser import parse
from sgen.grammars.symbols import Alphabet, Positions
from sgen.grammars.work import Work
from tests.test_regex import patterns

SETS = st.lists(
    st.lists(st.tuples(st.integers(0, 0x3000), st.integers(0, 300)), max_size=3).map(
        lambda pairs: normal((low, low + size) for low, size in pairs)
    ),
    max_size=6,
)


def inside(ranges: Ranges, code: int) -> bool:
    return any(low <= code <= high for low, high in ranges)


@settings(max_examples=80, derandomize=True, deadline=None)
@given(sets=SETS, codes=st.lists(st.integers(0, 0x3400), max_size=20))
def test_symbols_are_a_partition(sets: list[Ranges], codes: list[int]) -> None:
    alphabet = Alphabet(sets)
    whole_range = range(alphabet.size)
    assert alphabet.characters(whole_range) == SCALARS
    assert sorted(alphabet.of(SCALARS)) == list(whole_range)
    for ranges in sets:
        assert alphabet.characters(alphabet.of(ranges)) == ranges
        for code in codes:
            assert (alphabet.symbol(code) in alphabet.of(ranges)) == inside(ranges, code)
    coarser = Alphabet(sets[:2])
    for code in codes:
        assert alphabet.within(coarser)[alphabet.symbol(code)] == coarser.symbol(code)


def test_too_many_kinds_of_characters_are_refused() -> None:
    with pytest.raises(GrammarError) as caught:
        Alphabet([((code, code),) for code in range(300)])
    assert caught.value.keyword == "pattern"


@settings(max_examples=150, derandomize=True, deadline=None)
@given(pattern=patterns(), texts=st.lists(st.text(alphabet="ab1 é😀.-c", max_size=8), max_size=10))
def test_positions_agree_with_re(pattern: str, texts: list[str]) -> None:
    tree = Positions(whole(parse(pattern)))
    for text in texts:
        state = tree.start
        for char in text:
            classes, targets = tree.row(state, Work())
            state = targets[classes[tree.alphabet.symbol(ord(char))]]
        assert tree.accepts(state) == bool(re.fullmatch(pattern, text, re.ASCII)), (pattern, text)


def test_positions_that_lead_to_the_same_are_one_state() -> None:
    made = combined(Language(trees=(whole(parse("(?:a|bc|def?)*x")),)))
    assert len(made.states) == 5
    assert made.shortest == 1


@settings(max_examples=60, derandomize=True, deadline=None)
@given(pattern=patterns(), high=st.integers(0, 6), seed=st.integers(0, 99))
def test_a_limit_counts_characters_and_leaves_no_trap(pattern: str, high: int, seed: int) -> None:
    """Also where the shortest text in bytes is not the one of fewest characters."""
    tree = whole(parse(f"(?:{pattern})(?:a|€€|b)*"))
    found = language.automaton(Language(high=high, trees=(tree,)), "json", Work())
    if found is None:
        assert combined(Language(trees=(tree,))).shortest > high
        return
    rng = random.Random(seed)
    for size in (0, 4, 12, 30):
        state, text = found.start, bytearray()
        while not found.accepts(state):
            classes, targets = found.row(state)
            choices = [(byte, targets[k]) for byte, k in enumerate(classes) if k]
            if len(text) >= size:
                nearer = found.distance(state) - 1
                choices = [choice for choice in choices if found.distance(choice[1]) == nearer]
            byte, state = rng.choice(choices)
            text.append(byte)
        written = json.loads(text)
        assert len(written) <= high


def test_limits_take_no_states() -> None:
    """A maximum is counted, not multiplied."""
    tree = whole(parse(r"(?:\S+\s+){0,9}\S+"))
    sizes = []
    for high in (50, 5_000_000):
        found = language.automaton(Language(high=high, trees=(tree,)), "json", Work())
        assert isinstance(found, Pushdown)
        assert any(isinstance(node, Limited) for node in found.nodes)
        sizes.append(len(found.nodes))
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(("text", "accepted"), [("ab", True), ("€", True), ("€a", False)])
def test_fewest_bytes_are_not_fewest_characters(text: str, accepted: bool) -> None:
    tree = whole(parse("ab|€|abc"))
    for high in (1, 2):
        found = language.automaton(Language(high=high, trees=(tree,)), "utf8", Work())
        assert found is not None
        assert run(found, text.encode()) == (accepted and len(text) <= high)
