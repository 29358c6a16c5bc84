"""What clients send is answered: requests of our own, and those that true clients were recorded at.

Each is replayed with the model's name and a bound on its length, eight at a time.  None may come
to a 5xx; those that a well-behaved server takes come to a 200; and what is constrained is valid, by
jsonschema, in streams when joined.
"""

from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest

from benchmarks.served import Served

OWN = Path(__file__).parent / "clients" / "requests.jsonl"
TOKENS = 200
LEAST = 16  # about what the shortest object of the requests' schemas takes
REFUSED = {"/v1/embeddings": 404, "/x.json": 404}  # what no generating server has
BOUNDS = {
    "/v1/chat/completions": ("max_tokens", "max_completion_tokens"),
    "/v1/completions": ("max_tokens",),
    "/v1/responses": ("max_output_tokens",),
    "/v1/messages": ("max_tokens",),
}

Row = dict[str, Any]


def _rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _send(url: str, row: Row, model: str) -> tuple[int, bytes]:
    """The status, and the whole answer."""
    body = None if row["body"] is None else {**row["body"], "model": model}
    if body is not None and not set(body) & set(BOUNDS.get(row["path"], ())):
        body |= dict.fromkeys(BOUNDS.get(row["path"], ())[:1], TOKENS)
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=240)
    try:
        connection.request(
            row["method"],
            row["path"],
            body=None if body is None else json.dumps(body),
            headers={"Content-Type": "application/json", **row.get("headers", {})},
        )
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def _joined(events: bytes) -> Row:
    """The choice that a stream of chat chunks adds up to, in the form of one that is not streamed.
    The stream must end with [DONE]."""
    data = [line[6:] for line in events.decode().splitlines() if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    content, finish, calls = "", None, {}
    for chunk in map(json.loads, data[:-1]):
        assert "error" not in chunk, chunk
        for choice in chunk["choices"]:
            content += choice["delta"].get("content") or ""
            finish = choice.get("finish_reason") or finish
            for call in choice["delta"].get("tool_calls") or ():
                function = calls.setdefault(call["index"], {"name": "", "arguments": ""})
                for key in function:
                    function[key] += call["function"].get(key) or ""
    assert finish, "the stream says no finish_reason"
    tool_calls = [{"function": function} for function in calls.values()]
    return {"content": content, "tool_calls": tool_calls, "finish_reason": finish}


def _message(body: Row, reply: bytes) -> Row:
    if body.get("stream"):
        return _joined(reply)
    choice = json.loads(reply)["choices"][0]
    return {**choice["message"], "finish_reason": choice["finish_reason"]}


def _check_chat(body: Row, reply: bytes) -> None:
    message = _message(body, reply)
    calls = message.get("tool_calls") or []
    schemas = {t["function"]["name"]: t["function"]["parameters"] for t in body.get("tools") or ()}
    for call in calls:
        arguments = json.loads(call["function"]["arguments"])
        jsonschema.validate(arguments, schemas[call["function"]["name"]])
    choice = body.get("tool_choice")
    if schemas and choice not in (None, "auto", "none"):
        assert calls, message
        if isinstance(choice, dict):
            assert {call["function"]["name"] for call in calls} == {choice["function"]["name"]}
    elif choice == "none":
        assert not calls
    _check_format(body.get("response_format") or {}, message["content"], calls)


def _check_format(form: Row, content: str | None, calls: list[Row]) -> None:
    kind = form.get("type", "text")
    if kind == "text" or calls:
        return
    value = json.loads(content or "")
    if kind == "json_object":
        assert isinstance(value, dict)
    else:
        jsonschema.validate(value, form["json_schema"]["schema"])


def _check_responses(body: Row, reply: bytes) -> None:
    done = json.loads(reply)
    calls = [item for item in done["output"] if item["type"] == "function_call"]
    schemas = {tool["name"]: tool["parameters"] for tool in body.get("tools") or ()}
    for call in calls:
        jsonschema.validate(json.loads(call["arguments"]), schemas[call["name"]])
    choice = body.get("tool_choice")
    if schemas and choice not in (None, "auto", "none"):
        assert calls, done
    form = (body.get("text") or {}).get("format") or {}
    if form.get("type") == "json_schema" and not calls:
        [message] = [item for item in done["output"] if item["type"] == "message"]
        jsonschema.validate(json.loads(message["content"][0]["text"]), form["schema"])


def _check_messages(body: Row, reply: bytes) -> None:
    done = json.loads(reply)
    calls = [block for block in done["content"] if block["type"] == "tool_use"]
    schemas = {tool["name"]: tool["input_schema"] for tool in body.get("tools") or ()}
    for call in calls:
        jsonschema.validate(call["input"], schemas[call["name"]])
    if (body.get("tool_choice") or {}).get("type") in ("any", "tool"):
        assert calls
        assert done["stop_reason"] == "tool_use"
    form = (body.get("output_config") or {}).get("format")
    if form:
        jsonschema.validate(json.loads(done["content"][0]["text"]), form["schema"])


CHECKS = {
    "/v1/chat/completions": _check_chat,
    "/v1/responses": _check_responses,
    "/v1/messages": _check_messages,
}


def _problem(row: Row, status: int, reply: bytes) -> str:
    """What is wrong with an answer; empty where nothing is."""
    expected = row.get("status", REFUSED.get(row["path"], 200))
    bounds = BOUNDS.get(row["path"], ())
    given = [value for name, value in (row["body"] or {}).items() if name in bounds]
    short = b"the shortest output that the grammar allows" in reply
    if status == 400 and short and given and min(given) < LEAST:
        return ""  # who leaves less room than a valid answer takes is told how much that is
    if status != expected:
        return f"{status}, not {expected}: {reply[:300]!r}"
    check = CHECKS.get(row["path"])
    if status == 200 and check is not None:
        try:
            check(row["body"], reply)
        except Exception as error:
            return f"{type(error).__name__}: {str(error)[:300]} in {reply[:600]!r}"
    return ""


def _replay(served: Served, rows: list[Row]) -> list[str]:
    model = served.get("/v1/models")["data"][0]["id"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda row: _send(served.url, row, model), rows))
    found = [
        (row["case"], _problem(row, *answer)) for row, answer in zip(rows, answers, strict=True)
    ]
    return [f"{case}: {problem}" for case, problem in found if problem]


def test_requests_of_our_own(served: Served) -> None:
    assert _replay(served, _rows(OWN)) == []


@pytest.mark.slow
def test_requests_of_true_clients(served: Served, shared: Path) -> None:
    rows = _rows(shared / "clients" / "requests.jsonl")
    assert len(rows) == 75
    assert _replay(served, rows) == []
