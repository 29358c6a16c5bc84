"""How the calls of a model are judged, by answers made here."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.bfcl import Outcome, as_schema, is_right, judge, request_of

ROW: dict[str, Any] = {
    "id": "one",
    "question": [[{"role": "user", "content": "Area of 3 by 4?"}]],
    "function": [
        {
            "name": "geo.area",
            "description": "The area.",
            "parameters": {
                "type": "dict",
                "properties": {
                    "width": {"type": "float"},
                    "height": {"type": "integer", "default": 1},
                    "unit": {"type": "string", "optional": True},
                },
                "required": ["width", "height"],
            },
        }
    ],
    "ground_truth": [{"geo.area": {"width": [3, 3.0], "height": [4], "unit": ["", "m"]}}],
}


def _reply(*calls: tuple[str, Any]) -> dict[str, Any]:
    made = [
        {"function": {"name": name, "arguments": a if isinstance(a, str) else json.dumps(a)}}
        for name, a in calls
    ]
    return {"choices": [{"message": {"tool_calls": made}}]}


def test_types_of_python_become_those_of_json() -> None:
    schema = as_schema(ROW["function"][0]["parameters"])
    assert schema["type"] == "object"
    assert schema["properties"] == {
        "width": {"type": "number"},
        "height": {"type": "integer"},
        "unit": {"type": "string"},
    }


@pytest.mark.parametrize(
    ("calls", "outcome"),
    [
        ([("geo_area", {"width": 3, "height": 4})], Outcome(True, True, True, True)),
        ([("geo_area", {"width": 3, "height": 4, "unit": "M"})], Outcome(True, True, True, True)),
        ([("geo_area", {"width": 5, "height": 4})], Outcome(True, True, True, False)),
        ([("geo_area", {"width": 3, "height": "4"})], Outcome(True, False, True, True)),
        ([("other", {})], Outcome(True, False, False, False)),
        ([("geo_area", "{")], Outcome()),
        ([], Outcome()),
        (
            [("geo_area", {"width": 3, "height": 4})] * 2,
            Outcome(True, True, False, False),
        ),
    ],
)
def test_judged(calls: list[tuple[str, Any]], outcome: Outcome) -> None:
    assert judge(ROW, request_of(ROW, "m"), _reply(*calls)) == outcome


def test_an_argument_may_be_left_out_only_where_the_truth_says_so() -> None:
    assert is_right({}, {"a": ["", 1]})
    assert not is_right({}, {"a": [1]})
    assert not is_right({"b": 1}, {})
    assert is_right({"a": {"b": "X"}}, {"a": [{"b": ["x", "y"]}]})
