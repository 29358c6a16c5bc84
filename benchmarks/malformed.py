"""Requests that no server should take, and that none should fall over."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.raw_http import CHAT, request

USER = [{"role": "user", "content": "hi"}]


def _chat(**fields: Any) -> bytes:
    return request(CHAT, {"messages": USER, "max_tokens": 4, **fields})


def _schema(schema: Any) -> bytes:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return _chat(response_format=form)


def _nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema, "maxItems": 1}
    return schema


def _tool(parameters: Any, **fields: Any) -> bytes:
    function = {"name": "f", "parameters": parameters}
    return _chat(tools=[{"type": "function", "function": function}], **fields)


MALFORMED: dict[str, bytes] = {
    "empty body": request(CHAT, b""),
    "not JSON": request(CHAT, b"{'messages': []}"),
    "half of an object": request(CHAT, b'{"messages": [{"role": "user"'),
    "two objects": request(CHAT, b"{}{}"),
    "a list": request(CHAT, []),
    "a number": request(CHAT, 1),
    "null": request(CHAT, b"null"),
    "not UTF-8": request(CHAT, b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}'),
    "a lone surrogate": request(CHAT, b'{"messages": [{"role": "user", "content": "\\ud800"}]}'),
    "NaN": request(CHAT, b'{"temperature": NaN, "messages": []}'),
    "a number beyond floats": _chat(temperature=10**400),
    "deep nesting": request(CHAT, b'{"messages": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    "a body past the limit": request(CHAT, b'{"a": "' + b"x" * (4 << 20) + b'"}'),
    "another content type": request(CHAT, b"a=b").replace(b"application/json", b"text/plain"),
    "no messages": request(CHAT, {}),
    "messages of a wrong type": request(CHAT, {"messages": "hi"}),
    "an unknown role": request(CHAT, {"messages": [{"role": "robot", "content": "hi"}]}),
    "content of a wrong type": request(CHAT, {"messages": [{"role": "user", "content": 5}]}),
    "an image": request(
        CHAT,
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}],
                }
            ]
        },
    ),
    "temperature below 0": _chat(temperature=-1),
    "max_tokens of 0": _chat(max_tokens=0),
    "n of 0": _chat(n=0),
    "n past the limit": _chat(n=17),
    "17 stop texts": _chat(stop=[str(i) for i in range(17)]),
    "21 top_logprobs": _chat(logprobs=True, top_logprobs=21),
    "a bias past the limit": _chat(logit_bias={"1": 101}),
    "a bias of no token": _chat(logit_bias={"x": 1}),
    "an unknown response format": _chat(response_format={"type": "yaml"}),
    "an unknown keyword": _schema({"type": "object", "isEven": True}),
    "a schema that nothing satisfies": _schema({"type": "integer", "minimum": 2, "maximum": 1}),
    "a reference to nowhere": _schema({"$ref": "#/$defs/none"}),
    "a reference to elsewhere": _schema({"$ref": "http://127.0.0.1:1/x.json"}),
    "a reference to itself": _schema({"$ref": "#"}),
    "a deep schema": _schema(_nested(70)),
    "a long enum": _schema({"enum": list(range(5000))}),
    "a long pattern": _schema({"type": "string", "pattern": "a" * 2000}),
    "a pattern of another dialect": _schema({"type": "string", "pattern": "(?<=a)b(?R)"}),
    "a broken regex": _chat(structured_outputs={"regex": "("}),
    "a tool choice of no tool": _tool(
        {"type": "object"}, tool_choice={"type": "function", "function": {"name": "g"}}
    ),
    "a tool without an object": _tool({"type": "string"}, tool_choice="required"),
    "a prompt past the context": request(
        CHAT, {"messages": [{"role": "user", "content": "word " * 20_000}]}
    ),
    "an unknown model": _chat(model="gpt-0"),
    "messages of Anthropic without a bound": request("/v1/messages", {"messages": USER}),
    "responses without an input": request("/v1/responses", {}),
    "a stored conversation": request(
        "/v1/responses", {"input": "hi", "previous_response_id": "resp_1"}
    ),
    "a program of nothing": request("/v1/programs", {"program": 5}),
    "tokens of no vocabulary": request("/detokenize", {"tokens": [10**9]}),
    "an unknown path": request("/v1/chat/complete", {}),
    "a wrong method": request(CHAT, None, method="PUT"),
    "a path out of the tree": request("/static/../../etc/passwd"),
}
"""By name; each is to be refused with a 4xx whose body is an error in JSON."""

BROKEN: dict[str, bytes] = {
    "no HTTP": b"hello\r\n\r\n",
    "a header past the limit": request("/health", extra="X-Long: " + "x" * (40 << 10) + "\r\n"),
    "two lengths": request("/health", extra="Content-Length: 1\r\nContent-Length: 2\r\n"),
    "a negative length": request("/health", extra="Content-Length: -1\r\n"),
    "a length and chunks": request(CHAT, b"{}\r\n", extra="Transfer-Encoding: chunked\r\n"),
    "a chunk of no size": (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    ).encode(),
    "a NUL in a header": request("/health", extra="X-A: a\0b\r\n"),
}
"""What is not even HTTP; to be refused with a 4xx, or by closing the connection."""


def is_error(body: bytes) -> bool:
    """Is it an error in OpenAI's form or in Anthropic's?"""
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(error, dict) and bool(error.get("message")) and bool(error.get("type"))
