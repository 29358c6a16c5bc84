"""POST /v1/responses: what of a request reaches a model, and what a client gets for its events."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sgen.errors import EngineClosedError, GrammarError, InvalidRequestError
from sgen.protocol import (
    GrammarSpec,
    RoleEnd,
    RoleStart,
    Text,
    TokenLogprob,
    ToolCall,
    ToolDefinition,
)
from sgen.server import responses
from sgen.server.events import ContentDelta, Finished, ToolCallDelta, ToolCallStart, ToolChoice
from tests.scripted import CALLS, CUT, HELLO, STOPPED, USAGE, Scripted, events_of

PATH = "/v1/responses"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "name": "weather", "parameters": SCHEMA}
NEWS = {"type": "function", "name": "news", "description": "What is new", "parameters": {}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return Scripted(responses, monkeypatch)


def test_a_text_is_a_message_and_the_parameters_are_echoed(server: Scripted) -> None:
    asked = {"input": "hi", "instructions": "be", "metadata": {"a": "b"}, "temperature": 0.5}
    response, script = server.post(PATH, asked | {"max_output_tokens": 9, "seed": 3})
    body = response.json()
    (message,) = body["output"]
    assert (body["status"], body["object"]) == ("completed", "response")
    assert message["content"][0] == {
        "type": "output_text",
        "text": "Hello",
        "annotations": [],
        "logprobs": [],
    }
    assert body["usage"]["input_tokens_details"]["cached_tokens"] == 4
    assert (body["usage"]["input_tokens"], body["usage"]["total_tokens"]) == (12, 17)
    assert (body["instructions"], body["metadata"]) == ("be", {"a": "b"})
    assert (body["temperature"], body["text"]) == (0.5, {"format": {"type": "text"}})
    (job,) = script.jobs
    assert job.prompt == (
        RoleStart("system"),
        Text("be"),
        RoleEnd(),
        RoleStart("user"),
        Text("hi"),
        RoleEnd(),
        RoleStart("assistant"),
    )
    assert (job.params.temperature, job.params.max_tokens, job.params.seed) == (0.5, 9, 3)
    assert (job.params.top_p, job.params.logprobs) == (1.0, None)


def test_items_of_an_earlier_turn_become_messages(server: Scripted) -> None:
    items = [
        {"role": "developer", "content": "short"},
        {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": None},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "A"}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"P"}'},
        {"type": "function_call", "call_id": "c2", "name": "news", "arguments": ""},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
        {
            "type": "function_call_output",
            "call_id": "c2",
            "output": [{"type": "input_text", "text": "none"}],
        },
    ]
    _, script = server.post(PATH, {"input": items, "instructions": "be", "tools": [WEATHER, NEWS]})
    shown = msgspec.json.encode(SCHEMA).decode()
    assert script.jobs[0].prompt == (
        ToolDefinition("weather", "", shown),
        ToolDefinition("news", "What is new", "{}"),
        RoleStart("system"),
        Text("be\n\nshort"),
        RoleEnd(),
        RoleStart("user"),
        Text("Weather?"),
        RoleEnd(),
        RoleStart("assistant"),
        Text("A"),
        ToolCall("weather", '{"city":"P"}', "c1"),
        ToolCall("news", "{}", "c2"),
        RoleEnd(),
        RoleStart("tool", "c1"),
        Text("sunny"),
        RoleEnd(),
        RoleStart("tool", "c2"),
        Text("none"),
        RoleEnd(),
        RoleStart("assistant"),
    )


@pytest.mark.parametrize(
    ("given", "choice", "names"),
    [
        ({}, ToolChoice(), ["weather", "news"]),
        ({"tool_choice": "none"}, ToolChoice("none"), ["weather", "news"]),
        (
            {"tool_choice": "required", "parallel_tool_calls": False},
            ToolChoice("required", parallel=False),
            ["weather", "news"],
        ),
        (
            {"tool_choice": {"type": "function", "name": "news"}},
            ToolChoice("required", "news"),
            ["weather", "news"],
        ),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "required",
                    "tools": [{"type": "function", "name": "news"}],
                }
            },
            ToolChoice("required"),
            ["news"],
        ),
    ],
)
def test_tool_choices(
    server: Scripted, given: dict[str, Any], choice: ToolChoice, names: list[str]
) -> None:
    response, script = server.post(PATH, {"input": "x", "tools": [WEATHER, NEWS]} | given)
    assert response.status_code == 200
    assert script.jobs[0].tool_choice == choice
    assert [tool.name for tool in script.jobs[0].tools] == names
    assert response.json()["tool_choice"] == given.get("tool_choice", "auto")


def test_a_required_tool_is_not_asked_for_where_there_are_none(server: Scripted) -> None:
    _, script = server.post(PATH, {"input": "x", "tool_choice": "required"})
    assert script.jobs[0].tool_choice.mode == "none"


@pytest.mark.parametrize(
    ("form", "grammar"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, GrammarSpec("json_schema", '{"type":"object"}', "any")),
        (
            {"type": "json_schema", "name": "a", "schema": {"type": "integer"}},
            GrammarSpec("json_schema", '{"type":"integer"}'),
        ),
    ],
)
def test_text_formats(server: Scripted, form: dict[str, Any], grammar: GrammarSpec | None) -> None:
    response, script = server.post(PATH, {"input": "x", "text": {"format": form}})
    assert script.jobs[0].grammar == grammar
    assert response.json()["text"]["format"] == form


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"tools": [WEATHER, {"type": "web_search"}]}, "tools[1].type"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "w"}}, "tool_choice"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"temperature": -1}, "temperature"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"input": []}, "input"),
        (
            {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "[1"}]},
            "input[0].arguments",
        ),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0].type",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    server: Scripted, given: dict[str, Any], param: str
) -> None:
    response, script = server.post(PATH, {"input": "x"} | given)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert script.jobs == []


def test_calls_and_reasoning_are_items(server: Scripted) -> None:
    response, _ = server.post(PATH, {"input": "x", "tools": [WEATHER]}, *CALLS)
    reasoning, message, first, second = response.json()["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "I look."}]
    assert message["content"][0]["text"] == "Wait."
    assert (first["type"], first["call_id"], first["name"]) == (
        "function_call",
        "call_a1",
        "weather",
    )
    assert [first["arguments"], second["arguments"]] == ['{"city": "Paris"}', '{"city": "Rome"}']
    ids = {item["id"] for item in response.json()["output"]}
    assert len(ids) == 4
    assert first["id"].startswith("fc_")


def test_a_cut_response_is_incomplete(server: Scripted) -> None:
    said = (ToolCallStart(0, 0, "call_a", "weather"), ToolCallDelta(0, 0, '{"ci'), CUT)
    response, _ = server.post(PATH, {"input": "x", "tools": [WEATHER]}, *said)
    body = response.json()
    assert body["status"] == body["output"][0]["status"] == "incomplete"
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert body["completed_at"] is None


def test_a_model_that_says_nothing_still_gives_a_message(server: Scripted) -> None:
    response, _ = server.post(PATH, {"input": "x"}, STOPPED)
    assert response.json()["output"][0]["content"][0]["text"] == ""


def test_logprobs_come_where_they_are_asked_for(server: Scripted) -> None:
    said = ContentDelta(0, "é", (TokenLogprob(7, "é", -0.5),))
    asked = {"input": "x", "include": ["message.output_text.logprobs"]}
    response, script = server.post(PATH, asked, said, STOPPED)
    (logprob,) = response.json()["output"][0]["content"][0]["logprobs"]
    assert logprob == {"token": "é", "bytes": [195, 169], "logprob": -0.5, "top_logprobs": []}
    assert script.jobs[0].params.logprobs == 0


def test_a_stream_says_each_step_in_order(server: Scripted) -> None:
    response, _ = server.post(PATH, {"input": "x", "stream": True}, *HELLO)
    events = events_of(response.text)
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(10))
    assert events[0]["response"]["output"] == []
    assert events[2]["item"]["content"] == []
    assert events[-1]["response"]["usage"]["output_tokens"] == USAGE.completion_tokens


def test_a_stream_adds_up_to_what_comes_in_one_piece(server: Scripted) -> None:
    asked = {"input": "x", "tools": [WEATHER]}
    whole = server.post(PATH, asked, *CALLS)[0].json()
    events = events_of(server.post(PATH, asked | {"stream": True}, *CALLS)[0].text)
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == events[-1]["response"]["output"]
    assert [strip_id(item) for item in done] == [strip_id(item) for item in whole["output"]]
    joined: dict[int, str] = {}
    for event in events:
        if event["type"].endswith(".delta"):
            place = event["output_index"]
            joined[place] = joined.get(place, "") + event["delta"]
            assert event["item_id"] == done[place]["id"]
    assert joined == {0: "I look.", 1: "Wait.", 2: '{"city": "Paris"}', 3: '{"city": "Rome"}'}


def strip_id(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name != "id"}


def test_a_stream_that_is_cut_ends_as_incomplete(server: Scripted) -> None:
    said = (ContentDelta(0, "a"), Finished(0, "length", None, USAGE))
    events = events_of(server.post(PATH, {"input": "x", "stream": True}, *said)[0].text)
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["incomplete_details"]["reason"] == "max_output_tokens"


def test_a_stream_that_fails_says_so_twice(server: Scripted) -> None:
    said = (ContentDelta(0, "a"), EngineClosedError("the engine died"))
    events = events_of(server.post(PATH, {"input": "x", "stream": True}, *said)[0].text)
    failed, error = events[-2:]
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"]["message"] == "the engine died"
    (item,) = failed["response"]["output"]
    assert (item["status"], item["content"][0]["text"]) == ("incomplete", "a")
    assert (error["type"], error["message"]) == ("error", "the engine died")
    assert error["error"]["code"] == error["code"] == "engine_unavailable"


def test_what_the_engine_refuses_is_a_plain_error_even_of_a_stream(server: Scripted) -> None:
    refused = InvalidRequestError("too long", param="max_tokens")
    response, _ = server.post(PATH, {"input": "x", "stream": True}, refused)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "too long"
    assert response.json()["error"]["param"] == "max_output_tokens"


def test_a_grammar_that_is_refused_names_the_place(server: Scripted) -> None:
    refused = GrammarError("no", keyword="if", pointer="/properties/x/if")
    form = {"type": "json_schema", "schema": {}}
    response, _ = server.post(PATH, {"input": "x", "text": {"format": form}}, refused)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "invalid_grammar")
    assert error["param"] == "text.format.schema/properties/x/if"
