"""The openai package (2 and 3): chat, parse, Responses, streams, tools."""

from __future__ import annotations

import sys

import openai
from cases import (
    BASE,
    KEY,
    MODEL,
    QUESTION,
    WEATHER_PARAMETERS,
    WEATHER_QUESTION,
    WEATHER_TOOL,
    City,
    case,
    is_city,
    is_place,
    refusal,
    run,
)

client = openai.OpenAI(base_url=BASE, api_key=KEY, max_retries=0, timeout=120)
messages = [{"role": "user", "content": QUESTION}]
weather = [{"role": "user", "content": WEATHER_QUESTION}]


@case
def models() -> None:
    assert MODEL in [model.id for model in client.models.list()]


@case
def chat() -> None:
    done = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=12)
    assert done.choices[0].message.content
    assert done.choices[0].finish_reason in ("stop", "length")
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens


@case
def chat_choices_and_logprobs() -> None:
    done = client.chat.completions.create(
        model=MODEL, messages=messages, max_tokens=6, n=2, seed=3, logprobs=True, top_logprobs=2
    )
    assert [choice.index for choice in done.choices] == [0, 1]
    for choice in done.choices:
        assert all(len(token.top_logprobs) == 2 for token in choice.logprobs.content)
        joined = b"".join(bytes(token.bytes or ()) for token in choice.logprobs.content)
        assert joined.decode(errors="ignore").startswith(choice.message.content[:3])


@case
def chat_stream() -> None:
    text, finish, usage = "", None, None
    with client.chat.completions.create(
        model=MODEL,
        messages=messages,
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        for chunk in stream:
            if chunk.choices:
                text += chunk.choices[0].delta.content or ""
                finish = chunk.choices[0].finish_reason or finish
            usage = chunk.usage or usage
    assert text
    assert finish in ("stop", "length")
    assert usage.completion_tokens > 0


@case
def parse() -> None:
    done = client.chat.completions.parse(model=MODEL, messages=messages, response_format=City)
    assert done.choices[0].finish_reason == "stop"
    is_city(done.choices[0].message.parsed)


@case
def parse_stream() -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=messages, response_format=City
    ) as stream:
        kinds = {event.type for event in stream}
        is_city(stream.get_final_completion().choices[0].message.parsed)
    assert "content.done" in kinds


@case
def json_object() -> None:
    done = client.chat.completions.create(
        model=MODEL, messages=messages, response_format={"type": "json_object"}, max_tokens=60
    )
    assert done.choices[0].message.content.startswith("{")
    assert done.choices[0].message.content.endswith("}")


def _call(choice: object) -> None:
    done = client.chat.completions.create(
        model=MODEL, messages=weather, tools=[WEATHER_TOOL], tool_choice=choice
    )
    assert done.choices[0].finish_reason in ("tool_calls", "stop")
    [call, *_] = done.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert call.id
    is_place(call.function.arguments)


@case
def tools_required() -> None:
    _call("required")


@case
def tools_named() -> None:
    _call({"type": "function", "function": {"name": "get_weather"}})


@case
def tools_auto_and_none() -> None:
    for choice in ("auto", "none"):
        done = client.chat.completions.create(
            model=MODEL, messages=weather, tools=[WEATHER_TOOL], tool_choice=choice, max_tokens=60
        )
        message = done.choices[0].message
        assert choice == "auto" or not message.tool_calls
        for call in message.tool_calls or ():
            is_place(call.function.arguments)
        assert message.tool_calls or message.content


@case
def tools_stream() -> None:
    with client.chat.completions.create(
        model=MODEL, messages=weather, tools=[WEATHER_TOOL], tool_choice="required", stream=True
    ) as stream:
        names: dict[int, str] = {}
        arguments: dict[int, str] = {}
        finish = None
        for chunk in stream:
            for choice in chunk.choices:
                finish = choice.finish_reason or finish
                for call in choice.delta.tool_calls or ():
                    names[call.index] = names.get(call.index, "") + (call.function.name or "")
                    said = arguments.get(call.index, "") + (call.function.arguments or "")
                    arguments[call.index] = said
    assert finish == "tool_calls"
    assert set(names.values()) == {"get_weather"}
    for said in arguments.values():
        is_place(said)


@case
def tools_round_trip() -> None:
    first = client.chat.completions.create(
        model=MODEL,
        messages=weather,
        tools=[WEATHER_TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
    )
    [call] = first.choices[0].message.tool_calls
    done = client.chat.completions.create(
        model=MODEL,
        max_tokens=16,
        tools=[WEATHER_TOOL],
        tool_choice="none",
        messages=[
            *weather,
            first.choices[0].message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": "21 degrees, sunny"},
        ],
    )
    assert done.choices[0].message.content


@case
def completions() -> None:
    done = client.completions.create(
        model=MODEL, prompt="Once upon a time", max_tokens=8, temperature=0
    )
    assert done.choices[0].text
    streamed = client.completions.create(
        model=MODEL, prompt="Once upon a time", max_tokens=8, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in streamed) == done.choices[0].text


@case
def responses() -> None:
    done = client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=16)
    assert done.output_text
    assert done.status in ("completed", "incomplete")


@case
def responses_parse() -> None:
    done = client.responses.parse(model=MODEL, input=QUESTION, text_format=City)
    is_city(done.output_parsed)


@case
def responses_stream() -> None:
    with client.responses.stream(model=MODEL, input=QUESTION, text_format=City) as stream:
        kinds = [event.type for event in stream]
        is_city(stream.get_final_response().output_parsed)
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"


@case
def responses_tools() -> None:
    tool = {
        "type": "function",
        "name": "get_weather",
        "strict": True,
        "parameters": WEATHER_PARAMETERS,
    }
    done = client.responses.create(
        model=MODEL, input=WEATHER_QUESTION, tools=[tool], tool_choice="required"
    )
    calls = [item for item in done.output if item.type == "function_call"]
    assert calls
    for call in calls:
        assert call.name == "get_weather"
        is_place(call.arguments)
    answer = client.responses.create(
        model=MODEL,
        tools=[tool],
        tool_choice="none",
        max_output_tokens=16,
        input=[
            {"role": "user", "content": WEATHER_QUESTION},
            *(item.model_dump(exclude_none=True) for item in calls),
            *(
                {"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"}
                for call in calls
            ),
        ],
    )
    assert answer.output_text


@case
def errors() -> None:
    create = client.chat.completions.create
    error = refusal(openai.NotFoundError, lambda: create(model="no-such-model", messages=messages))
    assert error.code == "model_not_found"
    error = refusal(
        openai.BadRequestError, lambda: create(model=MODEL, messages=messages, temperature=-1)
    )
    assert error.param == "temperature"


if __name__ == "__main__":
    sys.exit(run())
