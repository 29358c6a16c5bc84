"""What the JSON Schema front end refuses: with keyword and JSON pointer, and in bounded time."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from sgen.errors import GrammarError
from sgen.grammars.compile import compile_grammar
from sgen.grammars.grammar import Grammar
from sgen.protocol import GrammarSpec


def compiled(schema: Any) -> Grammar:
    return compile_grammar(GrammarSpec("json_schema", json.dumps(schema)))


UNIQUE = {"type": "array", "uniqueItems": True}


@pytest.mark.parametrize(
    ("schema", "keyword", "pointer"),
    [
        (UNIQUE, "uniqueItems", "/uniqueItems"),
        ({"items": {**UNIQUE, "items": {"type": "string"}}}, "uniqueItems", "/items/uniqueItems"),
        ({"not": {**UNIQUE, "maxItems": 3}}, "uniqueItems", ""),
        ({"type": "array", "minItems": -1}, "minItems", "/minItems"),
        ({"type": "array", "maxItems": 2**64}, "maxItems", "/maxItems"),
        ({"properties": {"a/b": {"type": "array", "maxItems": "1"}}}, "maxItems",
         "/properties/a~1b/maxItems"),
        ({"type": "array", "contains": {}, "minContains": 1.5}, "minContains", "/minContains"),
        ({"contains": {"const": 1}, "minContains": 90, "maxContains": 95, "maxItems": 9000},
         "contains", ""),
        ({"type": "string", "minLength": "1"}, "minLength", "/minLength"),
        ({"type": "string", "format": "uri-template-x"}, "format", "/format"),
        ({"type": "string", "pattern": r"(a)\1"}, "escape", "/pattern"),
        ({"type": "string", "pattern": 5}, "pattern", "/pattern"),
        ({"type": "string", "contentEncoding": "base32"}, "contentEncoding", "/contentEncoding"),
        ({"type": "number", "minimum": "1"}, "minimum", "/minimum"),
        ({"type": "number", "multipleOf": 0}, "multipleOf", "/multipleOf"),
        ({"type": "tuple"}, "type", "/type"),
        ({"type": "any"}, "type", "/type"),
        ({"maxLenght": 5}, "maxLenght", "/maxLenght"),
        ({"properties": {"a": {"nullable": True}}}, "nullable", "/properties/a/nullable"),
        ({"anyOf": []}, "anyOf", "/anyOf"),
        ({"allOf": {}}, "allOf", "/allOf"),
        ({"oneOf": [5]}, "schema", "/oneOf/0"),
        ({"not": 5}, "not", "/not"),
        ({"dependentRequired": {"a": "b"}}, "dependentRequired", "/dependentRequired"),
        ({"patternProperties": {"(": {}}}, "group", "/patternProperties/("),
        ({"enum": "a"}, "enum", "/enum"),
        ({"enum": list(range(5000))}, "enum", "/enum"),
        ({"$schema": "http://example.com/mine"}, "$schema", "/$schema"),
        ({"discriminator": {"propertyName": "k"}, "type": "object"}, "discriminator",
         "/discriminator"),
        ([], "schema", ""),
        ({"properties": {"a": 5}}, "schema", "/properties/a"),
        ({"properties": [5]}, "properties", "/properties"),
        ({"required": True}, "required", "/required"),
        ({"type": "object", "required": ["a", 5]}, "required", "/required"),
        ({"type": "object", "minLength": "1"}, "minLength", "/minLength"),
        ({"type": "null", "items": 5}, "items", "/items"),
        ({"prefixItems": [{}], "items": [{}]}, "items", "/items"),
        ({"title": "x" * 1_100_000}, "size", ""),
    ],
)  # fmt: skip
def test_refused(schema: Any, keyword: str, pointer: str) -> None:
    with pytest.raises(GrammarError) as caught:
        compiled(schema)
    found = (caught.value.keyword, caught.value.pointer)
    assert found in ((keyword, pointer), ("pattern", pointer), ("backreference", pointer))


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"enum": []},
        {"type": []},
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"type": "array", "contains": {"const": 1}, "items": {"type": "string"}},
        {"type": "object", "properties": {"a": False}, "minProperties": 1,
         "additionalProperties": False},
        {"allOf": [{"type": "string"}, {"type": "null"}]},
        {"not": {}},
        {"oneOf": [{"type": "null"}, {"const": None}], "type": "null"},
        {"const": 1, "enum": [2]},
    ],
)  # fmt: skip
def test_nothing_can_satisfy_it(schema: Any) -> None:
    with pytest.raises(GrammarError) as caught:
        compiled(schema)
    assert caught.value.keyword == "unsatisfiable"


def test_hints() -> None:
    with pytest.raises(GrammarError) as caught:
        compiled({"minLenght": 5})
    assert "did you mean minLength?" in str(caught.value)
    with pytest.raises(GrammarError) as caught:
        compiled({"type": "string", "nullable": True})
    assert '"null"' in str(caught.value)


@pytest.mark.parametrize(
    ("source", "keyword"),
    [
        ("[" * 1_100_000, "size"),
        ("[" * 100_000, "depth"),
        ('{"items":' * 300 + "{}" + "}" * 300, "depth"),
        ("{", "json"),
        ("", "json"),
        ('{"type":"string","type":"null"}', "json"),
        (r'{"const":"\u003a","a":1,"a":2}', "json"),
        ('{"const":NaN}', "json"),
        ('{"minimum":' + "9" * 5000 + "}", "json"),
        (r'{"const":"\ud800"}', "json"),
        (r'{"properties":{"\ud800":{}}}', "json"),
        (r'{"required":["\ud800"]}', "json"),
        (r'{"\ud800":1}', "json"),
        ('{"type":"number","multipleOf":1e400}', "json"),
        ('{"anyOf":[{"$ref":"#/anyOf/%s"}]}' % ("9" * 5000), "$ref"),
        ('{"$defs":{"a":{"enum":[1],"anyOf":[{"$ref":"#/$defs/a"}]}},"$ref":"#/$defs/a"}',
         "recursion"),
        ('{"$ref":"#"}', "recursion"),
        ('{"not":{"$ref":"#"}}', "recursion"),
        ('{"anyOf":[{"$ref":"#"},{"type":"null"}]}', "recursion"),
        ('{"type":"object","allOf":[{"$ref":"#"}]}', "recursion"),
        ('{"allOf":' * 250 + "[" * 0 + "[{}]" + "}" * 250, "allOf"),
    ],
)  # fmt: skip
def test_refused_sources(source: str, keyword: str) -> None:
    with pytest.raises(GrammarError) as caught:
        compile_grammar(GrammarSpec("json_schema", source))
    assert caught.value.keyword == keyword
    str(caught.value).encode()


def heavy_schemas() -> dict[str, Any]:
    """Each a long time's work if it were done in full."""
    different = [{"properties": {f"p{i}": {"minimum": i}, "q": {"maximum": i}}} for i in range(60)]
    inside: Any = {"const": 1}
    for i in range(12):
        inside = {"oneOf": [{"properties": {f"a{k}": inside}} for k in range(i % 3 + 2)]}
    return {
        "patterns": {"patternProperties": {f"a{i}b": {"minimum": i} for i in range(2500)}},
        "products": {"anyOf": [{"type": "string", "pattern": f"a.{{{i}}}b", "format": "hostname"}
                               for i in range(5, 200)]},
        "overlaps": {"patternProperties": {f"[ab]*a[ab]{{{i}}}{c}": {} for i in range(9, 20)
                                           for c in "ab"}},
        "oneOf": {"type": "object", "oneOf": different},
        "oneOf in oneOf": inside,
        "not": {"allOf": [{"not": s} for s in different]},
        "dependencies": {"dependentSchemas": {f"a{i}": {"properties": {f"b{i}": {"const": i}}}
                                              for i in range(40)}},
        "clauses": {"maxProperties": 25, "dependentRequired": {
            f"a{i}": [f"b{k}" for k in range(20)] for i in range(20)}},
    }  # fmt: skip


@pytest.mark.parametrize("name", heavy_schemas())
def test_work_is_bounded(name: str) -> None:
    start = time.process_time()
    with pytest.raises(GrammarError) as caught:
        compiled(heavy_schemas()[name])
    assert caught.value.keyword in ("work", "patternProperties", "pattern", "size", "states")
    assert time.process_time() - start < 8  # seconds; about 1 where nothing else runs


def test_too_many_optional_properties_are_named_as_the_cause() -> None:
    with pytest.raises(GrammarError, match="optional properties") as caught:
        compiled({"items": {"properties": {f"p{i}": {} for i in range(2500)}}})
    assert (caught.value.keyword, caught.value.pointer) == ("properties", "/items")
    names = [f"p{i}" for i in range(2500)]
    grammar = compiled({"properties": dict.fromkeys(names, True), "required": names[::2]})
    assert not grammar.matches(b"{}")
