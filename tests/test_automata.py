"""Automata: sets of words, differences and intersections, and no traps anywhere."""

from __future__ import annotations

import re
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgen.errors import GrammarError
from sgen.grammars.automata import DEAD, Automaton, Literal, Without, Words, combine, product, run
from sgen.grammars.regex import automaton, whole
from sgen.grammars.regex_parser import parse
from tests.test_regex import patterns

WORDS = st.lists(st.binary(max_size=4), min_size=1, max_size=12)


def of(pattern: str) -> Automaton:
    machine = automaton(whole(parse(pattern)))
    assert machine is not None
    return machine


def check_distances(machine: Automaton, limit: int = 200) -> None:
    """Each distance is what a step to a neighbour makes of it; no state is a trap."""
    seen, queue = {machine.start}, deque([machine.start])
    while queue and len(seen) < limit:
        state = queue.popleft()
        classes, targets = machine.row(state)
        assert all((t == DEAD) == (k == 0) for k, t in enumerate(targets) if k in classes)
        following = [targets[k] for k in set(classes) if k]
        assert machine.live(state) == bool(following)
        steps = [0] if machine.accepts(state) else []
        steps += [1 + machine.distance(t) for t in following]
        assert machine.distance(state) == min(steps)
        for target in following:
            if target not in seen:
                seen.add(target)
                queue.append(target)


@settings(max_examples=80, derandomize=True, deadline=None)
@given(words=WORDS, tries=st.lists(st.binary(max_size=5), max_size=10))
def test_words(words: list[bytes], tries: list[bytes]) -> None:
    machine = Words(words)
    check_distances(machine)
    for word in [*words, *tries, *(w[:-1] for w in words)]:
        assert run(machine, word) == (word in words)


@pytest.mark.parametrize("word", [b"", b"a", b"aba\xff\0"])
def test_literal(word: bytes) -> None:
    machine = Literal(word)
    check_distances(machine)
    for other in (b"", b"a", b"ab", b"aba\xff\0", b"aba\xff\0a"):
        assert run(machine, other) == (other == word)


@settings(max_examples=80, derandomize=True, deadline=None)
@given(a=patterns(), b=patterns(), minus=st.booleans(), tries=st.lists(st.text("ab1é", max_size=5)))
def test_product(a: str, b: str, minus: bool, tries: list[str]) -> None:
    table = product(of(a), of(b), minus=minus)
    for text in tries:
        in_b = bool(re.fullmatch(b, text, re.ASCII))
        expected = bool(re.fullmatch(a, text, re.ASCII)) and in_b != minus
        assert run(table, text.encode()) == expected
        assert not (table.empty and expected)
    if not table.empty:
        check_distances(table)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(words=st.lists(st.text("ab", max_size=3), min_size=1, max_size=10),
       tries=st.lists(st.text("abc", max_size=4), max_size=10))  # fmt: skip
def test_without(words: list[str], tries: list[str]) -> None:
    machine = Without(of("[abc]*!"), Words(f"{w}!".encode() for w in words))
    check_distances(machine)
    for word in [*words, *tries]:
        assert run(machine, f"{word}!".encode()) == (word not in words)


def test_product_has_a_limit() -> None:
    with pytest.raises(GrammarError) as caught:
        product(of("[ab]{0,500}"), of("([ab]{3})*"), minus=False, limit=100)
    assert caught.value.keyword == "pattern"


@settings(max_examples=50, derandomize=True, deadline=None)
@given(pattern=patterns())
def test_distances_of_patterns(pattern: str) -> None:
    check_distances(of(pattern))


def test_combine() -> None:
    a, b = bytes([0, 1, 1, 2]) + bytes(252), bytes([0, 0, 3, 3]) + bytes(252)
    classes, parts = combine((a, b))
    assert parts[0] == (0, 0)
    assert [parts[k] for k in classes[:5]] == [(0, 0), (1, 0), (1, 3), (2, 3), (0, 0)]
