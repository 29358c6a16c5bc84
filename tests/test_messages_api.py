"""POST /v1/messages and its count_tokens: Anthropic's interface, in and out."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from sgen.errors import EngineClosedError
from sgen.protocol import (
    GrammarSpec,
    RoleEnd,
    RoleStart,
    Text,
    ToolCall,
    ToolDefinition,
)
from sgen.server import messages
from sgen.server.events import ContentDelta, Finished, ToolCallDelta, ToolCallStart, ToolChoice
from tests.scripted import CALLS, CUT, HELLO, STOPPED, USAGE, Scripted, events_of

PATH = "/v1/messages"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"name": "weather", "description": "It rains", "input_schema": SCHEMA}
ASKED: dict[str, Any] = {"max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return Scripted(messages, monkeypatch)


def said_by(message: dict[str, Any]) -> dict[str, Any]:
    return {"max_tokens": 10, "messages": [message]}


def test_a_text_is_a_message_with_its_usage(server: Scripted) -> None:
    given = {"system": "be", "temperature": 0.5, "top_k": 3, "stop_sequences": ["END"]}
    response, script = server.post(PATH, ASKED | given)
    body = response.json()
    assert body["content"] == [{"type": "text", "text": "Hello", "citations": None}]
    assert (body["type"], body["role"], body["model"]) == ("message", "assistant", "model")
    assert (body["stop_reason"], body["stop_sequence"]) == ("end_turn", None)
    assert body["usage"] == {
        "input_tokens": 8,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
        "output_tokens": 5,
    }
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
    params = job.params
    assert (params.max_tokens, params.temperature, params.top_k) == (10, 0.5, 3)
    assert params.stop == ("END",)


def test_blocks_of_an_earlier_turn_become_messages(server: Scripted) -> None:
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "text", "text": "C"},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "P"}},
                {"type": "tool_use", "id": "t2", "name": "weather", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "sunny"},
                {
                    "type": "tool_result",
                    "tool_use_id": "t2",
                    "content": [{"type": "text", "text": "no city"}],
                    "is_error": True,
                },
                {"type": "text", "text": "D"},
            ],
        },
    ]
    system = [{"type": "text", "text": "be", "cache_control": {"type": "ephemeral"}}]
    given = {"max_tokens": 1, "system": system, "messages": turns, "tools": [WEATHER]}
    _, script = server.post(PATH, given)
    assert script.jobs[0].prompt == (
        ToolDefinition("weather", "It rains", msgspec.json.encode(SCHEMA).decode()),
        RoleStart("system"),
        Text("be"),
        RoleEnd(),
        RoleStart("user"),
        Text("A\n\nB"),
        RoleEnd(),
        RoleStart("assistant"),
        Text("C"),
        ToolCall("weather", '{"city":"P"}', "t1"),
        ToolCall("weather", "{}", "t2"),
        RoleEnd(),
        RoleStart("tool", "t1"),
        Text("sunny"),
        RoleEnd(),
        RoleStart("tool", "t2"),
        Text("Error: no city"),
        RoleEnd(),
        RoleStart("user"),
        Text("D"),
        RoleEnd(),
        RoleStart("assistant"),
    )


def test_a_last_message_of_the_assistant_is_continued(server: Scripted) -> None:
    turns = [*ASKED["messages"], {"role": "assistant", "content": "The answer is ("}]
    _, script = server.post(PATH, {"max_tokens": 1, "messages": turns})
    assert script.jobs[0].prompt[-2:] == (RoleStart("assistant"), Text("The answer is ("))


def test_a_last_message_of_the_assistant_without_content_begins_the_answer(
    server: Scripted,
) -> None:
    turns = [*ASKED["messages"], {"role": "assistant", "content": []}]
    _, script = server.post(PATH, {"max_tokens": 1, "messages": turns})
    assert script.jobs[0].prompt[-2:] == (RoleEnd(), RoleStart("assistant"))


@pytest.mark.parametrize(
    ("given", "choice"),
    [
        (None, ToolChoice("auto")),
        ({"type": "auto"}, ToolChoice("auto")),
        ({"type": "none"}, ToolChoice("none")),
        (
            {"type": "any", "disable_parallel_tool_use": True},
            ToolChoice("required", parallel=False),
        ),
        ({"type": "tool", "name": "weather"}, ToolChoice("required", "weather")),
    ],
)
def test_tool_choices(server: Scripted, given: dict[str, Any] | None, choice: ToolChoice) -> None:
    _, script = server.post(PATH, ASKED | {"tools": [WEATHER], "tool_choice": given})
    assert script.jobs[0].tool_choice == choice


@pytest.mark.parametrize(
    "given",
    [
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        {"output_format": {"type": "json_schema", "schema": SCHEMA}},
    ],
)
def test_an_output_format_is_a_grammar(server: Scripted, given: dict[str, Any]) -> None:
    _, script = server.post(PATH, ASKED | given)
    shown = msgspec.json.encode(SCHEMA).decode()
    assert script.jobs[0].grammar == GrammarSpec("json_schema", shown)


IMAGE = {"type": "image", "source": {"type": "url", "url": "http://x/"}}


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages.0.content.0.type"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "tool_result", "tool_use_id": "a", "content": [IMAGE]}
                        ],
                    }
                ]
            },
            "messages.0.content.0.content.0.type",
        ),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools.0.type"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "w"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice"),
        ({"output_format": {"type": "xml"}}, "output_format"),
        ({"model": "other"}, "model"),
    ],
)
def test_errors_have_their_own_form_and_name_the_place(
    server: Scripted, given: dict[str, Any], place: str
) -> None:
    response, script = server.post(PATH, ASKED | given)
    body = response.json()
    kind = "not_found_error" if place == "model" else "invalid_request_error"
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert body["error"]["message"].startswith(f"{place}: ")
    assert body["request_id"] == response.headers["x-request-id"]
    assert script.jobs == []


def test_max_tokens_is_required(server: Scripted) -> None:
    response, _ = server.post(PATH, {"messages": ASKED["messages"]})
    assert response.status_code == 400
    assert "max_tokens" in response.json()["error"]["message"]


def test_thinking_and_calls_are_blocks(server: Scripted) -> None:
    response, _ = server.post(PATH, ASKED | {"tools": [WEATHER]}, *CALLS)
    body = response.json()
    assert body["stop_reason"] == "tool_use"
    assert body["content"] == [
        {"type": "thinking", "thinking": "I look.", "signature": ""},
        {"type": "text", "text": "Wait.", "citations": None},
        {"type": "tool_use", "id": "toolu_a1", "name": "weather", "input": {"city": "Paris"}},
        {"type": "tool_use", "id": "toolu_b2", "name": "weather", "input": {"city": "Rome"}},
    ]


@pytest.mark.parametrize(
    ("finished", "reason"),
    [
        (CUT, ("max_tokens", None)),
        (STOPPED, ("end_turn", None)),
        (Finished(0, "stop", "END", USAGE), ("stop_sequence", "END")),
    ],
)
def test_stop_reasons(server: Scripted, finished: Finished, reason: tuple[str, str | None]) -> None:
    body = server.post(PATH, ASKED, ContentDelta(0, "a"), finished)[0].json()
    assert (body["stop_reason"], body["stop_sequence"]) == reason


def test_a_call_that_was_cut_is_no_part_of_the_message(server: Scripted) -> None:
    said = (ToolCallStart(0, 0, "call_a", "weather"), ToolCallDelta(0, 0, '{"ci'), CUT)
    body = server.post(PATH, ASKED | {"tools": [WEATHER]}, *said)[0].json()
    assert (body["content"], body["stop_reason"]) == ([], "max_tokens")


def test_a_stream_says_each_step_in_order(server: Scripted) -> None:
    events = events_of(server.post(PATH, ASKED | {"stream": True}, *HELLO)[0].text)
    assert [event["type"] for event in events] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["usage"]["input_tokens"] == 4  # parts of the prompt
    assert events[0]["message"]["content"] == []
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert events[-2]["usage"]["cache_read_input_tokens"] == 4


def test_a_stream_adds_up_to_what_comes_in_one_piece(server: Scripted) -> None:
    asked = ASKED | {"tools": [WEATHER]}
    whole = server.post(PATH, asked, *CALLS)[0].json()
    blocks: list[Any] = []
    for event in events_of(server.post(PATH, asked | {"stream": True}, *CALLS)[0].text):
        match event:
            case {"type": "content_block_start", "index": index, "content_block": block}:
                assert index == len(blocks)
                blocks.append(block | {"json": ""})
            case {"type": "content_block_delta", "index": index, "delta": delta}:
                names = {"input_json_delta": "json", "text_delta": "text"}
                name = names.get(delta["type"], "thinking")
                blocks[index][name] += delta.get("partial_json", delta.get(name))
    for block in blocks:
        arguments = block.pop("json")
        if arguments:
            block["input"] = json.loads(arguments)
    assert blocks == whole["content"]


def test_a_stream_that_fails_ends_with_an_error_event(server: Scripted) -> None:
    said = (ContentDelta(0, "a"), EngineClosedError("the engine died"))
    events = events_of(server.post(PATH, ASKED | {"stream": True}, *said)[0].text)
    assert events[-1]["error"] == {"type": "overloaded_error", "message": "the engine died"}
    assert "message_stop" not in {event["type"] for event in events}


def test_what_the_engine_refuses_is_a_plain_error_even_of_a_stream(server: Scripted) -> None:
    refused = EngineClosedError("the engine died")
    response, _ = server.post(PATH, ASKED | {"stream": True}, refused)
    assert response.status_code == 503
    assert response.json()["error"]["type"] == "overloaded_error"


@pytest.mark.parametrize("base", ["/v1", ""])
def test_tokens_are_counted_under_both_paths(server: Scripted, base: str) -> None:
    given = {"messages": ASKED["messages"], "tools": [WEATHER]}
    response, script = server.post(f"{base}/messages/count_tokens", given)
    assert response.json() == {"input_tokens": 5}
    assert script.jobs == []
