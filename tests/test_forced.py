"""Forced tokens: what a text must go on with, as the tokenizer would write it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import accumulate, takewhile
from operator import eq
from pathlib import Path
from typing import Any

import pytest

from sgen.errors import GrammarError
from sgen.grammars.automata import Literal
from sgen.grammars.compile import compile_grammar
from sgen.grammars.grammar import Grammar
from sgen.grammars.masks import Masker
from sgen.grammars.matcher import Matcher
from sgen.grammars.plan import Plan
from sgen.grammars.vocabulary import Vocabulary, special_text
from sgen.protocol import GrammarSpec
from sgen.runtime.gguf import GGUFFile
from sgen.runtime.tokenizer import Tokenizer, tokenizer_from_gguf
from tests.test_matcher import EOS, SMALL, UNUSED, Kind, feed, matcher_of, object_of
from tests.vocabularies import SPECIAL, token_of


def encode(text: str) -> list[int]:
    """The longest token first, as a tokenizer without merges would."""
    data, tokens = text.encode(), []
    while data:
        size = max(n for n in range(1, len(data) + 1) if data[:n] in SMALL.texts)
        tokens.append(token_of(SMALL, data[:size]))
        data = data[size:]
    return tokens


SPOKEN = Vocabulary(
    [*SMALL.token_bytes, b"", b"\xff\xff"], SMALL.eos_ids, {len(SMALL): "<call>"}, encode
)


def forcing(kind: Kind, source: str) -> Matcher:
    return Matcher(Masker(compile_grammar(GrammarSpec(kind, source)), SPOKEN))


@pytest.mark.parametrize(
    ("kind", "source", "start", "forced"),
    [
        # An integer may be negative, but no token is `":-`; a string makes one token of `":"`.
        ("json_schema", object_of("integer"), "", [b'{"', b"name", b'":']),
        ("json_schema", object_of("string"), "", [b'{"', b"name", b'":"']),
        ("json_schema", object_of("null"), "{", [b'"name"', b":", b"null", b"}"]),
        ("json_schema", object_of("boolean"), '{"na', [b"m", b"e", b'":']),
        ("choices", '["catab","catabx"]', "c", [b"a", b"t", b"ab"]),  # `abc` cannot follow
        ("choices", '["abcdog","abcxyz"]', "", [b"abc"]),
        ("regex", "a{7}b*", "aa", [b"aa", b"aa"]),  # then `ab`, or the end
        ("regex", "a{5}[bc]", "a", [b"aa", b"aa"]),
        ("regex", "x{2000}", "", [b"x" * 30] * 34),  # at most a thousand bytes at once
        ("regex", "ab|a", "a", []),
        ("regex", "c(b|d)", "", [b"c"]),
        ("regex", "a(b|c)", "", []),  # `ab` would be one of two ways on
        ("regex", "a(b|c?d|e{2})", "", [b"a"]),  # one of four
        ("regex", "ab?", "", []),
        ("regex", "[éè]", "", []),  # half a character is no text
        ("regex", "cat[éè]", "", [b"cat"]),
        ("regex", "é", "", ["é".encode()]),
    ],
)  # fmt: skip
def test_forced(kind: Kind, source: str, start: str, forced: list[bytes]) -> None:
    matcher = forcing(kind, source)
    feed(matcher, start)
    found = matcher.forced()
    assert [SPOKEN.token_bytes[t] for t in found] == forced
    for token in found:
        assert matcher.accept(token)


def test_a_special_token_that_is_forced() -> None:
    """It is never spelled out, and the texts around it do not merge with it."""
    text = b"abc" + special_text("<call>") + b"cat"
    matcher = Matcher(Masker(Grammar(Plan.of([Literal(text)], 0)), SPOKEN))
    assert matcher.forced() == [token_of(SMALL, b"abc"), len(SMALL), token_of(SMALL, b"cat")]
    for token in matcher.forced():
        assert matcher.accept(token)
    assert matcher.is_finished()


def test_half_a_character_that_must_go_on() -> None:
    matcher = forcing("regex", "é")
    assert matcher.accept(token_of(SMALL, b"\xc3"))
    assert matcher.forced() == []


def test_nothing_is_forced_after_the_end_or_without_a_tokenizer() -> None:
    matcher = forcing("regex", "abc")
    assert matcher.forced() == [token_of(SMALL, b"abc")]
    feed(matcher, "abc")
    assert matcher.forced() == []
    assert matcher.accept(EOS)
    assert matcher.forced() == []
    assert matcher_of("regex", "abc").forced() == []


def test_forced_tokens_are_in_the_masks() -> None:
    """Also where few tokens are left: the tokenizer may take more than the least."""
    matcher = forcing("choices", '["abcabcname","ab"]')
    feed(matcher, "abc")
    close = matcher.shortest_close()
    assert matcher.forced(close) == matcher.forced() == [token_of(SMALL, b"abc"),
                                                         token_of(SMALL, b"name")]  # fmt: skip
    wasteful = Vocabulary(
        SMALL.token_bytes, SMALL.eos_ids, None, lambda text: [SPECIAL + b for b in text.encode()]
    )
    matcher = Matcher(Masker(matcher._masker.grammar, wasteful))
    feed(matcher, "abc")
    assert len(matcher.forced()) == len("abcname")
    sizes = []
    for remaining in range(close, close + 8):
        fork, left = matcher.fork(), remaining
        for token in matcher.forced(remaining):
            assert int(fork.allowed(left)[token >> 5]) >> (token & 31) & 1
            assert fork.accept(token)
            left -= 1
        assert fork.shortest_close() <= left
        sizes.append(remaining - left)
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (0, 7)


def test_a_tokenizer_that_changes_the_text_proposes_nothing_else() -> None:
    """Normalizers do; and a token without text can stand for anything."""
    grammar = compile_grammar(GrammarSpec("regex", "abcab"))
    abc, ab = token_of(SMALL, b"abc"), token_of(SMALL, b"ab")
    for tokens, kept in (([abc, abc], [abc]), ([UNUSED, ab], []), ([abc, ab, ab], [abc, ab])):
        proposed = dict.fromkeys(["abcab"], tokens)
        vocabulary = Vocabulary(SMALL.token_bytes, SMALL.eos_ids, None, proposed.__getitem__)
        assert Matcher(Masker(grammar, vocabulary)).forced() == kept


# -- real tokenizers -----------------------------------------------------------------------------


def tokenizer_of(path: Path) -> Tokenizer:
    with GGUFFile.open(path) as file:
        tokens = file.metadata["tokenizer.ggml.tokens"]
        assert isinstance(tokens, list)
        return tokenizer_from_gguf(file.metadata, len(tokens), str(path))


@pytest.fixture(scope="module")
def smollm2(smollm2_path: Path) -> Tokenizer:
    return tokenizer_of(smollm2_path)


def test_a_real_tokenizer(smollm2: Tokenizer) -> None:
    schema = {
        "type": "object",
        "properties": {"title": {"type": "string"}, "details": {"enum": [{"width": 1}]}},
        "required": ["title", "details"],
        "additionalProperties": False,
    }
    text = '{"title":"A day","details":{"width":1}}'
    matcher = Matcher(
        Masker(compile_grammar(GrammarSpec("json_schema", json.dumps(schema))), smollm2.vocabulary)
    )
    found = []
    tokens = smollm2.encode(text)
    while tokens:
        forced = matcher.forced()
        found += [smollm2.decode(forced)] if forced else []
        assert tokens[: len(forced)] == forced
        for token in tokens[: len(forced) or 1]:
            assert matcher.accept(token)
        tokens = tokens[len(forced) or 1 :]
    # The quote after the colon may be one token with the string's first character.
    assert found[0].startswith('{"title"')
    assert found[-1].endswith('details":{"width":1}}')


def instances(shared: Path, step: int) -> Iterator[tuple[Any, str]]:
    """Of each step-th schema of the development data: each valid instance in compact JSON."""
    lines = (shared / "grammar" / "jsonschema_dev.jsonl").read_text().splitlines()
    for record in map(json.loads, lines[::step]):
        for test in record["tests"]:
            if test["valid"]:
                text = json.dumps(test["data"], ensure_ascii=False, separators=(",", ":"))
                yield record["schema"], text


def shares(tokenizer: Tokenizer, cases: Iterator[tuple[Any, str]]) -> tuple[float, float, float]:
    """Of all tokens: those that lie wholly in forced bytes, those of them that `forced` gives, and
    those that it gives wrongly."""
    total = inside = right = wrong = 0
    for schema, text in cases:
        try:
            grammar = compile_grammar(GrammarSpec("json_schema", json.dumps(schema)))
        except GrammarError:
            continue
        tokens = tokenizer.encode(text)
        if not grammar.matches(text.encode()) or len(tokens) > 500:
            continue
        matcher = Matcher(Masker(grammar, tokenizer.vocabulary))
        total += len(tokens)
        while tokens:
            bytes_left = len(grammar.forced(matcher._step.state))
            lengths = accumulate(len(tokenizer.vocabulary.token_bytes[t]) for t in tokens)
            forced_ones = sum(1 for _ in takewhile(bytes_left.__ge__, lengths))
            forced = matcher.forced()
            same = sum(1 for _ in takewhile(bool, map(eq, forced, tokens)))
            inside, right = inside + forced_ones, right + same
            wrong += len(forced) - same
            step = max(1, forced_ones)
            for token in tokens[:step]:
                assert matcher.accept(token)
            tokens = tokens[step:]
    return inside / total, right / total, wrong / total


def test_share_of_real_texts(smollm2: Tokenizer, shared: Path) -> None:
    inside, right, wrong = shares(smollm2, instances(shared, 10))
    assert inside > 0.1
    assert 0.96 * inside < right <= inside
    assert wrong < 0.005


@pytest.mark.slow
def test_share_of_real_texts_with_a_large_vocabulary(qwen_path: Path, shared: Path) -> None:
    inside, right, wrong = shares(tokenizer_of(qwen_path), instances(shared, 4))
    assert inside > 0.1
    assert 0.96 * inside < right <= inside
    assert wrong < 0.01
