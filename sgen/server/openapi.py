"""GET /openapi.json: OpenAPI 3.1 of all endpoints, made from the routes and the types they decode.

What a route says of itself is its endpoint's docstring.  A body that has no type here is one that
its endpoint does not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

import sgen
from sgen.server.health import AbortRequest
from sgen.server.http import json_response
from sgen.server.openapi_answers import ANSWERS
from sgen.server.text import DetokenizeRequest, TemplateRequest, TokenizeRequest
from sgen.server.wire_chat import ChatRequest
from sgen.server.wire_completions import CompletionRequest
from sgen.server.wire_messages import CountRequest, ErrorMessage, MessagesRequest
from sgen.server.wire_programs import GrammarBody, ProgramBody
from sgen.server.wire_responses import ResponseRequest

_HELLO = [{"role": "user", "content": "Say hello."}]
_PROGRAM = {
    "name": "greet",
    "params": ["name"],
    "nodes": [
        {"type": "role_start", "branch": 0, "role": "user"},
        {"type": "text", "branch": 0, "pieces": [{"type": "arg", "name": "name"}]},
        {"type": "role_end", "branch": 0},
        {"type": "role_start", "branch": 0, "role": "assistant"},
        {"type": "gen", "branch": 0, "var": 0, "name": "hello", "params": {"max_tokens": 16}},
    ],
    "result": {"type": "value_of", "var": 0},
}

BODIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "/v1/chat/completions": (ChatRequest, {"messages": _HELLO, "max_tokens": 16}),
    "/v1/completions": (CompletionRequest, {"prompt": "Once upon a time", "max_tokens": 16}),
    "/v1/responses": (ResponseRequest, {"input": "Say hello.", "max_output_tokens": 16}),
    "/v1/messages": (MessagesRequest, {"messages": _HELLO, "max_tokens": 16}),
    "/v1/messages/count_tokens": (CountRequest, {"messages": _HELLO}),
    "/v1/programs": (ProgramBody, {"program": _PROGRAM, "args": {"name": "Ada"}, "stream": False}),
    "/v1/grammars/check": (GrammarBody, {"kind": "regex", "source": "[0-9]{3}"}),
    "/tokenize": (TokenizeRequest, {"prompt": "hello world"}),
    "/detokenize": (DetokenizeRequest, {"tokens": [1, 2, 3]}),
    "/apply-template": (TemplateRequest, {"messages": _HELLO}),
    "/abort_request": (AbortRequest, {"abort_all": True}),
}
"""By path: what the body is decoded as, and one that is accepted."""

_REFERENCE = "#/components/schemas/{name}"
_STREAMS = ("/completions", "/responses", "/messages", "/programs")
_TYPES = {"/": "text/html", "/metrics": "text/plain"}


class ErrorDetail(msgspec.Struct):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(msgspec.Struct):
    error: ErrorDetail


async def openapi(request: Request) -> Response:
    """This description."""
    return json_response(describe(request.app.routes))


def describe(routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """The OpenAPI document of the routes."""
    kinds = [kind for kind, _ in BODIES.values()]
    schemas, components = msgspec.json.schema_components(
        [*kinds, *ANSWERS.values(), ErrorAnswer, ErrorMessage], ref_template=_REFERENCE
    )
    made = _Schemas(
        dict(zip(BODIES, schemas, strict=False)),
        dict(zip(ANSWERS, schemas[len(BODIES) :], strict=False)),
        *schemas[-2:],
    )
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if isinstance(route, Route):
            for method in sorted((route.methods or set()) - {"HEAD"}):
                operation = _operation(route, method, made)
                paths.setdefault(route.path_format, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "sgen",
            "version": sgen.__version__,
            "description": "Structured generation over HTTP.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


class _Schemas(NamedTuple):
    """By path; and those of errors, Anthropic's paths having one of their own."""

    bodies: dict[str, dict[str, Any]]
    answers: dict[str, dict[str, Any]]
    error: dict[str, Any]
    messages_error: dict[str, Any]


def _operation(route: Route, method: str, made: _Schemas) -> dict[str, Any]:
    text = " ".join((route.endpoint.__doc__ or "").split())
    name = route.path_format.strip("/").replace("/", "_").replace("{", "").replace("}", "")
    path = f"/v1{route.path}" if f"/v1{route.path}" in BODIES else route.path_format
    error = made.messages_error if path.startswith("/v1/messages") else made.error
    operation: dict[str, Any] = {
        "operationId": f"{method.lower()}_{name or 'page'}",
        "summary": text.partition(". ")[0] or route.path_format,
        "responses": {
            "200": {"description": "Done.", **_content(path, made.answers)},
            "default": {
                "description": "What is wrong.",
                "content": {"application/json": {"schema": error}},
            },
        },
    }
    if route.param_convertors:
        operation["parameters"] = [
            {"name": one, "in": "path", "required": True, "schema": {"type": "string"}}
            for one in route.param_convertors
        ]
    if method == "POST" and path in BODIES:
        media = {"schema": made.bodies[path], "example": BODIES[path][1]}
        operation["requestBody"] = {"required": True, "content": {"application/json": media}}
    return operation


def _content(path: str, answers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    kinds: dict[str, Any] = {_TYPES.get(path, "application/json"): {}}
    if path == "/ping":
        return {}  # an answer without a body
    if path.startswith("/static/"):
        kinds = {"text/css": {}, "text/javascript": {}, "text/html": {}}
    elif path in answers:
        kinds = {"application/json": {"schema": answers[path]}}
        if path.endswith(_STREAMS):
            kinds["text/event-stream"] = {}
    return {"content": kinds}


routes = [Route("/openapi.json", openapi)]
