"""Chats: the fields of a request, the form of answers and of streams, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from chat_backend import Fake
from starlette.testclient import TestClient

from sgen.errors import InvalidRequestError
from sgen.protocol import GenerateRequest, RoleEnd, RoleStart, Text
from sgen.server.app import create_app
from sgen.server.settings import Settings

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 1}},
    "required": ["name"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": PERSON}}
USER = [{"role": "user", "content": "hi"}]


@pytest.fixture
def backend() -> Fake:
    return Fake(default="hello")


@pytest.fixture
def client(backend: Fake) -> Iterator[TestClient]:
    with TestClient(create_app(backend, Settings())) as client:
        yield client


def ask(client: TestClient, **fields: Any) -> Any:
    response = client.post("/v1/chat/completions", json={"messages": USER, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def refused(client: TestClient, **fields: Any) -> Any:
    response = client.post("/v1/chat/completions", json={"messages": USER, **fields})
    assert response.status_code == 400, response.text
    return response.json()["error"]


def chunks(client: TestClient, **fields: Any) -> list[Any]:
    body = {"messages": USER, "stream": True, **fields}
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    *lines, done = [x for x in response.text.split("\n\n") if x and not x.startswith(":")]
    assert done == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_an_answer_has_the_form_of_openai(client: TestClient) -> None:
    answer = ask(client)
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["choices"][0]["message"]["content"] == "hello"
    assert answer["choices"][0]["finish_reason"] == "stop"
    usage = answer["usage"]
    assert usage["completion_tokens"] == 5
    assert usage["total_tokens"] == usage["prompt_tokens"] + 5
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0


def test_a_stream_has_role_texts_reason_usage_and_end(client: TestClient) -> None:
    first, *middle, last, usage = chunks(client, stream_options={"include_usage": True})
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert first["usage"] is None
    assert "".join(c["choices"][0]["delta"]["content"] for c in middle) == "hello"
    assert last["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 5
    assert len({c["id"] for c in (first, *middle, last, usage)}) == 1


def test_messages_become_parts(client: TestClient, backend: Fake) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    ask(
        client,
        messages=[{"role": "developer", "content": "c"}, {"role": "user", "content": parts}],
    )
    assert backend.last.prompt == (
        RoleStart("system"), Text("c"), RoleEnd(), RoleStart("user"), Text("ab"), RoleEnd(),
        RoleStart("assistant"),
    )  # fmt: skip


def test_a_last_message_is_continued(client: TestClient, backend: Fake) -> None:
    messages = [*USER, {"role": "assistant", "content": "I"}]
    ask(client, messages=messages, continue_final_message=True)
    assert backend.last.prompt[-2:] == (RoleStart("assistant"), Text("I"))


def test_choices_share_the_prompt_and_have_seeds_of_their_own(
    client: TestClient, backend: Fake
) -> None:
    answer = ask(client, n=3, seed=7)
    assert [c["index"] for c in answer["choices"]] == [0, 1, 2]
    requests = [r for r in backend.requests if isinstance(r, GenerateRequest)]
    seeds = [request.params.seed for request in requests]
    assert seeds[0] == 7
    assert len(set(seeds)) == 3
    assert answer["usage"]["completion_tokens"] == 15
    assert answer["usage"]["prompt_tokens"] == ask(client)["usage"]["prompt_tokens"]


def test_sampling_fields_reach_the_engine(client: TestClient, backend: Fake) -> None:
    ask(client, temperature=0, top_k=-1, logit_bias={"3": 1.5}, stop="x", max_tokens=9,
        max_completion_tokens=8, cache_salt="s")  # fmt: skip
    params = backend.last.params
    assert (params.temperature, params.top_k, params.logit_bias) == (0.0, 0, {3: 1.5})
    assert (params.stop, params.max_tokens, backend.last.cache_salt) == (("x",), 8, "s")
    ask(client)
    assert backend.last.params.temperature == 1.0


def test_a_schema_is_enforced_without_strict(client: TestClient) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}}
    answer = ask(client, response_format=form, stop=["}"])
    assert json.loads(answer["choices"][0]["message"]["content"]).keys() == {"name"}


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_keyword_is_named_with_its_place(client: TestClient, stream: bool) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "string", "colour": 1}}}
    form = {"type": "json_schema", "json_schema": {"name": "p", "schema": schema}}
    error = refused(client, response_format=form, stream=stream)
    assert error["param"] == "response_format.json_schema.schema/properties/x/colour"
    assert "colour" in error["message"]


def test_a_required_tool_is_called_with_valid_arguments(client: TestClient) -> None:
    answer = ask(client, tools=[TOOL], tool_choice="required")
    (choice,) = answer["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"]).keys() == {"name"}


def test_streamed_arguments_join_to_json(client: TestClient) -> None:
    deltas = [
        call
        for chunk in chunks(client, tools=[TOOL], tool_choice="required")
        for call in chunk["choices"][0]["delta"].get("tool_calls", ())
    ]
    assert deltas[0]["function"]["name"] == "weather"
    assert deltas[0]["type"] == "function"
    text = "".join(call["function"]["arguments"] for call in deltas)
    assert json.loads(text).keys() == {"name"}


def test_required_without_tools_is_none(client: TestClient) -> None:
    assert ask(client, tool_choice="required")["choices"][0]["message"]["content"] == "hello"


def test_a_stop_text_ends_the_free_text_beside_tools() -> None:
    backend = Fake(default="say Observation: more", answers={})
    backend.answers["r"] = "say Observation: more"
    with TestClient(create_app(backend, Settings())) as client:
        body = {"messages": USER, "tools": [TOOL], "stop": ["Observation:"]}
        headers = {"X-Request-Id": "r"}
        response = client.post("/v1/chat/completions", json=body, headers=headers)
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"] == "say "
    assert response.json()["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"n": 17}, "n"),
        ({"n": 0}, "n"),
        ({"temperature": -1}, "temperature"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"functions": [{}]}, "functions"),
        ({"tools": [TOOL, TOOL]}, "tools.1.function.name"),
        ({"tools": [TOOL] * 129}, "tools"),
        ({"tools": [{"type": "code"}]}, "tools.0.type"),
        ({"tools": [TOOL], "tool_choice": "maybe"}, "tool_choice"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "no"}}, "tools": [TOOL]},
            "tool_choice",
        ),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content.0.type",
        ),
        ({"regex": "a", "ebnf": 'root ::= "b"'}, "ebnf"),
    ],
)
def test_what_is_refused_is_named(
    client: TestClient, backend: Fake, fields: dict[str, Any], param: str
) -> None:
    assert refused(client, **fields)["param"] == param
    assert not backend.requests


@pytest.mark.parametrize("field", ["functions", "function_call"])
def test_older_names_of_tools_name_the_newer_ones(client: TestClient, field: str) -> None:
    message = refused(client, **{field: []})["message"]
    assert "send tools" in message
    assert "tool_choice" in message


def test_stop_tokens_beside_a_grammar_are_refused(client: TestClient, backend: Fake) -> None:
    error = refused(client, regex="a+", stop_token_ids=[97])
    assert error["param"] == "stop_token_ids"
    assert "finish" in error["message"]
    ask(client, regex="a+", stop_token_ids=[97], finish="truncate")
    assert backend.last.params.stop_token_ids == (97,)


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_has_the_name_that_the_client_used(stream: bool) -> None:
    error = InvalidRequestError("too few", param="max_tokens")
    with TestClient(create_app(Fake(answers={"r": error}), Settings())) as client:
        client.headers["X-Request-Id"] = "r"
        for name in ("max_tokens", "max_completion_tokens"):
            assert refused(client, stream=stream, **{name: 2})["param"] == name


def test_choices_have_ids_that_no_client_can_give(client: TestClient, backend: Fake) -> None:
    body = {"messages": USER, "n": 2}
    client.post("/v1/chat/completions", json=body, headers={"X-Request-Id": "r"})
    assert [request.id for request in backend.requests] == ["r#0", "r#1"]
    answer = client.get("/ping", headers={"X-Request-Id": "r#0"})
    assert "#" not in answer.headers["x-request-id"]


def test_an_error_in_mid_stream_is_an_event() -> None:
    class Broken(Fake):
        async def extend(self, request: GenerateRequest) -> Any:
            async for chunk in super().extend(request):
                yield chunk
                raise RuntimeError("the engine is gone")

    with TestClient(create_app(Broken(default="hello"), Settings())) as client:
        body = {"messages": USER, "stream": True}
        text = client.post("/v1/chat/completions", json=body).text
    *_, last = [x for x in text.split("\n\n") if x]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "internal_error"
    assert "[DONE]" not in text


def test_reasoning_is_told_apart_counted_and_can_be_left_out() -> None:
    backend = Fake(default="<think>hm\n</think>\n\nyes")
    backend._info = msgspec.structs.replace(backend.info, reasoning=("<think>", "</think>"))
    with TestClient(create_app(backend, Settings())) as client:
        answer = ask(client)
        whole = ask(client, separate_reasoning=False)
        ask(client, chat_template_kwargs={"enable_thinking": False})
    message = answer["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("yes", "hm")
    thinking = answer["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert len("<think>hm") <= thinking < answer["usage"]["completion_tokens"]
    assert whole["choices"][0]["message"]["content"].startswith("<think>")
    assert backend.last.prompt[-1] == Text("<think>\n\n</think>\n\n")


def test_a_value_of_no_enumeration_is_told_the_others(client: TestClient) -> None:
    body = {"messages": [], "response_format": {"type": "json_shema"}}
    error = client.post("/v1/chat/completions", json=body).json()["error"]
    assert error["param"] == "response_format.type"
    assert "json_object, json_schema" in error["message"]
