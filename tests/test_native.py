"""The machine in C: its states, costs and masks are those of the machine in Python."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgen.errors import GrammarError
from sgen.grammars import native
from sgen.grammars.automata import DEAD, Automaton, Literal, Table, Without, Words, classes_of
from sgen.grammars.closing import NEVER_CLOSES
from sgen.grammars.compile import compile_grammar
from sgen.grammars.frames import DONE, Alternatives, Member, Network, Repeat, Sequence, Unordered
from sgen.grammars.grammar import Grammar
from sgen.grammars.masks import Masker
from sgen.grammars.plan import Plan
from sgen.grammars.plan_reader import nodes_of
from sgen.grammars.pushdown import Node
from sgen.grammars.regex import automaton, whole
from sgen.grammars.regex_parser import parse
from sgen.grammars.text import Text, TextStyle
from sgen.grammars.vocabulary import Vocabulary
from sgen.protocol import GrammarSpec
from sgen.runtime.gguf import GGUFFile
from sgen.runtime.tokenizer import Tokenizer, tokenizer_from_gguf
from tests.schemas import schemas
from tests.test_masks import SPECS
from tests.test_regex import patterns
from tests.vocabularies import small

pytestmark = pytest.mark.skipif(native.library() is None, reason="there is no C compiler")

SMALL = small()
PARTIAL = Vocabulary(
    [b"", *(bytes([b]) for b in b'{}[]",:ab01te'), b"ab", b'a"', b'"a', b"\xc3", b"\xa9b", b'",'],
    [0],
)
"""Many bytes are missing here, so that many texts cannot be completed."""

SCHEMAS: list[dict[str, object]] = [
    {"type": "string", "minLength": 1, "maxLength": 40},
    {"properties": {"ab": {}, "abc": {"type": "null"}}, "maxProperties": 3},
    {"type": "array", "items": {"enum": ["a", "ab", 12]}, "minItems": 2, "maxItems": 4},
    {"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}},
    {"type": "string", "pattern": "^[a-c]+$", "maxLength": 5},
]
MORE = [
    *(GrammarSpec("json_schema", json.dumps(schema)) for schema in SCHEMAS),
    GrammarSpec("json_schema", '{"type":"object","required":["b","ab"]}', order="any"),
    GrammarSpec("regex", "(a|ab|b)*c{2,3}(é|[^a-z])?"),
]


def test_of_too_many_readings_both_keep_the_same() -> None:
    """What tells the alternatives apart comes after a member that is one of them again."""
    branches: list[object] = [
        {
            "type": "object",
            "properties": {"l": {"$ref": "#"}, "op": {"const": op}},
            "required": ["l", "op"],
            "additionalProperties": False,
        }
        for op in "abcde"
    ]
    source = json.dumps({"anyOf": [{"type": "null"}, *branches]})
    found = pair(compile_grammar(GrammarSpec("json_schema", source)).plan)
    assert found is not None
    for depth, accepted in ((2, True), (4, True), (12, False)):
        text = b'{"l":' * depth + b"null" + b',"op":"b"}' * depth
        assert [grammar.matches(text) for grammar in found] == [accepted] * 2
        begun = [g.advance(g.start, text[: 5 * depth]) for g in found]
        assert DEAD not in begun  # no trap: it can be closed in some way
        assert all(g.automaton.distance(s) < 20 * depth for g, s in zip(found, begun, strict=True))


def pair(plan: Plan) -> tuple[Grammar, Grammar] | None:
    """The same grammar in C and in Python; None if both refuse it."""
    keywords = []
    grammars = []
    for in_c in (True, False):
        try:
            grammars.append(Grammar(plan, in_c=in_c))
        except GrammarError as error:
            keywords.append(error.keyword)
    if keywords:
        assert len(keywords) == 2
        assert keywords[0] == keywords[1]
        return None
    first, second = grammars
    assert isinstance(first.automaton, native.NativeMachine)
    return first, second


def maskers(grammars: tuple[Grammar, Grammar], vocabulary: Vocabulary) -> list[Masker] | None:
    """None if the vocabulary cannot write any text."""
    found = []
    for grammar in grammars:
        with contextlib.suppress(GrammarError):
            found.append(Masker(grammar, vocabulary))
    assert len({masker.min_tokens for masker in found}) <= 1
    assert len(found) != 1
    return found or None


def check_states(both: list[Masker], states: tuple[int, int], rng: random.Random) -> None:
    """Two states that should be one."""
    (c, p), (s, t) = both, states
    a, b = c.grammar.automaton, p.grammar.automaton
    assert (a.accepts(s), a.live(s), a.distance(s)) == (b.accepts(t), b.live(t), b.distance(t))
    assert c.grammar.forced(s) == p.grammar.forced(t)
    close = c.shortest_close(s)
    assert close == p.shortest_close(t)
    assert (c.mask(s) == p.mask(t)).all()
    budgets = [0, 1, close, close + 1, close + rng.randrange(12), 2**31]
    for remaining in budgets:
        assert (c.mask(s, remaining) == p.mask(t, remaining)).all(), remaining
    out = np.zeros((3, c.num_words), np.uint32)
    c.fill([s, s, s], [None, close + 1, None], out)
    assert (out[0] == c.mask(s)).all()
    assert (out[1] == c.mask(s, close + 1)).all()
    assert (out[2] == c.mask(s)).all()


def check_walk(both: list[Masker], rng: random.Random, steps: int) -> None:
    """Along a random way through the grammar, by tokens and by single bytes."""
    c, p = both
    s, t = c.grammar.start, p.grammar.start
    for _ in range(steps):
        check_states(both, (s, t), rng)
        row, other = c.grammar.automaton.row(s), p.grammar.automaton.row(t)
        live = [b for b in range(256) if row[1][row[0][b]] != DEAD]
        assert live == [b for b in range(256) if other[1][other[0][b]] != DEAD]
        bits = np.unpackbits(c.mask(s).view(np.uint8), bitorder="little")
        tokens = [i for i in np.flatnonzero(bits).tolist() if c.vocabulary.walk_bytes[i]]
        if not tokens:
            break
        token = rng.choice(tokens)
        s, t = c.advance(s, token), p.advance(t, token)
        assert s != DEAD
        assert t != DEAD


def check(plan: Plan, seed: int, steps: int) -> None:
    grammars = pair(plan)
    if grammars is None:
        return
    for vocabulary in (SMALL, PARTIAL):
        both = maskers(grammars, vocabulary)
        if both is not None:
            for i in range(2):
                check_walk(both, random.Random(seed + i), steps)


@pytest.mark.parametrize("spec", [*SPECS, *MORE], ids=lambda s: s.source[:40])
def test_specs(spec: GrammarSpec) -> None:
    check(compile_grammar(spec).plan, 1, steps=15)


@pytest.fixture(scope="module")
def real(smollm2_path: Path) -> Tokenizer:
    with GGUFFile.open(smollm2_path) as file:
        tokens = file.metadata["tokenizer.ggml.tokens"]
        assert isinstance(tokens, list)
        return tokenizer_from_gguf(file.metadata, len(tokens), str(smollm2_path))


REAL: list[tuple[dict[str, object], str]] = [
    ({"type": "string", "maxLength": 30}, '"a word or'),
    ({"type": "string", "minLength": 4, "maxLength": 30}, '"a word, or two words'),
    ({"type": "string", "pattern": "^[A-Za-z0-9_-]+$"}, '"id'),
    ({"type": "string", "pattern": "^[a-z]{3,20}$"}, '"id'),
    ({"type": "string", "pattern": "^[^<>]*(end|END)$"}, '"To the e'),
    ({"type": "string", "pattern": "^\\S+ .*$", "maxLength": 40}, '"To'),
    ({"type": "string", "pattern": "^(\\S+\\s+){0,90}\\S+$", "maxLength": 900}, '"To be'),
    ({"type": "string", "pattern": "^[a-z ]{1,400}$"}, '"to be or'),
    ({"maxItems": 400, "items": {"type": "string", "pattern": "^[A-Z]"}}, '["A","Bee'),
    ({"patternProperties": {"^x-": {}, "^na": {"type": "null"}}, "properties": {"n": {}}}, '{"x'),
    ({"anyOf": [{"type": "string", "pattern": "^x"}, {"type": "number"}]}, '"x'),
    ({"patternProperties": {"^[a-z]+$": {"type": "integer"}}}, '{"ab":1,"a'),
    ({"properties": {"name": {}, "names": {}, "n": {}}}, '{"na'),
]


@pytest.mark.parametrize(("schema", "text"), REAL, ids=[text for _, text in REAL])
def test_the_vocabulary_of_a_model(real: Tokenizer, schema: dict[str, object], text: str) -> None:
    """Masks that are put together of what is known of many tokens at once."""
    spec = GrammarSpec("json_schema", json.dumps(schema))
    in_c = Masker(compile_grammar(spec), real.vocabulary)
    in_python = Masker(Grammar(in_c.grammar.plan, in_c=False), real.vocabulary)
    for size in {1, len(text) - 1, len(text)}:
        s = in_c.grammar.advance(in_c.grammar.start, text[:size].encode())
        t = in_python.grammar.advance(in_python.grammar.start, text[:size].encode())
        assert (in_c.mask(s) == in_python.mask(t)).all()
        close = in_c.shortest_close(s)
        assert close == in_python.shortest_close(t)
        for remaining in (close, close + 2, close + 9):
            assert (in_c.mask(s, remaining) == in_python.mask(t, remaining)).all()


@settings(max_examples=20, derandomize=True, deadline=None)
@given(schema=schemas(), seed=st.integers(0, 9))
def test_random_schemas(schema: object, seed: int) -> None:
    plan = None
    with contextlib.suppress(GrammarError):
        plan = compile_grammar(GrammarSpec("json_schema", json.dumps(schema))).plan
    if plan is not None:
        check(plan, seed, steps=6)


SIGNS = (b"{", b",", b"}", b"{}")
WORD = st.text("ab\x01é", max_size=4).map(str.encode)
STYLE: st.SearchStrategy[TextStyle] = st.sampled_from(["json", "canonical"])


@st.composite
def lexemes(draw: st.DrawFn) -> Automaton:
    kind = draw(st.sampled_from(["literal", "words", "table", "text", "without", "regex"]))
    if kind == "literal":
        return Literal(draw(WORD))
    if kind == "words":
        return Words(draw(st.lists(WORD, min_size=1, max_size=5)))
    if kind == "table":
        return draw(tables())
    if kind == "text":
        low = draw(st.integers(0, 3))
        high = draw(st.none() | st.integers(low, 30))
        return Text(low, high, draw(STYLE))
    if kind == "without":
        names = draw(st.lists(st.sampled_from(["a", "ab", "abc", "b", "", "é"]), min_size=1))
        words = Words(json.dumps(n, ensure_ascii=False).encode() for n in names)
        return Without(Text(draw(st.integers(0, 1)), None, "canonical"), words)
    machine = automaton(whole(parse(draw(patterns()))))
    return Literal(b"a") if machine is None else machine


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Any automaton over three bytes with words."""
    size = draw(st.integers(1, 4))
    state = st.integers(0, size - 1)
    rows = []
    for _ in range(size):
        targets = draw(st.dictionaries(st.sampled_from(b"ab\xc3"), state))
        rows.append(classes_of((byte, byte, target) for byte, target in targets.items()))
    table = Table(rows, [draw(st.booleans()) for _ in rows])
    return table if not table.empty else Table([(bytes(256), (DEAD,))], [True])


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any nodes, in any order, recursive or not."""
    nodes: list[Node] = [Literal(sign) for sign in SIGNS]
    nodes += draw(st.lists(lexemes(), min_size=2, max_size=5))
    frames = draw(st.integers(1, 5))
    node = st.integers(0, len(nodes) + frames - 1)
    for _ in range(frames):
        nodes.append(draw(frame(node)))
    return Plan.of(nodes, len(nodes) - 1)


@st.composite
def frame(draw: st.DrawFn, node: st.SearchStrategy[int]) -> Node:
    kind = draw(st.sampled_from(["sequence", "alternatives", "repeat", "network", "unordered"]))
    few = st.lists(node, max_size=3).map(tuple)
    if kind == "sequence":
        return Sequence(draw(few))
    if kind == "alternatives":
        return Alternatives(draw(few))
    low = draw(st.integers(0, 2))
    high = draw(st.none() | st.integers(low, 4))
    if kind == "repeat":
        return Repeat(draw(node), low, high)
    if kind == "network":
        size = draw(st.integers(1, 3))
        after = st.integers(DONE, size - 1)
        state = st.lists(st.tuples(few, after), max_size=3).map(tuple)
        return Network(tuple(draw(state) for _ in range(size)), draw(st.booleans()))
    members = draw(st.lists(st.tuples(node, node, st.booleans()), max_size=3))
    extras = draw(st.lists(st.tuples(node, node), max_size=1))
    members_of = tuple(Member(*m) for m in members)
    return Unordered(members_of, tuple(extras), low, high, *range(len(SIGNS)))


@settings(max_examples=100, derandomize=True, deadline=None)
@given(plan=plans(), seed=st.integers(0, 9))
def test_random_plans(plan: Plan, seed: int) -> None:
    check(plan, seed, steps=6)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(plan=plans())
def test_plans_come_back(plan: Plan) -> None:
    again = Plan.of(*nodes_of(Plan.unpack(plan.pack())))
    assert Plan.of(*nodes_of(again)).pack() == again.pack()


@settings(max_examples=150, derandomize=True, deadline=None)
@given(plan=plans(), data=st.data())
def test_broken_plans_are_refused(plan: Plan, data: st.DataObject) -> None:
    """Whatever is in it, a plan makes a machine or an error, here and there."""
    numbers = np.frombuffer(plan.pack(), np.int32).copy()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(1, len(numbers) - 1))
        numbers[at] = data.draw(st.sampled_from([-1, 0, 1, 2, 3, 7, 200, 2**31 - 1, -(2**31)]))
    damaged = numbers[: data.draw(st.integers(3, len(numbers)))].tobytes()
    try:
        grammar = Grammar(Plan.unpack(damaged))
    except GrammarError:
        return
    state = grammar.start
    for byte in b'"a{}':
        if state != DEAD:
            state = grammar.next(state, byte)


def test_a_rule_that_begins_with_itself() -> None:
    for in_c in (True, False):
        with pytest.raises(GrammarError) as caught:
            Grammar(Plan.of([Literal(b"a"), Sequence((1, 0))], 1), in_c=in_c)
        assert caught.value.keyword == "recursion"


def test_a_machine_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = compile_grammar(GrammarSpec("json_schema", '{"type":"string","maxLength":9000}')).plan
    monkeypatch.setattr(native, "MAX_BYTES", 100_000)
    grammar = Grammar(plan)
    with pytest.raises(GrammarError) as caught:
        grammar.matches(b'"' + b"a" * 8000 + b'"')
    assert caught.value.keyword == "states"
    assert grammar.num_bytes <= 200_000
    state = grammar.advance(grammar.start, b'"aaa')
    assert state != DEAD, "what has been built is still good"


def test_without_it_python_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = compile_grammar(GrammarSpec("regex", "a+")).plan
    monkeypatch.setattr(native, "library", lambda: None)
    masker = Masker(Grammar(plan), SMALL)
    assert masker.min_tokens == 1
    assert masker.shortest_close(masker.grammar.start) < NEVER_CLOSES
