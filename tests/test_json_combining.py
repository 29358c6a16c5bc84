"""Schemas that combine schemas: the algebra against the `jsonschema` package, and by hand."""

from __future__ import annotations

import json
import random
from itertools import islice
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgen.errors import GrammarError
from sgen.grammars.compile import compile_grammar
from sgen.grammars.grammar import Grammar
from sgen.protocol import GrammarSpec
from tests.front_ends import check_means
from tests.schemas import combined_schemas, neighbours, orders, text, values
from tests.test_json_schema import counts_members, is_narrowed, is_valid
from tests.walks import random_text


def compiled(schema: Any, **options: Any) -> Grammar:
    return compile_grammar(GrammarSpec("json_schema", json.dumps(schema), **options))


def in_any_order(schema: Any) -> Grammar | None:
    """The grammar; None if no text can satisfy the schema, or too many undeclared keys must."""
    try:
        return compiled(schema, order="any")
    except GrammarError as error:
        if error.keyword not in ("unsatisfiable", "minProperties"):
            raise
        return None


@settings(max_examples=250, derandomize=True, deadline=None)
@given(schema=combined_schemas(), instances=st.lists(values(), min_size=4, max_size=6))
def test_accepts_just_what_is_valid(schema: Any, instances: list[Any]) -> None:
    grammar = in_any_order(schema)
    tried = [v for i in instances for v in (i, *islice(neighbours(i), 6))]
    for value in tried:
        accepted = grammar is not None and grammar.matches(text(value))
        valid = is_valid(value, schema)
        assert valid or not accepted, (schema, value)
        if not counts_members(schema):
            assert accepted or not valid or is_narrowed(value), (schema, value)


@settings(max_examples=80, derandomize=True, deadline=None)
@given(schema=combined_schemas(), seed=st.integers(0, 99))
def test_orders_differ_in_nothing_else(schema: Any, seed: int) -> None:
    """What one order of members allows, the others do, once the members are in their order."""
    grammar = in_any_order(schema)
    if grammar is None:
        return
    others = [compiled(schema), compiled(schema, order="relaxed")]
    for i in range(4):
        written = random_text(grammar, random.Random(f"{seed} {i}"), size=20)
        value = json.loads(written)
        assert is_valid(value, schema), (schema, written)
        for other in others:
            same = any(other.matches(text(v)) for v in orders(value))
            assert same or counts_members(schema), (schema, written)


