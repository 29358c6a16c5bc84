"""The options of a JSON Schema grammar: white space, the order of members, unknown keywords."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from sgen.errors import GrammarError
from sgen.grammars.compile import compile_grammar
from sgen.grammars.grammar import Grammar
from sgen.grammars.plan import Plan
from sgen.protocol import GrammarSpec
from tests.walks import random_text


def compiled(schema: Any, **options: Any) -> Grammar:
    return compile_grammar(GrammarSpec("json_schema", json.dumps(schema), **options))


THING = {
    "type": "object",
    "properties": {
        "a": {"type": "array", "items": {"type": "integer"}},
        "b": {"const": {"c": [1]}},
    },
    "required": ["a"],
    "additionalProperties": {"type": "object"},
}
VALUES: list[Any] = [{"a": []}, {"a": [1, 2]}, {"a": [1], "b": {"c": [1]}}, {"a": [], "x": {}}]


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_styles_of_white_space(value: Any) -> None:
    compact = json.dumps(value, separators=(",", ":"))
    spaced = json.dumps(value)
    pretty = [json.dumps(value, indent=n) for n in (0, 1, 2, 4)]
    tabs = json.dumps(value, indent="\t")
    matched = {
        style: [compiled(THING, whitespace=style).matches(t.encode())
                for t in (compact, spaced, *pretty, tabs)]
        for style in ("compact", "pretty", "any")
    }  # fmt: skip
    assert matched["compact"] == [True, *[False] * 6]
    assert matched["pretty"] == [False, False, True, True, True, True, False]
    assert matched["any"] == [True] * 7


def test_white_space_is_bounded() -> None:
    for style in ("pretty", "any"):
        grammar = compiled({"type": "array", "items": {"const": 1}}, whitespace=style)
        assert grammar.matches(b"[\n" + b" " * 40 + b"1\n]")
        assert not grammar.matches(b"[\n" + b" " * 41 + b"1\n]")
        assert not grammar.matches(b"[\n\n1\n]")
        assert grammar.matches(b"[]")
        assert not grammar.matches(b"[ ]")
        assert not grammar.matches(b"[] ")


@pytest.mark.parametrize("style", ["pretty", "any"])
def test_what_is_written_with_white_space_is_valid(style: str) -> None:
    grammar = compiled(THING, whitespace=style)
    for seed in range(40):
        value = json.loads(random_text(grammar, random.Random(seed), size=80))
        assert isinstance(value["a"], list)


def test_any_order() -> None:
    schema = {"type": "object", "properties": {n: {"const": n} for n in "abc"},
              "required": ["b"], "additionalProperties": {"const": 0}}  # fmt: skip
    grammar = compiled(schema, order="any")
    for yes in ('{"c":"c","b":"b"}', '{"x":0,"b":"b","y":0,"a":"a"}', '{"b":"b"}'):
        assert grammar.matches(yes.encode())
    for no in ('{"c":"c"}', '{"b":"b","b":"b"}', '{"b":"b","x":1}', '{"b":"b","a":0}', "{}"):
        assert not grammar.matches(no.encode())
    nested = compiled({"enum": [{"a": 1, "b": 2}]}, order="any")
    assert nested.matches(b'{"b":2,"a":1}')
    dependent = compiled({"dependentRequired": {"a": ["b"]}, "type": "object"}, order="any")
    assert dependent.matches(b'{"b":1,"a":1}')
    assert dependent.matches(b'{"a":1,"b":1}')
    assert not dependent.matches(b'{"c":1,"a":1}')


def test_any_order_is_bounded() -> None:
    names = {f"p{i}": {} for i in range(61)}
    with pytest.raises(GrammarError, match="in any order") as caught:
        compiled({"items": {"properties": names}}, order="any")
    assert (caught.value.keyword, caught.value.pointer) == ("properties", "/items")
    compiled({"properties": names}, order="relaxed")
    many = {f"p{i}": [f"p{i + 1}"] for i in range(9)}
    with pytest.raises(GrammarError, match="in any order"):
        compiled({"type": "object", "dependentRequired": many}, order="any")


RELAXED = {"type": "object", "properties": {n: {"const": 0} for n in "abcdef"},
           "required": ["d", "b"], "additionalProperties": {"const": 1}}  # fmt: skip


@pytest.mark.parametrize(
    ("names", "accepted"),
    [
        ("bd", True),  # the order of the properties
        ("db", True),  # that of `required`
        ("abcd", True),
        ("bcd", True),
        ("acbd", False),  # c before the required b, out of order
        ("dab", False),
        ("abdfec", True),  # once all that are required are there, as they come
        ("bdxa", True),
        ("xbd", False),
        ("bxd", False),
        ("bda", True),
        ("bdd", False),
        ("b", False),
        ("", False),
    ],
)
def test_relaxed_order(names: str, accepted: bool) -> None:
    text = "{" + ",".join(f'"{n}":{int(n == "x")}' for n in names) + "}"
    grammar = compiled(RELAXED, order="relaxed")
    assert grammar.matches(text.encode()) is accepted
    assert Grammar(Plan.unpack(grammar.plan.pack()), in_c=False).matches(text.encode()) is accepted


def test_relaxed_order_begins_with_the_name_of_the_schema() -> None:
    schema = {"properties": {"a": {}, "b": {}}, "required": ["a"], "type": "object"}
    text = b'{"$schema":"http://x/y","a":1}'
    assert compiled(schema, order="relaxed").matches(text)
    assert not compiled(schema).matches(text)
    closed = {**schema, "additionalProperties": False}
    assert not compiled(closed, order="relaxed").matches(text)


def test_unknown_keywords_are_refused_or_noted() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "format": "color"},
                                               "b": {"required": True, "mergeStrategy": 1}},
              "x-anything": 1, "self": {"vendor": "v"}}  # fmt: skip
    with pytest.raises(GrammarError):
        compiled(schema)
    grammar = compiled(schema, unknown="note")
    assert grammar.matches(b'{"a":"not a color","b":1}')
    assert [note.partition(":")[0] for note in grammar.notes] == [
        "/self", "/properties/a/format", "/properties/b/required", "/properties/b/mergeStrategy"
    ]  # fmt: skip


@pytest.mark.parametrize("keyword", ["uniqueItems", "pattern", "$ref"])
def test_what_is_known_but_not_enforced_is_always_refused(keyword: str) -> None:
    value = {"uniqueItems": True, "pattern": r"(a)\1", "$ref": "http://x/y"}[keyword]
    with pytest.raises(GrammarError):
        compiled({"type": ["array", "string"], keyword: value}, unknown="note")


def test_formats_are_annotations_where_the_dialect_says_so() -> None:
    schema = {"type": "string", "format": "date"}
    latest = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    old = {"$schema": "http://json-schema.org/draft-07/schema#", **schema}
    assert compiled(latest, unknown="note").matches(b'"x"')
    assert compiled(latest, unknown="note").notes
    for grammar in (compiled(latest), compiled(old, unknown="note"),
                    compiled(schema, unknown="note")):  # fmt: skip
        assert not grammar.matches(b'"x"')
        assert not grammar.notes


def test_dependencies_belong_to_older_dialects() -> None:
    schema = {"dependencies": {"a": ["b"]}, "type": "object"}
    assert not compiled(schema).matches(b'{"a":1}')
    assert compiled(schema, unknown="note").matches(b'{"a":1}')
    old = {"$schema": "http://json-schema.org/draft-07/schema#", **schema}
    assert not compiled(old, unknown="note").matches(b'{"a":1}')


def test_draft_3_types_and_dialects_that_are_not_known() -> None:
    grammar = compiled({"$schema": "http://x/y", "type": "any"}, unknown="note")
    assert grammar.matches(b'"x"')
    assert len(grammar.notes) == 2
