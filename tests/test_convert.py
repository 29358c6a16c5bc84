"""Grammars written out as GBNF, Lark and regular expressions have the same texts."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgen.errors import GrammarError
from sgen.grammars.automata import Literal, Table
from sgen.grammars.builder import Builder
from sgen.grammars.compile import compile_grammar
from sgen.grammars.convert import FORMS, Form, convert
from sgen.grammars.expressions import (
    EMPTY,
    NEVER,
    Set,
    TooLargeError,
    characters,
    choice,
    eliminated,
    join,
    loop,
    text,
)
from sgen.grammars.frames import Repeat
from sgen.grammars.grammar import Grammar
from sgen.grammars.regex import automaton, whole
from sgen.grammars.regex_parser import parse
from sgen.grammars.written_rules import rules_of
from sgen.protocol import GrammarSpec
from tests.schemas import schemas
from tests.test_regex import patterns
from tests.walks import random_text

OBJECT = {
    "type": "object",
    "properties": {
        "a": {"type": "integer", "minimum": -3, "maximum": 120},
        "b": {"type": "string", "maxLength": 5},
        "c": {"enum": [1, "x", None]},
    },
    "required": ["b"],
    "additionalProperties": False,
}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "string", "pattern": "^[a-zé]+$"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 3},
            },
            "required": ["value"],
            "additionalProperties": False,
        }
    },
}
TAGS = {
    "type": "structural_tag",
    "structures": [{"begin": "<f=a>", "schema": {"type": "boolean"}, "end": "</f>"}],
    "triggers": ["<f="],
}


def schema(value: object, **options: Any) -> GrammarSpec:
    return GrammarSpec("json_schema", json.dumps(value), **options)


SPECS = [
    GrammarSpec("choices", json.dumps(["yes", "no", 'a"b', "é\n\u0001\t\\😀", "", "[x]"])),
    GrammarSpec("regex", r"[a-c]{2,4}(12|é|😀)?\d+"),
    GrammarSpec("regex", r"[\]\-^\\/\[]+[^\]\-^\\/\n]|\.\*\{\|"),
    GrammarSpec("regex", r"([^a]*ab?){0,3}"),
    schema(OBJECT),
    schema(TREE),
    schema({}),
    schema({"type": "string", "format": "date-time"}),
    schema({"type": "array", "items": {"const": "x"}, "minItems": 2, "maxItems": 30}),
    schema({"type": "object", "properties": {"a": True}, "minProperties": 2, "maxProperties": 3}),
    schema(OBJECT, order="any"),
    schema(OBJECT, whitespace="any"),
    GrammarSpec("gbnf", 'root ::= "(" root? ")" | [a-z]+ ("," root)*'),
    GrammarSpec("lark", 'start: item ("," item)*\nitem: /[a-z]+/ | "(" start ")"'),
    GrammarSpec("structural_tag", json.dumps(TAGS)),
]


RECURSIVE = [SPECS[i] for i in (5, 6, 9, 12, 13)]


def compiled(spec: GrammarSpec) -> Grammar | None:
    """None if no text can satisfy it."""
    try:
        return compile_grammar(spec)
    except GrammarError as error:
        if error.keyword not in ("unsatisfiable", "minProperties"):
            raise
        return None


def changed(word: bytes, rng: random.Random) -> bytes:
    """A text with one character put in, taken out or replaced."""
    chars = list(word.decode())
    place = rng.randrange(len(chars) + 1)
    chars[place : place + rng.randrange(2)] = rng.choice(["", "a", '"', "}", "1", "é", "<", ","])
    return "".join(chars).encode()


def check_equal(a: Grammar, b: Grammar, rounds: int, seed: int = 0) -> None:
    rng = random.Random(seed)
    for _ in range(rounds):
        for one, other in ((a, b), (b, a)):
            word = random_text(one, rng)
            if b"\xff" in word:
                continue  # with a special token
            assert other.matches(word), word
            near = changed(word, rng)
            assert one.matches(near) == other.matches(near), near


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.kind} {s.source[:24]}")
def test_same_texts(spec: GrammarSpec, form: Form) -> None:
    if form == "regex" and spec in RECURSIVE:
        with pytest.raises(GrammarError) as caught:
            convert(spec, form)
        assert caught.value.keyword == "recursion"
        return
    grammar, written = compile_grammar(spec), convert(spec, form)
    assert bool(written.notes) == (spec.kind == "structural_tag")
    if form != "regex":
        check_equal(grammar, compile_grammar(GrammarSpec(form, written.text)), rounds=12)
        return
    pattern, rng = re.compile(written.text), random.Random(0)  # our own has limits
    for _ in range(12):
        word = random_text(grammar, rng)
        if b"\xff" not in word:
            assert pattern.fullmatch(word.decode()), word
            near = changed(word, rng)
            assert bool(pattern.fullmatch(near.decode())) == grammar.matches(near), near


@settings(max_examples=40, derandomize=True, deadline=None)
@given(value=schemas(), form=st.sampled_from(["gbnf", "lark"]))
def test_same_texts_of_random_schemas(value: object, form: Form) -> None:
    grammar = compiled(schema(value))
    if grammar is None:
        return
    again = compile_grammar(GrammarSpec(form, convert(schema(value), form).text))
    check_equal(grammar, again, rounds=3)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(pattern=patterns(), form=st.sampled_from(FORMS))
def test_same_texts_of_random_patterns(pattern: str, form: Form) -> None:
    spec = GrammarSpec("regex", pattern)
    grammar = compiled(spec)
    if grammar is None:
        return
    written = convert(spec, form).text
    check_equal(grammar, compile_grammar(GrammarSpec(form, written)), rounds=3)
    if form == "regex":
        assert re.fullmatch(written, random_text(grammar, random.Random(1)).decode())


def test_how_it_is_written() -> None:
    spec = GrammarSpec("choices", json.dumps(["no", 'a"b\\\n']))
    assert convert(spec, "gbnf").text == 'root ::= "a\\"b\\\\\\n" | "no"\n'
    assert convert(spec, "lark").text == 'start: "a\\"b\\\\\\n" | "no"\n'
    assert convert(spec, "regex").text == 'a"b\\\\\\n|no'
    pattern = GrammarSpec("regex", r"[^\]-a]{2,}(x|yz)?[\s\S]")
    anything = r"[\x00-\U0010ffff]"
    assert convert(pattern, "gbnf").text == f'root ::= [^\\]-a]{{2,}} ("x" | "yz")? {anything}\n'
    nested = {"type": "array", "items": {"$ref": "#"}}
    assert convert(schema(nested), "gbnf").text == 'root ::= "[]" | "[" root ("," root)* "]"\n'
    assert convert(schema(nested), "lark").text == 'start: "[]" | "[" start ("," start)* "]"\n'


def test_rules_that_are_used_often_are_written_once() -> None:
    names = {"type": "string", "maxLength": 9}
    members = dict.fromkeys("abcdef", names)
    value = {"type": "object", "properties": members, "required": list(members)}
    written = convert(schema(value | {"additionalProperties": False}), "gbnf").text
    assert written.count("{0,9}") == 1
    assert len(written.splitlines()) == 2


def test_objects_with_many_optional_members_stay_small() -> None:
    """As one expression, each member would double the size."""
    members = {f"m{i}": {"type": "null"} for i in range(40)}
    spec = schema({"type": "object", "properties": members, "additionalProperties": False})
    grammar = compile_grammar(spec)
    for form in ("gbnf", "lark"):
        assert len(convert(spec, form).text) < 60_000
    check_equal(grammar, compile_grammar(GrammarSpec("gbnf", convert(spec, "gbnf").text)), 3)


@pytest.mark.parametrize(
    ("spec", "form", "keyword"),
    [
        (schema(TREE), "regex", "recursion"),
        (schema({"type": "string", "bad keyword": 1}), "gbnf", "bad keyword"),
        (GrammarSpec("regex", r"(a)\1"), "lark", None),
        (schema(False), "gbnf", "unsatisfiable"),
        (
            GrammarSpec(
                "structural_tag", json.dumps({"format": {"type": "token", "token": "<x>"}})
            ),
            "gbnf",
            "unsatisfiable",
        ),
    ],
)  # fmt: skip
def test_refused(spec: GrammarSpec, form: Form, keyword: str | None) -> None:
    with pytest.raises(GrammarError) as caught:
        convert(spec, form)
    assert keyword is None or caught.value.keyword == keyword


def test_half_characters_are_refused() -> None:
    builder = Builder()
    node = builder.lexeme("half", Literal(b"\xc3"))
    with pytest.raises(GrammarError) as caught:
        rules_of(builder.nodes(), node, longest=10)
    assert caught.value.keyword == "utf-8"


def test_expressions() -> None:
    a, b = text("a"), text("b")
    assert choice([a, b]) == Set(((0x61, 0x62),))
    assert choice([NEVER, NEVER]) == join([a, NEVER]) == NEVER
    assert choice([a, EMPTY]) == loop(a, 0, 1)
    assert loop(loop(a, 1, None), 0, 1) == loop(a, 0, None)
    assert loop(NEVER, 0, 5) == loop(a, 0, 0) == EMPTY
    assert loop(NEVER, 1, 5) == NEVER
    assert join([text("ab"), EMPTY, text("c")]) == text("abc")
    assert join([a, loop(a, 0, None)]) == loop(a, 1, None)
    nested = loop(join([a, loop(join([a, loop(a, 0, 1)]), 0, 1)]), 0, 1)
    assert nested == loop(a, 0, 3), "(a(aa?)?)?"


def test_automata_over_characters() -> None:
    ranges = "[\u0000-\u007f\u0100-\u0fff\uf000-\U0001f000\U0010fff0-\U0010ffff]"
    machine = automaton(whole(parse(ranges)))
    assert machine is not None
    edges, accepting = characters(machine)
    assert edges == [[(Set(((0, 0x7F), (0x100, 0xFFF), (0xF000, 0x1F000), (0x10FFF0, 0x10FFFF))), 1)], []]  # fmt: skip  # noqa: E501
    assert accepting == [False, True]


def test_states_are_taken_away() -> None:
    """An even number of `a`, any number of `b`."""
    a, b = text("a"), text("b")
    edges: list[Any] = [[(a, 1), (b, 0)], [(a, 0), (b, 1)]]
    found = eliminated(edges, [True, False], 50)
    assert found == loop(choice([b, join([a, loop(b, 0, None), a])]), 0, None)
    with pytest.raises(TooLargeError):
        eliminated(edges, [True, False], 3)
    dead = eliminated([[(a, 1)], [(a, 1)]], [False, False], 50)
    assert dead == NEVER


def test_too_large_to_be_written() -> None:
    builder = Builder()
    rows = [(bytes(97) + bytes([1]) + bytes(158), (-1, i + 1)) for i in range(3_000)]
    table = Table([*rows, (bytes(256), (-1,))], [False] * 3_000 + [True])
    node = builder.frame(Repeat(builder.lexeme("long", table), 0, None))
    with pytest.raises(GrammarError) as caught:
        rules_of(builder.nodes(), node, longest=10)
    assert caught.value.keyword == "size"


@pytest.mark.slow
def test_xgrammar_reads_the_same() -> None:
    """Development only: another engine on what is written as GBNF."""
    xgrammar = pytest.importorskip("xgrammar")
    accepts = pytest.importorskip("xgrammar.testing")._is_grammar_accept_string
    rng = random.Random(3)
    for spec in SPECS[:9]:
        grammar = compile_grammar(spec)
        other = xgrammar.Grammar.from_ebnf(convert(spec, "gbnf").text)
        for _ in range(6):
            word = random_text(grammar, rng)
            assert accepts(other, word.decode()), word
            near = changed(word, rng)
            assert accepts(other, near.decode()) == grammar.matches(near), near