@pytest.mark.parametrize(
    ("schema", "yes", "no"),
    [
        ({"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 0}]}, ['"a"', "3"], ["-3"]),
        ({"anyOf": [{"minLength": 2}, {"maxLength": 0}], "type": "string"}, ['""', '"ab"'],
         ['"a"', "1"]),
        ({"type": "object", "anyOf": [{"properties": {"a": {"const": 1}}, "required": ["a"]},
                                      {"properties": {"b": {"const": 2}}, "required": ["b"]}]},
         ['{"a":1}', '{"b":2}', '{"b":2,"a":5}'], ["{}", '{"a":2}', "1"]),
        ({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}},
          "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
         ['{"a":1}', '{"b":"x"}', '{"a":1,"b":"x"}'], ["{}", '{"a":"x","b":"x"}', '{"c":1}']),
        ({"oneOf": [{"type": "string"}, {"type": "null"}]}, ['"a"', "null"], ["1"]),
        ({"oneOf": [{"type": "integer", "maximum": 3}, {"type": "integer", "minimum": 4}]},
         ["3", "4"], ["3.5"]),
        ({"oneOf": [{"type": "string", "maxLength": 1}, {"type": "string", "minLength": 3}]},
         ['"a"', '"abc"'], ['"ab"']),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, ["1.5"], ["1", '"a"']),
        ({"oneOf": [{"minimum": 5}, {"multipleOf": 2}], "type": "integer"}, ["7", "2"],
         ["6", "3"]),
        ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}], "type": "object"},
         ['{"a":1}', '{"b":1}'], ["{}", '{"a":1,"b":1}', '{"b":1,"a":1}']),
        ({"type": "object", "required": ["k"], "properties": {"x": {}}, "oneOf": [
            {"properties": {"k": {"const": "a"}, "x": {"type": "integer"}}},
            {"properties": {"k": {"const": "b"}, "x": {"type": "string"}}}]},
         ['{"x":1,"k":"a"}', '{"x":"s","k":"b"}', '{"k":"b"}'], ['{"x":"s","k":"a"}', "{}"]),
        ({"oneOf": [{"patternProperties": {"^a": {}}, "additionalProperties": False},
                    {"patternProperties": {"^b": {}}, "additionalProperties": False}],
          "type": "object"}, ['{"a":1,"ab":1}', '{"b":1}'], ["{}", '{"a":1,"b":1}', '{"c":1}']),
        ({"allOf": [{"minLength": 2}, {"maxLength": 3}, {"pattern": "^a"}]},
         ['"ab"', '"abc"', "5"], ['"a"', '"abcd"', '"bb"']),
        ({"allOf": [{"type": ["integer", "string"]}, {"type": ["number", "null"]}]}, ["1"],
         ["1.5", '"a"', "null"]),
        ({"allOf": [{"properties": {"a": {"minimum": 1}}}, {"properties": {"a": {"maximum": 2}},
                                                           "required": ["a"]}]},
         ['{"a":1}', '{"a":2,"b":0}'], ['{"a":0}', '{"a":3}', "{}"]),
        ({"allOf": [{"properties": {"a": {}}, "additionalProperties": False},
                    {"properties": {"b": {}}, "additionalProperties": False}]}, ["{}", "1"],
         ['{"a":1}', '{"b":1}']),
        ({"properties": {"a": {"const": 1}}, "allOf": [{"properties": {"b": {"const": 2}}}]},
         ['{"a":1,"b":2}', '{"b":2}'], ['{"a":2}', '{"b":1}', '{"b":2,"a":1}']),
        ({"allOf": [{"items": {"type": "integer"}}, {"prefixItems": [{"minimum": 3}]}]},
         ["[3,1]", "[]"], ["[2]", '[3,"a"]']),
        ({"not": {"type": "string"}}, ["1", "[]"], ['"a"']),
        ({"type": "string", "not": {"enum": ["a", "b"]}}, ['"c"', '"ab"', '""'], ['"a"', '"b"']),
        ({"type": "integer", "not": {"minimum": 3, "maximum": 5}}, ["2", "6"], ["3", "5"]),
        ({"type": "object", "not": {"required": ["a"]}}, ["{}", '{"b":1}'], ['{"a":1}']),
        ({"type": "object", "not": {"required": ["a", "b"]}}, ['{"a":1}', '{"b":1}'],
         ['{"a":1,"b":1}']),
        ({"type": "object", "not": {"properties": {"a": {"type": "integer"}}}}, ['{"a":"x"}'],
         ["{}", '{"a":1}']),
        ({"type": "object", "not": {"additionalProperties": {"type": "integer"}}},
         ['{"a":"x"}', '{"b":1,"a":"x"}'], ["{}", '{"a":1}']),
        ({"type": "object", "not": {"patternProperties": {"^x": {"type": "integer"}}}},
         ['{"x":"s"}', '{"a":1,"x1":null}'], ["{}", '{"a":"s"}', '{"x":1}']),
        ({"type": "object", "not": {"propertyNames": {"maxLength": 2}}}, ['{"abc":1}'],
         ["{}", '{"ab":1}']),
        ({"type": "object", "not": {"minProperties": 2}}, ["{}", '{"a":1}'], ['{"a":1,"b":2}']),
        ({"type": "array", "not": {"items": {"type": "integer"}}}, ['["a"]', '[1,"a"]'],
         ["[]", "[1]"]),
        ({"type": "array", "not": {"contains": {"const": 1}}}, ["[]", "[2]"], ["[1]", "[2,1]"]),
        ({"type": "array", "not": {"prefixItems": [{"const": 1}]}}, ["[2]", "[2,1]"],
         ["[]", "[1]"]),
        ({"not": {"not": {"const": 1}}}, ["1"], ["2"]),
        ({"not": {"anyOf": [{"type": "string"}, {"minimum": 3}]}}, ["2"], ['"a"', "3", "null"]),
        ({"not": {"oneOf": [{"minimum": 3}, {"maximum": 5}]}, "type": "integer"}, ["4"],
         ["2", "6"]),
        ({"if": {"const": 1}, "then": False}, ["2", '"a"'], ["1"]),
        ({"if": {"type": "string"}, "then": {"maxLength": 1}, "else": {"type": "null"}},
         ['"a"', "null"], ['"ab"', "1"]),
        ({"type": "object", "properties": {"k": {"enum": ["a", "b"]}, "v": {}},
          "if": {"properties": {"k": {"const": "a"}}, "required": ["k"]},
          "then": {"properties": {"v": {"type": "integer"}}, "required": ["v"]},
          "else": {"properties": {"v": {"type": "string"}}}},
         ['{"k":"a","v":1}', '{"k":"b","v":"x"}', '{"k":"b"}', '{"v":"x"}', "{}"],
         ['{"k":"a"}', '{"k":"a","v":"x"}', '{"k":"b","v":1}', '{"v":1}']),
        ({"then": {"const": 1}, "else": {"const": 2}}, ["3"], []),
        ({"discriminator": {"propertyName": "k"}, "oneOf": [
            {"properties": {"k": {"const": "a"}, "x": {"type": "integer"}}},
            {"properties": {"k": {"const": "b"}}}], "type": "object"},
         ['{"k":"a","x":1}', '{"k":"b","x":"s"}'], ["{}", '{"k":"a","x":"s"}']),
    ],
)  # fmt: skip
def test_accepts_and_rejects(schema: Any, yes: list[str], no: list[str]) -> None:
    grammar = compiled(schema)
    check_means(grammar, yes, no)
    validator = jsonschema.Draft202012Validator(schema)
    assert all(validator.is_valid(json.loads(t)) for t in yes)


