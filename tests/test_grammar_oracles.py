"""Our masks beside those of llguidance and xgrammar, on random schemas and random walks.

Where a mask differs, a whole text shows why: the token is taken, and the text completed by the
engine that allowed it.  jsonschema then says who was right.

- A token that only we allow must lead to a valid instance.
- A token that only the peer allows must lead to an invalid one, or to another spelling of an
  instance that we accept (1.0 for 1, an escape for a plain character).
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgen.errors import GrammarError
from sgen.grammars.compile import compile_grammar
from sgen.grammars.masks import Masker
from sgen.grammars.matcher import Matcher
from sgen.grammars.vocabulary import Vocabulary
from sgen.protocol import GrammarSpec
from sgen.runtime.gguf import GGUFFile
from sgen.runtime.tokenizer import tokenizer_from_gguf
from tests import peers
from tests.peers import Maker, Ours, Peer
from tests.schemas import combined_schemas, orders, schemas, values
from tests.schemas import text as compact
from tests.test_json_schema import counts_members
from tests.vocabularies import small

jsonschema = pytest.importorskip("jsonschema")

SMALL = small()
LONGEST = 40  # tokens of a walk, and of completing a text
CLOSING = [SMALL.token_bytes.index(b) for b in (b'"', b"}", b"]", b":", b",", b"0")]


def masker_of(schema: Any) -> Masker | None:
    """Our masks; None if the schema is refused."""
    try:
        return Masker(compile_grammar(GrammarSpec("json_schema", json.dumps(schema))), SMALL)
    except GrammarError:
        return None


def completed(peer: Peer, text: bytes, rng: random.Random) -> bytes | None:
    """A whole text that begins with `text`, mostly by what closes it; None if none is found."""
    for _ in range(LONGEST):
        if peer.accepting():
            return text
        allowed = peer.allowed()
        tokens = [t for t in CLOSING if allowed[t]]
        if not tokens or rng.random() < 0.2:
            tokens = np.flatnonzero(allowed).tolist()
        if not tokens:
            return None
        token = tokens[0] if tokens[0] in CLOSING else rng.choice(tokens)
        assert peer.accept(token)
        text += SMALL.token_bytes[token]
    return None


def closed(mine: Ours, text: bytes) -> bytes:
    """A whole text that begins with `text`, the shortest way."""
    while not mine.accepting():
        left = mine.matcher.shortest_close()
        token = int(np.flatnonzero(peers.bits(mine.matcher.allowed(left), SMALL))[0])
        assert mine.accept(token)
        text += SMALL.token_bytes[token]
    return text


def read(text: bytes, number: type[Decimal] | type[float] = Decimal) -> Any:
    """JSON; numbers with a point are integers where they are whole.  ValueError as of `loads`."""

    def real(digits: str) -> Any:
        value = number(digits)
        return int(value) if abs(value) < 1e200 and value == int(value) else value

    return json.loads(text, parse_float=real)


def repeats_a_key(text: bytes) -> bool:
    twice = False

    def members(pairs: list[tuple[str, Any]]) -> None:
        nonlocal twice
        twice = twice or len({key for key, _ in pairs}) < len(pairs)

    json.loads(text, object_pairs_hook=members)
    return twice


def is_valid(text: bytes, schema: Any) -> bool:
    """Exactly: numbers are decimals, in the schema too.  Of a key that is there twice, the last
    counts."""
    exact = json.loads(json.dumps(schema), parse_float=Decimal)
    validator = jsonschema.Draft202012Validator(exact)
    return bool(validator.is_valid(read(text)))


def why_not_ours(text: bytes, schema: Any, masker: Masker) -> str:
    """Why a peer writes what we do not; AssertionError if we should."""
    try:
        value = read(text, float)
    except ValueError:
        return "the peer's text is no JSON"
    if repeats_a_key(text):
        return "the peer's text has a key twice"
    if "Infinity" in json.dumps(value):
        return "a number beyond those of a double"
    if not is_valid(text, schema):
        return "the peer's text is invalid"
    try:
        if masker.grammar.matches(compact(value)):
            return "another spelling"
    except UnicodeEncodeError:
        return "half a surrogate pair"
    if any(masker.grammar.matches(compact(other)) for other in islice(orders(value), 200)):
        return "another order"
    if counts_members(schema):
        return "keys without a name count as one"
    raise AssertionError(f"{schema} should allow {text!r}")


def walk(schema: Any, make: Maker, rng: random.Random) -> Counter[str]:
    """One random walk through both; the reasons of the differences met on it."""
    reasons: Counter[str] = Counter()
    peer, masker = make(schema), masker_of(schema)
    if peer is None or masker is None:
        reasons["refused by us"] += masker is None
        return reasons
    mine, text = Ours.of(masker), b""
    for _ in range(LONGEST):
        ours, theirs = mine.allowed(), peer.allowed()
        reasons["masks"] += 1
        if mine.accepting() and not peer.accepting():
            assert is_valid(text, schema), f"{schema} should not allow {text!r}"
            reasons["the peer is narrower"] += 1
        if peer.accepting() and not mine.accepting():
            reasons[why_not_ours(text, schema, masker)] += 1
        for token in some(rng, ours & ~theirs):
            other = mine.fork()
            assert other.accept(token)
            whole = closed(other, text + SMALL.token_bytes[token])
            assert is_valid(whole, schema), f"{schema} should not allow {whole!r}"
            reasons["the peer is narrower"] += 1
        for token in some(rng, theirs & ~ours):
            theirs_on = peer.fork()
            assert theirs_on.accept(token)
            found = completed(theirs_on, text + SMALL.token_bytes[token], rng)
            reason = "not completed" if found is None else why_not_ours(found, schema, masker)
            reasons[reason] += 1
        common = np.flatnonzero(ours & theirs).tolist()
        if not common:
            break
        token = rng.choice(common)
        assert mine.accept(token)
        assert peer.accept(token)
        text += SMALL.token_bytes[token]
    return reasons


def some(rng: random.Random, tokens: peers.Allowed) -> list[int]:
    found = np.flatnonzero(tokens).tolist()
    return rng.sample(found, min(2, len(found)))


Peers = dict[str, Maker]


@pytest.fixture(scope="module")
def makers() -> Peers:
    return {"llguidance": peers.llguidance(SMALL), "xgrammar": peers.xgrammar(SMALL)}


def on_random_schemas(check: Callable[[Any, random.Random], None], examples: int) -> None:
    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(schemas() | combined_schemas(), st.integers(0, 1000))
    def one(schema: Any, seed: int) -> None:
        check(schema, random.Random(seed))

    one()


EXAMPLES = [
    pytest.param(80, id="few"),
    pytest.param(1000, id="many", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("name", ["llguidance", "xgrammar"])
def test_every_difference_on_a_walk_has_a_reason(name: str, examples: int, makers: Peers) -> None:
    reasons: Counter[str] = Counter()
    on_random_schemas(lambda s, rng: reasons.update(walk(s, makers[name], rng)), examples)
    assert reasons["masks"] > 10 * examples, f"hardly anything was compared: {reasons}"
    assert reasons["not completed"] < 0.02 * reasons.total(), reasons
    assert reasons["refused by us"] <= 0.25 * examples, "nearly all of them contradict themselves"


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("name", ["llguidance", "xgrammar"])
def test_whole_texts_of_a_peer(name: str, examples: int, makers: Peers) -> None:
    """What a peer writes we accept where it is valid, as far as spelling allows; never else."""
    reasons: Counter[str] = Counter()

    def check(schema: Any, rng: random.Random) -> None:
        masker, peer = masker_of(schema), makers[name](schema)
        if masker is None or peer is None:
            return
        for text in {completed(peer.fork(), b"", rng) for _ in range(4)} - {None}:
            assert text is not None
            if masker.grammar.matches(text):
                assert is_valid(text, schema), f"{schema} should not allow {text!r}"
                reasons["accepted"] += 1
            else:
                reasons[why_not_ours(text, schema, masker)] += 1

    on_random_schemas(check, examples)
    assert reasons["accepted"] > examples, reasons


@pytest.mark.parametrize("examples", EXAMPLES)
def test_what_jsonschema_calls_invalid_is_rejected(examples: int) -> None:
    invalid = 0

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(schemas() | combined_schemas(), st.lists(values(), max_size=8))
    def one(schema: Any, instances: list[Any]) -> None:
        nonlocal invalid
        masker = masker_of(schema)
        for value in instances if masker is not None else []:
            written = compact(value)
            if not is_valid(written, schema):
                assert masker is not None
                assert not masker.grammar.matches(written)
                invalid += 1

    one()
    assert invalid > examples


# The real vocabulary


SCHEMAS: list[Any] = [
    {},
    {"type": "string", "minLength": 2, "maxLength": 40},
    {"type": "string", "pattern": "^[a-zé]+ (one|two){2,3}$"},
    {"type": "array", "items": {"type": "integer", "minimum": -5, "maximum": 1200}},
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 9},
            "when": {"type": "string", "format": "date"},
            "kind": {"enum": ["big", "bigger", None, 1.5]},
        },
        "required": ["name"],
        "additionalProperties": {"anyOf": [{"type": "number"}, {"type": "boolean"}]},
    },
]


@pytest.fixture(scope="module")
def vocabulary(smollm2_path: Path) -> Vocabulary:
    with GGUFFile.open(smollm2_path) as file:
        names = file.metadata["tokenizer.ggml.tokens"]
        assert isinstance(names, list)
        return tokenizer_from_gguf(file.metadata, len(names), str(smollm2_path)).vocabulary


@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
def test_masks_over_the_real_vocabulary(schema: Any, vocabulary: Vocabulary) -> None:
    """A bit is set exactly when `accept` succeeds: 2,000 tokens at each state of a walk, and all
    tokens without text; those are never allowed but to end what is complete."""
    rng = random.Random(len(str(schema)))
    masker = Masker(compile_grammar(GrammarSpec("json_schema", json.dumps(schema))), vocabulary)
    matcher = Matcher(masker)
    silent = [t for t, b in enumerate(vocabulary.token_bytes) if not b]
    assert set(vocabulary.eos_ids) <= set(silent)
    for _ in range(6):
        words = matcher.allowed()
        allowed = np.unpackbits(words.view(np.uint8), bitorder="little").astype(np.bool_)
        assert not allowed[len(vocabulary) :].any()
        inside = np.flatnonzero(allowed).tolist()
        tried = [*rng.sample(range(len(vocabulary)), 2000), *silent, *rng.choices(inside, k=50)]
        for token in tried:
            assert matcher.fork().accept(token) == allowed[token], token
        for token in silent:
            is_end = token in vocabulary.eos_ids and matcher.is_accepting()
            assert allowed[token] == is_end, token
        going_on = [t for t in inside if vocabulary.token_bytes[t]]
        if not going_on:
            break
        assert matcher.accept(rng.choice(going_on))
