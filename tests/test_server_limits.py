"""What one request may ask for: each limit, at it and one past it, at every endpoint that takes it.

Those of connections stand in test_server_connections.py, those of programs in
test_programs_api.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from chat_backend import Fake
from starlette.testclient import TestClient

from sgen.server.app import create_app
from sgen.server.settings import Limits, Settings

Body = dict[str, Any]
Make = Callable[[int], Body]

USER = [{"role": "user", "content": "x"}]
CHAT, COMPLETIONS, RESPONSES, MESSAGES, COUNT = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
)
ASKED: dict[str, Body] = {
    CHAT: {"messages": USER},
    COMPLETIONS: {"prompt": "x"},
    RESPONSES: {"input": "x"},
    MESSAGES: {"messages": USER, "max_tokens": 200},
    COUNT: {"messages": USER},
}


def of_bytes(size: int) -> Body:
    empty = {"type": "object", "description": ""}
    return empty | {"description": "x" * (size - len(msgspec.json.encode(empty)))}


def of_depth(depth: int) -> Body:
    inner: Body = {"type": "boolean"}
    for _ in range(depth - 3):
        inner = {"type": "array", "items": inner, "maxItems": 1}
    return {"type": "object", "properties": {"a": inner}}


def of_entries(count: int) -> Body:
    return {"type": "object", "properties": {"a": {"enum": list(range(count))}}}


def of_pattern(size: int) -> Body:
    return {"type": "object", "properties": {"a": {"type": "string", "pattern": "é" * (size // 2)
            + "a" * (size % 2)}}}  # fmt: skip


SCHEMAS: list[tuple[str, int, Make]] = [
    ("schema_bytes", 100, of_bytes),
    ("schema_depth", 7, of_depth),
    ("enum_entries", 3, of_entries),
    ("pattern_bytes", 5, of_pattern),
]


def function(schema: Body, name: str = "f") -> Body:
    return {"type": "function", "function": {"name": name, "parameters": schema}}


def flat_function(schema: Body, name: str = "f") -> Body:
    return {"type": "function", "name": name, "parameters": schema}


def custom(schema: Body, name: str = "f") -> Body:
    return {"name": name, "input_schema": schema}


def json_schema(schema: Body) -> Body:
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}


CHAT_FIELDS: list[Callable[[Body], Body]] = [
    json_schema,
    lambda s: {"response_format": {"type": "json_object", "schema": s}},
    lambda s: {"structured_outputs": {"json": s}},
    lambda s: {"guided_json": s},
    lambda s: {"json_schema": s},
]
FIELDS: dict[str, list[Callable[[Body], Body]]] = {
    CHAT: [*CHAT_FIELDS, lambda s: {"tools": [function(s)]}],
    COMPLETIONS: CHAT_FIELDS,
    RESPONSES: [
        lambda s: {"text": {"format": {"type": "json_schema", "schema": s}}},
        lambda s: {"tools": [flat_function(s)]},
    ],
    MESSAGES: [
        lambda s: {"output_format": {"type": "json_schema", "schema": s}},
        lambda s: {"output_config": {"format": {"type": "json_schema", "schema": s}}},
        lambda s: {"tools": [custom(s)]},
    ],
    COUNT: [lambda s: {"tools": [custom(s)]}],
}
"""Where schemas stand in the bodies."""


def check(path: str, limits: dict[str, int], fits: Body, exceeds: Body, text: str) -> None:
    backend = Fake(default="hello")
    with TestClient(create_app(backend, Settings(limits=Limits(**limits)))) as client:
        answers = []
        for body in (fits, exceeds):
            answers.append(client.post(path, content=msgspec.json.encode(ASKED[path] | body)))
            if body is fits:
                asked = len(backend.requests)
    assert answers[0].status_code == 200, answers[0].text
    assert answers[1].status_code == 400, answers[1].text
    assert text in answers[1].json()["error"]["message"]
    assert len(backend.requests) == asked


@pytest.mark.parametrize(("limit", "most", "make"), SCHEMAS, ids=[row[0] for row in SCHEMAS])
@pytest.mark.parametrize("path", FIELDS)
def test_schemas(path: str, limit: str, most: int, make: Make) -> None:
    for field in FIELDS[path]:
        check(path, {limit: most}, field(make(most)), field(make(most + 1)), str(most))


def shared(tool: Callable[[Body, str], Body]) -> Make:
    """Two tools, whose schemas have so many bytes together."""
    return lambda size: {"tools": [tool(of_bytes(50), "f"), tool(of_bytes(size - 50), "g")]}


def several(tool: Callable[[Body, str], Body]) -> Make:
    return lambda count: {"tools": [tool({}, f"f{i}") for i in range(count)]}


def filled(field: str, item: Any) -> Make:
    return lambda count: {field: [item] * count}


def guided(field: str) -> Make:
    return lambda size: {field: "a" * size}


COUNTS: list[tuple[str, str, int, Make]] = [
    (CHAT, "tools", 2, several(function)),
    (RESPONSES, "tools", 2, several(flat_function)),
    (MESSAGES, "tools", 2, several(custom)),
    (COUNT, "tools", 2, several(custom)),
    (CHAT, "tools_bytes", 100, shared(function)),
    (RESPONSES, "tools_bytes", 100, shared(flat_function)),
    (MESSAGES, "tools_bytes", 100, shared(custom)),
    (COUNT, "tools_bytes", 100, shared(custom)),
    (MESSAGES, "stop_texts", 2, filled("stop_sequences", "x")),
    (RESPONSES, "top_logprobs", 3, lambda count: {"top_logprobs": count}),
    (CHAT, "top_logprobs", 3, lambda count: {"logprobs": True, "top_logprobs": count}),
    (COMPLETIONS, "top_logprobs", 3, lambda count: {"logprobs": count}),
    (COMPLETIONS, "running", 3, filled("prompt", "x")),
    *[
        (path, limit, most, make)
        for path in (CHAT, COMPLETIONS)
        for limit, most, make in [
            ("choices", 2, lambda count: {"n": count}),
            ("stop_texts", 2, filled("stop", "x")),
            ("logit_bias", 2, lambda count: {"logit_bias": {str(i): 1 for i in range(count)}}),
            ("pattern_bytes", 3, guided("guided_regex")),
            ("pattern_bytes", 3, guided("regex")),
            ("pattern_bytes", 3, lambda size: {"structured_outputs": {"regex": "a" * size}}),
            ("enum_entries", 2, lambda n: {"guided_choice": [f"c{i}" for i in range(n)]}),
            (
                "enum_entries",
                2,
                lambda n: {"structured_outputs": {"choice": [f"c{i}" for i in range(n)]}},
            ),
            ("schema_bytes", 30, lambda n: {"guided_grammar": 'root ::= "a"'.ljust(n)}),
            ("schema_bytes", 30, lambda n: {"ebnf": 'root ::= "a"'.ljust(n)}),
            ("schema_bytes", 30, lambda n: {"grammar": 'start: "a"'.ljust(n)}),
            (
                "schema_bytes",
                30,
                lambda n: {"structured_outputs": {"grammar": 'start: "a"'.ljust(n)}},
            ),
        ]
    ],
]


@pytest.mark.parametrize(
    ("path", "limit", "most", "make"), COUNTS, ids=[f"{p}-{name}" for p, name, _, _ in COUNTS]
)
def test_counts(path: str, limit: str, most: int, make: Make) -> None:
    check(path, {limit: most}, make(most), make(most + 1), str(most))


@pytest.mark.parametrize("path", ASKED)
def test_nesting_of_bodies(path: str) -> None:
    def nested(depth: int) -> Body:
        value: Any = []
        for _ in range(depth - 2):
            value = [value]
        return {"unheard_of": value}

    check(path, {"json_depth": 9}, nested(9), nested(10), "deeper than 9")
