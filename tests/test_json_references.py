"""References of JSON Schemas: pointers, anchors, identifiers, dialects, recursion."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sgen.errors import GrammarError
from sgen.grammars.compile import compile_grammar
from sgen.grammars.grammar import Grammar
from sgen.protocol import GrammarSpec
from tests.front_ends import check_means

DRAFT4, DRAFT7 = (f"http://json-schema.org/draft-0{n}/schema#" for n in (4, 7))
LATEST = "https://json-schema.org/draft/2020-12/schema"


def compiled(schema: Any, **options: Any) -> Grammar:
    return compile_grammar(GrammarSpec("json_schema", json.dumps(schema), **options))


@pytest.mark.parametrize(
    ("schema", "yes", "no"),
    [
        ({"allOf": [{"$ref": "#/$defs/x"}], "$defs": {"x": {"const": 1}}}, ["1"], ["2"]),
        ({"$ref": "#/definitions/a~1b%25/0", "definitions": {"a/b%": [{"const": 1}]}}, ["1"],
         ["2"]),
        ({"$ref": "#/$defs/a", "maxLength": 2, "$defs": {"a": {"minLength": 1}}},
         ['"a"', '"ab"'], ['""', '"abc"']),
        ({"$id": "http://x/y", "$ref": "http://x/y#/$defs/z", "$defs": {"z": {"const": 1}}},
         ["1"], ["2"]),
        ({"$id": "http://x/y", "$ref": "z", "$defs": {"z": {"$id": "z", "const": 1}}}, ["1"],
         ["2"]),
        ({"$id": "http://x/y", "$ref": "http://x/z#/$defs/w",
          "$defs": {"z": {"$id": "/z", "$defs": {"w": {"$ref": "#/$defs/v"}, "v": {"const": 1}}}}},
         ["1"], ["2"]),
        ({"$ref": "#here", "$defs": {"a": {"$anchor": "here", "const": 1}}}, ["1"], ["2"]),
        ({"$schema": DRAFT7, "$ref": "#here", "definitions": {"a": {"$id": "#here", "const": 1}}},
         ["1"], ["2"]),
        ({"$schema": DRAFT4, "allOf": [{"$ref": "#here"}],
          "definitions": {"a": {"id": "#here", "enum": [1]}}}, ["1"], ["2"]),
        # As generators write it: identifiers inside, pointers from the root.
        ({"definitions": {"a": {"id": "My.Type", "$ref": "#/definitions/b"}, "b": {"const": 1}},
          "allOf": [{"$ref": "#/definitions/a"}]}, ["1"], ["2"]),
        ({"$dynamicRef": "#x", "$defs": {"a": {"$dynamicAnchor": "x", "const": 1}}}, ["1"], ["2"]),
        ({"type": "object", "properties": {"a": {"$recursiveRef": "#"}},
          "additionalProperties": False}, ['{"a":{"a":{}}}'], ['{"a":1}']),
        ({"type": "object", "properties": {"next": {"$ref": "#"}, "v": {"const": 1}},
          "additionalProperties": False},
         ["{}", '{"next":{"next":{},"v":1}}'], ['{"next":1}']),
        ({"$ref": "#/$defs/list", "$defs": {
            "list": {"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/list"},
                                                          {"$ref": "#/$defs/leaf"}]}},
            "leaf": {"const": 0}}}, ["[]", "[0,[0],[[]]]"], ["0", "[1]"]),
        ({"$ref": "#/$defs/tree", "$defs": {"tree": {
            "type": "object", "required": ["v"], "properties": {
                "v": {"type": "integer"}, "kids": {"items": {"$ref": "#/$defs/tree"}}},
            "oneOf": [{"required": ["kids"]}, {"properties": {"v": {"const": 0}}}]}}},
         ['{"v":0}', '{"v":1,"kids":[{"v":0}]}'], ['{"v":1}', '{"v":0,"kids":[]}', "{}"]),
        ({"not": {"$ref": "#/$defs/t"}, "type": "object", "$defs": {
            "t": {"properties": {"a": {"$ref": "#/$defs/t"}}, "required": ["a"]}}},
         ["{}", '{"b":1}', '{"a":{}}'], ['{"a":1}', '{"a":{"a":1}}']),
    ],
)  # fmt: skip
def test_references(schema: Any, yes: list[str], no: list[str]) -> None:
    grammar = compiled(schema)
    check_means(grammar, yes, no)


@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        ({"$ref": "http://elsewhere/x.json"}, "/$ref"),
        ({"items": {"$ref": "other.json#/a"}}, "/items/$ref"),
        ({"$ref": LATEST}, "/$ref"),
        ({"$ref": "#/nowhere"}, "/$ref"),
        ({"$ref": "#anchor"}, "/$ref"),
        ({"$ref": 5}, "/$ref"),
        ({"$schema": DRAFT7, "items": {"$ref": 5}}, "/items/$ref"),
    ],
)
def test_nothing_is_fetched(schema: Any, pointer: str) -> None:
    with pytest.raises(GrammarError) as caught:
        compiled(schema)
    assert (caught.value.keyword, caught.value.pointer) == ("$ref", pointer)


def test_one_of_several_dynamic_anchors_is_refused() -> None:
    two = {"a": {"$id": "a", "$dynamicAnchor": "x"}, "b": {"$id": "b", "$dynamicAnchor": "x"}}
    with pytest.raises(GrammarError) as caught:
        compiled({"$defs": two, "items": {"$dynamicRef": "a#x"}})
    assert (caught.value.keyword, caught.value.pointer) == ("$dynamicRef", "/items/$dynamicRef")


def test_long_chains_of_references_do_not_recurse() -> None:
    size = 1_500
    for link in ({}, {"title": "t"}):
        defs: dict[str, Any] = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}", **link} for i in range(size)}
        defs[f"d{size}"] = {"const": 1}
        assert compiled({"$ref": "#/$defs/d0", "$defs": defs}).matches(b"1")
        assert compiled({"allOf": [{"$ref": "#/$defs/d0"}], "$defs": defs}).matches(b"1")


def test_beside_a_reference_old_drafts_ignore_everything() -> None:
    schema = {"definitions": {"a": {}}, "items": {"$ref": "#/definitions/a", "maxLength": 1}}
    assert not compiled(schema).matches(b'["ab"]')
    for draft in (DRAFT4, DRAFT7):
        grammar = compiled({"$schema": draft, **schema})
        assert grammar.matches(b'["ab"]')
        assert [note.partition(":")[0] for note in grammar.notes] == ["/items/maxLength"]
