"""The anthropic package: messages, streams, tools, parse, counting tokens."""

from __future__ import annotations

import sys

import anthropic
from cases import (
    KEY,
    MODEL,
    QUESTION,
    URL,
    WEATHER_PARAMETERS,
    WEATHER_QUESTION,
    Town,
    case,
    is_place,
    refusal,
    run,
)

client = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0, timeout=120)
messages = [{"role": "user", "content": QUESTION}]
weather = [{"role": "user", "content": WEATHER_QUESTION}]
TOOL = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "input_schema": WEATHER_PARAMETERS,
}


@case
def create() -> None:
    done = client.messages.create(model=MODEL, max_tokens=12, messages=messages, system="Be short.")
    assert done.content[0].text
    assert done.stop_reason in ("end_turn", "max_tokens")
    assert done.usage.input_tokens > 0


@case
def stream() -> None:
    with client.messages.stream(model=MODEL, max_tokens=12, messages=messages) as events:
        text = "".join(events.text_stream)
        assert text == events.get_final_message().content[0].text
    assert text


@case
def tools() -> None:
    for choice in ({"type": "any"}, {"type": "tool", "name": "get_weather"}):
        done = client.messages.create(
            model=MODEL, max_tokens=200, messages=weather, tools=[TOOL], tool_choice=choice
        )
        assert done.stop_reason == "tool_use"
        calls = [block for block in done.content if block.type == "tool_use"]
        assert calls
        for call in calls:
            assert call.name == "get_weather"
            is_place(call.input)


@case
def tools_stream() -> None:
    with client.messages.stream(
        model=MODEL, max_tokens=200, messages=weather, tools=[TOOL], tool_choice={"type": "any"}
    ) as events:
        done = events.get_final_message()
    calls = [block for block in done.content if block.type == "tool_use"]
    assert calls
    for call in calls:
        is_place(call.input)


@case
def tools_round_trip() -> None:
    first = client.messages.create(
        model=MODEL,
        max_tokens=200,
        messages=weather,
        tools=[TOOL],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
    )
    [call] = [block for block in first.content if block.type == "tool_use"]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "21 degrees"}
    done = client.messages.create(
        model=MODEL,
        max_tokens=12,
        tools=[TOOL],
        tool_choice={"type": "none"},
        messages=[
            *weather,
            {"role": "assistant", "content": [call.model_dump(exclude_none=True)]},
            {"role": "user", "content": [result]},
        ],
    )
    assert done.content[0].text


@case
def parse() -> None:
    done = client.messages.parse(model=MODEL, max_tokens=200, messages=messages, output_format=Town)
    assert isinstance(done.parsed_output, Town)


@case
def count_tokens() -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=messages).input_tokens
    done = client.messages.create(model=MODEL, max_tokens=1, messages=messages)
    usage = done.usage
    assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)


@case
def errors() -> None:
    error = refusal(
        anthropic.NotFoundError,
        lambda: client.messages.create(model="no-such-model", max_tokens=1, messages=messages),
    )
    assert error.body["type"] == "error"
    assert error.body["error"]["type"] == "not_found_error"


if __name__ == "__main__":
    sys.exit(run())