def test_large_alternatives_of_one_of_exclude_each_other() -> None:
    """Their complements are worked out in part: what is then accepted is still valid."""

    def branch(i: int) -> Any:
        inner = {f"p{k}": {"type": "array", "items": {"properties": {"q": {"const": k}}}}
                 for k in range(9)}  # fmt: skip
        return {"type": "object", "properties": inner, "required": [f"p{i}"]}

    schema = {"oneOf": [branch(i) for i in range(3)]}
    grammar = compiled(schema)
    yes: list[Any] = [{"p1": []}, {"p2": [{"q": 2}]}, {"p0": [], "p5": []}]
    no: list[Any] = [{"p0": [], "p1": []}, {}, {"p1": [{"q": 5}]}]
    for value in (*yes, *no):
        assert is_valid(value, schema) is (value in yes)
        assert grammar.matches(text(value)) is (value in yes)
    for seed in range(30):
        written = random_text(grammar, random.Random(seed), size=60)
        assert is_valid(json.loads(written), schema)


def test_members_are_in_the_order_of_the_schema_then_of_what_it_combines() -> None:
    schema = {
        "required": ["last", "a"],
        "properties": {"a": {"const": 0}},
        "allOf": [{"properties": {"b": {"const": 0}, "a": {}}}, {"properties": {"c": {}}}],
        "additionalProperties": {"const": 0},
        "type": "object",
    }
    grammar = compiled(schema)
    assert grammar.matches(b'{"a":0,"b":0,"c":0,"last":0,"z":0}')
    assert not grammar.matches(b'{"a":0,"c":0,"b":0,"last":0}')
    assert not grammar.matches(b'{"last":0,"a":0}')
