"""The matcher: going on, taking back, forking, and ending."""

from __future__ import annotations

import json
import random
from typing import Literal

import numpy as np
import pytest

from sgen.grammars.compile import compile_grammar
from sgen.grammars.masks import Masker
from sgen.grammars.matcher import Matcher
from sgen.protocol import GrammarSpec
from tests.vocabularies import small, token_of

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
    assert matcher.forced() == b""
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


@pytest.mark.parametrize(
    ("kind", "source", "start", "forced"),
    [
        ("json_schema", '{"type":"object","properties":{"name":{"type":"integer"}},'
         '"required":["name"],"additionalProperties":false}', "", b'{"name":'),
        ("choices", '["abcd","abce"]', "a", b"bc"),
        ("regex", "a{5}b*", "aa", b"aaa"),
        ("regex", "a{9000}", "", b"a" * 4096),
        ("regex", "ab|a", "a", b""),
        ("regex", "[éè]", "", b"\xc3"),
    ],
)  # fmt: skip
def test_forced(kind: Kind, source: str, start: str, forced: bytes) -> None:
    matcher = matcher_of(kind, source)
    feed(matcher, start)
    assert matcher.forced() == forced


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
    while matcher.shortest_close():
        bound = matcher.shortest_close()
        after = []
        for token in range(len(SMALL)):
            fork = matcher.fork()
            if fork.accept(token):
                after.append((fork.shortest_close(), token))
        least, token = min(after)
        assert least <= bound - 1
        assert matcher.accept(token)
    assert matcher.is_accepting()
