"""Masks: a bit is set exactly when the token is accepted, by trying every token."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgen.errors import GrammarError
from sgen.grammars import masks as masks_module
from sgen.grammars import walker as walker_module
from sgen.grammars.compile import compile_grammar
from sgen.grammars.grammar import Grammar
from sgen.grammars.masks import Masker
from sgen.grammars.matcher import Matcher
from sgen.grammars.vocabulary import Vocabulary
from sgen.protocol import GrammarSpec
from sgen.runtime.gguf import GGUFFile
from sgen.runtime.tokenizer import Tokenizer, tokenizer_from_gguf
from tests.schemas import schemas
from tests.test_regex import patterns
from tests.vocabularies import small, token_of

SMALL = small()

SPECS = [
    GrammarSpec("regex", r"[a-c]{2,4}(12|é|😀)?"),
    GrammarSpec("regex", ".*"),
    GrammarSpec("regex", "[^a]{3}"),
    GrammarSpec("regex", r"\d{4}-\d\d"),
    GrammarSpec("choices", json.dumps(["ab", "abc", "abca", "é", "€", "true", ""])),
    GrammarSpec("json_schema", "{}"),
    GrammarSpec("json_schema", '{"type":"string","minLength":2,"maxLength":4}'),
    GrammarSpec("json_schema", '{"type":"array","items":{"type":"integer","maximum":12}}'),
    GrammarSpec(
        "json_schema",
        '{"type":"object","properties":{"name":{"type":"string"},"kind":{"enum":["cat","dog"]}},'
        '"required":["kind"]}',
    ),
]


def masker_of(spec: GrammarSpec, vocabulary: Vocabulary = SMALL) -> Masker:
    return Masker(compile_grammar(spec), vocabulary)


def masker_or_none(schema: object) -> Masker | None:
    """None if no text can satisfy the schema."""
    try:
        return masker_of(GrammarSpec("json_schema", json.dumps(schema)))
    except GrammarError as error:
        if error.keyword not in ("unsatisfiable", "minProperties"):
            raise
        return None


def tokens(mask: np.ndarray) -> list[int]:
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()


def accepted(matcher: Matcher, vocabulary: Vocabulary = SMALL) -> list[int]:
    return [t for t in range(len(vocabulary)) if matcher.fork().accept(t)]


def check_walk(masker: Masker, rng: random.Random, steps: int) -> None:
    """Along a random walk, compare masks to trying every token, with budgets and without."""
    matcher = Matcher(masker)
    for _ in range(steps):
        mask = matcher.allowed()
        assert mask.dtype == np.uint32
        assert mask.shape == ((len(masker.vocabulary) + 31) // 32,)
        allowed = tokens(mask)
        assert allowed == accepted(matcher)
        assert all(
            t in masker.vocabulary.eos_ids for t in allowed if not masker.vocabulary.token_bytes[t]
        )
        remaining = matcher.shortest_close() + rng.randrange(-1, 4)
        in_time = []
        for token in allowed:
            after = matcher.fork()
            after.accept(token)
            if token in masker.vocabulary.eos_ids or after.shortest_close() <= remaining - 1:
                in_time.append(token)
        assert tokens(matcher.allowed(remaining)) == in_time
        if not allowed or matcher.is_finished():
            break
        matcher.accept(rng.choice(allowed))


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.source[:30])
def test_equal_to_trying_every_token(spec: GrammarSpec) -> None:
    masker = masker_of(spec)
    for seed in range(3):
        check_walk(masker, random.Random(seed), steps=12)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(pattern=patterns(), seed=st.integers(0, 9))
def test_random_patterns(pattern: str, seed: int) -> None:
    check_walk(masker_of(GrammarSpec("regex", pattern)), random.Random(seed), steps=5)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(schema=schemas(), seed=st.integers(0, 9))
def test_random_schemas(schema: object, seed: int) -> None:
    masker = masker_or_none(schema)
    if masker is not None:
        check_walk(masker, random.Random(seed), steps=6)


def check_budget(masker: Masker, rng: random.Random, budget: int) -> bytes:
    """Any allowed tokens under a shrinking budget come to a complete text."""
    matcher = Matcher(masker)
    text = b""
    for remaining in range(budget, 0, -1):
        assert matcher.shortest_close() <= remaining
        choices = tokens(matcher.allowed(remaining))
        assert choices or matcher.is_finished(), "nothing is allowed, and the text is not complete"
        if matcher.is_finished():
            break
        token = rng.choice(choices)
        assert matcher.accept(token)
        text += masker.vocabulary.token_bytes[token]
        if matcher.is_finished():
            break
    assert matcher.is_accepting()
    assert masker.grammar.matches(text)
    return text


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.source[:30])
def test_never_cut(spec: GrammarSpec) -> None:
    masker = masker_of(spec)
    for extra in range(8):
        check_budget(masker, random.Random(extra), masker.min_tokens + extra)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(schema=schemas(), seed=st.integers(0, 9), extra=st.integers(0, 6))
def test_never_cut_whatever_the_schema(schema: object, seed: int, extra: int) -> None:
    masker = masker_or_none(schema)
    if masker is not None:
        check_budget(masker, random.Random(seed), masker.min_tokens + extra)


def test_a_budget_keeps_out_what_costs_more_to_close() -> None:
    """`null` is short, but an object needs a long member: it must not be begun in vain."""
    schema = {
        "anyOf": [
            {"type": "null"},
            {"type": "object", "properties": {"x" * 30: {"const": "y" * 90}},
             "required": ["x" * 30]},
        ]
    }  # fmt: skip
    masker = masker_of(GrammarSpec("json_schema", json.dumps(schema)))
    matcher = Matcher(masker)
    brace, null = token_of(SMALL, b"{"), token_of(SMALL, b"null")
    assert masker.min_tokens == 1
    assert brace in tokens(matcher.allowed())
    assert brace not in tokens(matcher.allowed(50))
    assert null in tokens(matcher.allowed(1))
    # The long name is one token of the vocabulary: a bound in bytes would be 125.
    assert brace in tokens(matcher.allowed(105))


def test_half_characters() -> None:
    """UTF-8 may be split between tokens anywhere, and is valid in the end."""
    matcher = Matcher(masker_of(GrammarSpec("regex", "[€😀]+")))
    euro, rest = token_of(SMALL, b"\xe2\x82"), token_of(SMALL, b"\x82\xac")
    assert matcher.accept(euro)
    assert not matcher.is_accepting()
    assert not matcher.accept(rest)
    assert not matcher.accept(euro)
    assert matcher.accept(token_of(SMALL, b"\xac\xe2"))
    assert matcher.accept(rest)
    assert matcher.is_accepting()
    assert not Matcher(masker_of(GrammarSpec("regex", "."))).accept(token_of(SMALL, b"\xc0"))


def test_masks_are_kept_and_not_writable() -> None:
    masker = masker_of(SPECS[0])
    matcher = Matcher(masker)
    mask = matcher.allowed()
    assert matcher.allowed() is mask
    assert matcher.allowed(1000) is mask
    with pytest.raises(ValueError, match="read-only"):
        mask[0] = 1


@pytest.mark.parametrize("in_c", [True, False])
def test_few_masks_and_rows_are_kept(monkeypatch: pytest.MonkeyPatch, in_c: bool) -> None:
    """Whatever is dropped is made again, the same."""
    plenty = masker_of(SPECS[5])
    monkeypatch.setattr(walker_module, "MAX_ROWS", 8)
    tight = Masker(Grammar(plenty.grammar.plan, in_c=in_c), SMALL, mask_bytes=1)
    a, b = Matcher(plenty), Matcher(tight)
    rng = random.Random(0)
    for _ in range(30):
        allowed = tokens(a.allowed())
        assert allowed == tokens(b.allowed())
        if not allowed:
            break
        token = rng.choice(allowed)
        assert a.accept(token) == b.accept(token)
    kept = tight.num_bytes - tight.grammar.num_bytes
    assert 0 < kept <= 2 * 4 * tight.num_words


def test_outgrown(monkeypatch: pytest.MonkeyPatch) -> None:
    masker = masker_of(GrammarSpec("json_schema", '{"type":"string","maxLength":5000}'))
    monkeypatch.setattr(masks_module, "OUTGROWN", 100)
    assert not masker.outgrown
    assert masker.grammar.matches(b'"' + b"a" * 500 + b'"')
    assert masker.outgrown


def test_a_text_without_end_is_refused() -> None:
    spec = GrammarSpec("json_schema", '{"type":"array","minItems":2147483647}')
    with pytest.raises(GrammarError) as caught:
        masker_of(spec)
    assert caught.value.keyword == "vocabulary"


def test_bytes_that_no_token_can_write() -> None:
    """A vocabulary need not have every byte: ways that it cannot finish are closed."""
    partial = Vocabulary([b"", b"a", b"b", b"\xc3", b"bb", b'"', b"ac"], eos_ids=[0])
    matcher = Matcher(masker_of(GrammarSpec("regex", "(é|ab|acd|a)b*"), partial))
    assert tokens(matcher.allowed()) == [1], "é and acd can be begun, but never finished"
    assert not matcher.accept(3)
    with pytest.raises(GrammarError) as caught:
        masker_of(GrammarSpec("regex", "c+"), partial)
    assert caught.value.keyword == "vocabulary"
    with pytest.raises(GrammarError):
        masker_of(GrammarSpec("regex", "a"), Vocabulary([b""], eos_ids=[0]))


def test_threads_share_a_masker() -> None:
    masker = masker_of(SPECS[5])
    expected = []
    for seed in range(4):
        expected.append(check_budget(masker_of(SPECS[5]), random.Random(seed), 40))
    found: dict[int, bytes] = {}

    def work(seed: int) -> None:
        found[seed] = check_budget(masker, random.Random(seed), 40)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[seed] for seed in range(4)] == expected


@pytest.fixture(scope="module")
def real(smollm2_path: Path) -> Tokenizer:
    with GGUFFile.open(smollm2_path) as file:
        tokens = file.metadata["tokenizer.ggml.tokens"]
        assert isinstance(tokens, list)
        return tokenizer_from_gguf(file.metadata, len(tokens), str(smollm2_path))


REAL_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 60},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        "when": {"type": "string", "format": "date"},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
    },
    "required": ["title", "tags", "when", "score"],
    "additionalProperties": False,
}


def test_real_vocabulary(real: Tokenizer) -> None:
    masker = masker_of(GrammarSpec("json_schema", json.dumps(REAL_SCHEMA)), real.vocabulary)
    text = '{"title":"Ein Café €","tags":["a","😀"],"when":"2024-02-29","score":0.25}'
    matcher = Matcher(masker)
    rng = random.Random(0)
    for token in real.encode(text):
        mask = matcher.allowed()
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
        for other in [token, *rng.sample(range(len(real.vocabulary)), 60)]:
            assert bits[other] == matcher.fork().accept(other)
        assert matcher.accept(token)
    assert matcher.is_finished()


def test_real_vocabulary_is_never_cut(real: Tokenizer) -> None:
    masker = masker_of(GrammarSpec("json_schema", json.dumps(REAL_SCHEMA)), real.vocabulary)
    shortest = b'{"title":"","tags":[],"when":"0001-01-01","score":0}'
    assert masker.min_tokens < len(shortest) * 2 / 3, "the bound is in tokens, not in bytes"
    for seed in range(6):
        text = check_budget(masker, random.Random(seed), masker.min_tokens + 5 * seed)
        assert set(json.loads(text)) == set(REAL_SCHEMA["required"])


def test_lengths_that_no_output_reaches_are_refused_at_once() -> None:
    for length, keyword in (("2147483647", "minLength"), ("9e6", "vocabulary")):
        with pytest.raises(GrammarError) as caught:
            masker_of(GrammarSpec("json_schema", f'{{"type":"string","minLength":{length}}}'))
        assert caught.value.keyword == keyword
