"""What output must be, in every field that says it, and the limits of each."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from sgen.protocol import GrammarSpec
from sgen.server.errors import APIError
from sgen.server.formats import constraint_of
from sgen.server.settings import Limits
from sgen.server.wire_completions import CompletionRequest

SCHEMA = {"type": "object"}
GBNF = 'root ::= "a"'
LARK = 'start: "a"'
TAG = {"structures": [{"begin": "<a>", "schema": {}, "end": "</a>"}], "triggers": ["<a"]}


def read(limits: Limits | None = None, **fields: Any) -> tuple[GrammarSpec, str] | None:
    data = msgspec.json.encode({"prompt": "x", **fields})
    body = msgspec.json.decode(data, type=CompletionRequest)
    found = constraint_of(body, limits or Limits())
    return None if found is None else (found.spec, found.param)


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"response_format": {"type": "json_object"}}, "json_schema", "response_format"),
        (
            {"response_format": {"type": "json_object", "schema": SCHEMA}},
            "json_schema",
            "response_format.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
            "json_schema",
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "structural_tag", **TAG}},
            "structural_tag",
            "response_format",
        ),
        ({"structured_outputs": {"json": SCHEMA}}, "json_schema", "structured_outputs.json"),
        (
            {"structured_outputs": {"json": json.dumps(SCHEMA)}},
            "json_schema",
            "structured_outputs.json",
        ),
        ({"structured_outputs": {"regex": "a+"}}, "regex", "structured_outputs.regex"),
        ({"structured_outputs": {"choice": ["a"]}}, "choices", "structured_outputs.choice"),
        ({"structured_outputs": {"grammar": LARK}}, "lark", "structured_outputs.grammar"),
        (
            {"structured_outputs": {"structural_tag": json.dumps(TAG)}},
            "structural_tag",
            "structured_outputs.structural_tag",
        ),
        ({"guided_json": SCHEMA}, "json_schema", "guided_json"),
        ({"guided_regex": "a"}, "regex", "guided_regex"),
        ({"guided_choice": ["a", "b"]}, "choices", "guided_choice"),
        ({"guided_grammar": GBNF}, "gbnf", "guided_grammar"),
        ({"regex": "a"}, "regex", "regex"),
        ({"ebnf": GBNF}, "gbnf", "ebnf"),
        ({"json_schema": json.dumps(SCHEMA)}, "json_schema", "json_schema"),
        ({"grammar": GBNF}, "gbnf", "grammar"),
    ],
)
def test_each_field(fields: dict[str, Any], kind: str, param: str) -> None:
    found = read(**fields)
    assert found is not None
    assert (found[0].kind, found[1]) == (kind, param)


def test_text_and_nulls_are_no_constraint() -> None:
    assert read(response_format={"type": "text"}, guided_json=None, structured_outputs=None) is None


def nested(depth: int) -> Any:
    return {} if depth == 1 else {"not": nested(depth - 1)}


@pytest.mark.parametrize(
    ("limits", "good", "bad", "param"),
    [
        (Limits(schema_depth=3), nested(3), nested(4), "json_schema/not/not/not"),
        (Limits(enum_entries=2), {"enum": [1, 2]}, {"enum": [1, 2, 3]}, "json_schema/enum"),
        (Limits(pattern_bytes=2), {"pattern": "ab"}, {"pattern": "abc"}, "json_schema"),
        (Limits(pattern_bytes=2), {"pattern": "é"}, {"pattern": "éa"}, "json_schema"),
        (
            Limits(pattern_bytes=1),
            {"patternProperties": {"a": {}}},
            {"patternProperties": {"ab": {}}},
            "json_schema",
        ),
        (Limits(schema_bytes=4), True, False, "json_schema"),
    ],
)
def test_each_limit_and_one_past_it(limits: Limits, good: Any, bad: Any, param: str) -> None:
    assert read(limits, json_schema=good) is not None
    with pytest.raises(APIError) as caught:
        read(limits, json_schema=bad)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_a_constraint_that_says_nothing_is_refused() -> None:
    for fields in ({}, {"json": None}, {"json_object": False}):
        with pytest.raises(APIError, match="says nothing") as caught:
            read(structured_outputs=fields)
        assert caught.value.param == "structured_outputs"
    with pytest.raises(msgspec.ValidationError, match="jsn"):
        read(structured_outputs={"jsn": SCHEMA})


def test_an_empty_regex_is_one_and_an_empty_grammar_of_llama_cpp_is_none() -> None:
    assert read(regex="") == (GrammarSpec("regex", ""), "regex")
    assert read(grammar="") is None


def test_two_constraints_are_both_named() -> None:
    with pytest.raises(APIError, match=r"structured_outputs\.regex and guided_choice"):
        read(structured_outputs={"regex": "a"}, guided_choice=["a"])


def test_a_json_schema_format_needs_a_schema() -> None:
    with pytest.raises(APIError) as caught:
        read(response_format={"type": "json_schema", "json_schema": {"name": "x"}})
    assert caught.value.param == "response_format.json_schema"
