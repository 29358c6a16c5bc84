"""The matcher: going on, taking back, forking, and ending."""

from __future__ import annotations

import json
import random
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgen.grammars.compile import compile_grammar
from sgen.grammars.masks import Masker
from sgen.grammars.matcher import Matcher
from sgen.protocol import GrammarSpec
from tests.vocabularies import small, token_of
from tests.walks import close

SMALL = small()
Kind = Literal["regex", "json_schema", "choices"]
EOS, OTHER_EOS, UNUSED = 0, 2, 1


def matcher_of(kind: Kind, source: str) -> Matcher:
    return Matcher(Masker(compile_grammar(GrammarSpec(kind, source)), SMALL))


def feed(matcher: Matcher, text: str) -> None:
    for byte in text.encode():
        assert matcher.accept(token_of(SMALL, bytes([byte])))


def test_end_tokens() -> None:
    matcher = matcher_of("regex", "ab?")
    assert not matcher.accept(EOS)
    feed(matcher, "a")
    assert matcher.is_accepting()
    assert not matcher.is_finished()
    assert not matcher.accept(UNUSED)
    other = matcher.fork()
    assert matcher.accept(EOS)
    assert other.accept(OTHER_EOS)
    assert matcher.is_finished()
    assert matcher.shortest_close() == 0
    assert not matcher.allowed().any()
    assert not matcher.accept(EOS)
    assert not matcher.accept(token_of(SMALL, b"b"))
    assert matcher.forced() == []
    matcher.rollback(1)
    assert not matcher.is_finished()
    feed(matcher, "b")
    assert matcher.is_finished(), "nothing can follow"
    assert matcher.accept(EOS)


@pytest.mark.parametrize("token", [-1, len(SMALL), 10**9])
def test_tokens_that_do_not_exist(token: int) -> None:
    assert not matcher_of("regex", ".*").accept(token)


def test_refusing_changes_nothing() -> None:
    matcher = matcher_of("choices", '["abc","abd"]')
    feed(matcher, "a")
    before = matcher.allowed()
    assert not matcher.accept(token_of(SMALL, b"ba"))
    assert not matcher.accept(token_of(SMALL, b"c"))
    assert matcher.allowed() is before
    feed(matcher, "bd")
    assert matcher.is_finished()


def test_rollback_and_fork_restore() -> None:
    matcher = matcher_of("json_schema", "{}")
    rng = random.Random(1)
    trail = []
    for _ in range(25):
        mask = matcher.allowed()
        trail.append((mask.copy(), matcher.is_accepting(), matcher.shortest_close()))
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
        choices = [t for t in np.flatnonzero(bits).tolist() if t not in SMALL.eos_ids]
        assert matcher.accept(rng.choice(choices or [EOS]))
        if matcher.is_finished():
            break
    for back in range(1, len(trail) + 1):
        fork = matcher.fork()
        fork.rollback(back)
        mask, accepting, close = trail[-back]
        assert (fork.allowed() == mask).all()
        assert (fork.is_accepting(), fork.shortest_close()) == (accepting, close)
    matcher.rollback(0)
    matcher.rollback(len(trail))
    assert (matcher.allowed() == trail[0][0]).all()


def test_forks_are_independent() -> None:
    matcher = matcher_of("choices", '["ab","ac"]')
    feed(matcher, "a")
    other = matcher.fork()
    feed(matcher, "b")
    feed(other, "c")
    matcher.rollback(2)
    assert other.is_finished()
    assert matcher.shortest_close() > 0


def object_of(value: str) -> str:
    schema = {
        "type": "object",
        "properties": {"name": {"type": value}},
        "required": ["name"],
        "additionalProperties": False,
    }
    return json.dumps(schema)


GRAMMARS = [
    matcher_of("json_schema", "{}")._masker,
    matcher_of("regex", "(ab|a|abc?d)*[0-9]{2,5}")._masker,
    matcher_of("json_schema", object_of("string"))._masker,
]


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    st.sampled_from(GRAMMARS),
    st.lists(st.tuples(st.sampled_from(["accept"] * 5 + ["rollback", "fork", "refused"]),
                       st.integers(0, 10**6)), max_size=30),
)  # fmt: skip
def test_any_walk_ends_where_its_tokens_lead(masker: Masker, moves: list[tuple[str, int]]) -> None:
    """Whatever was accepted and taken back, forked off and refused on the way."""
    matcher, tokens = Matcher(masker), list[int]()
    left_behind: list[tuple[Matcher, list[int]]] = []
    for move, number in moves:
        bits = np.unpackbits(matcher.allowed().view(np.uint8), bitorder="little")[: len(SMALL)]
        able = np.flatnonzero(bits).tolist()
        if move == "accept" and able:
            tokens.append(able[number % len(able)])
            assert matcher.accept(tokens[-1])
        elif move == "rollback":
            back = number % (len(tokens) + 1)
            matcher.rollback(back)
            tokens = tokens[: len(tokens) - back]
        elif move == "fork":
            left_behind.append((matcher, tokens))
            matcher, tokens = matcher.fork(), list(tokens)
        elif move == "refused":
            assert matcher.accept(number % len(SMALL)) == bits[number % len(SMALL)]
            if bits[number % len(SMALL)]:
                tokens.append(number % len(SMALL))
    for walked, accepted in [*left_behind, (matcher, tokens)]:
        straight = Matcher(masker)
        for token in accepted:
            assert straight.accept(token)
        assert (straight.allowed() == walked.allowed()).all()
        for get in (Matcher.is_accepting, Matcher.is_finished, Matcher.shortest_close):
            assert get(straight) == get(walked)
        assert straight.forced() == walked.forced()


def test_shortest_close_falls_along_the_way() -> None:
    """From any point some token lowers the bound, down to a complete text."""
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["cat", "doggie"]},
         "abc": {"minLength": 3, "type": "string"}},
        "required": ["name", "abc"],
    }  # fmt: skip
    matcher = matcher_of("json_schema", json.dumps(schema))
    assert matcher.shortest_close() < len('{"name":"cat","abc":"aaa"}')
    close(matcher, len(SMALL))
