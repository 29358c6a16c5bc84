"""The description of the interface agrees with what is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import msgspec
import pytest
from live_server import ServerFake
from starlette.routing import Route
from starlette.testclient import TestClient

from sgen.server.app import create_app
from sgen.server.openapi import BODIES
from sgen.server.openapi_answers import ANSWERS
from sgen.server.settings import Settings

APP = create_app(ServerFake(default="hi"), Settings())


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    described: dict[str, Any] = TestClient(APP).get("/openapi.json").json()
    return described


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_every_route_is_described_once(document: dict[str, Any]) -> None:
    described = {
        (path, method.upper()) for path, one in document["paths"].items() for method in one
    }
    routes = [route for route in APP.routes if isinstance(route, Route)]
    there = {(r.path_format, m) for r in routes for m in (r.methods or set()) - {"HEAD"}}
    assert described == there
    ids = [o["operationId"] for one in document["paths"].values() for o in one.values()]
    assert len(ids) == len(set(ids))


def test_every_reference_is_to_something(document: dict[str, Any]) -> None:
    found = set(references(document["paths"]))
    assert len(found) > 5
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


def test_every_post_that_reads_a_body_has_its_schema(document: dict[str, Any]) -> None:
    unread = {"/ping", "/v1/embeddings"}
    for path, one in document["paths"].items():
        if "post" in one and path not in unread:
            assert "requestBody" in one["post"], path
    assert set(BODIES) <= set(document["paths"])


@pytest.mark.parametrize("path", BODIES)
def test_examples_are_accepted_and_answers_are_as_described(
    path: str, document: dict[str, Any]
) -> None:
    kind, example = BODIES[path]
    msgspec.json.decode(json.dumps(example), type=kind)
    answer = TestClient(APP).post(path, json=example)
    assert answer.status_code == 200, answer.text
    check(answer.json(), document, path, "200")


@pytest.mark.parametrize("path", [p for p in ANSWERS if p not in BODIES])
def test_what_is_read_is_as_described(path: str, document: dict[str, Any]) -> None:
    answer = TestClient(APP).get(path.replace("{name}", "fake"))
    check(answer.json(), document, path, "200")


@pytest.mark.parametrize("path", [p for p in BODIES if p != "/abort_request"])
def test_errors_are_as_described(path: str, document: dict[str, Any]) -> None:
    answer = TestClient(APP).post(path, json=[])
    assert answer.status_code == 400
    check(answer.json(), document, path, "default")


def check(answer: Any, document: dict[str, Any], path: str, status: str) -> None:
    """An answer against the schema that its operation gives."""
    method = "post" if path in BODIES else "get"
    described = document["paths"][path][method]["responses"][status]
    schema = described["content"]["application/json"].get("schema", {})
    assert schema or path == "/abort_request"
    jsonschema.validate(answer, {**schema, "components": document["components"]})
