"""langchain-openai: structured output by every method, bound tools, streams."""

from __future__ import annotations

import sys

from cases import (
    BASE,
    KEY,
    MODEL,
    QUESTION,
    WEATHER_QUESTION,
    WEATHER_TOOL,
    City,
    case,
    is_city,
    is_place,
    run,
)
from langchain_openai import ChatOpenAI

model = ChatOpenAI(model=MODEL, base_url=BASE, api_key=KEY, max_retries=0, timeout=120)
short = ChatOpenAI(
    model=MODEL, base_url=BASE, api_key=KEY, max_retries=0, timeout=120, max_tokens=80
)


@case
def text() -> None:
    assert short.invoke(QUESTION).content


@case
def stream() -> None:
    assert "".join(str(chunk.content) for chunk in short.stream(QUESTION))


@case
def structured_json_schema() -> None:
    is_city(model.with_structured_output(City, method="json_schema").invoke(QUESTION))


@case
def structured_function_calling() -> None:
    is_city(model.with_structured_output(City, method="function_calling").invoke(QUESTION))


@case
def structured_json_mode() -> None:
    """An object is what this mode promises, of whatever members."""
    answer = short.with_structured_output(None, method="json_mode").invoke(QUESTION + " JSON.")
    assert isinstance(answer, dict)


@case
def structured_default() -> None:
    is_city(model.with_structured_output(City).invoke(QUESTION))


@case
def structured_stream() -> None:
    *_, last = model.with_structured_output(City, method="json_schema").stream(QUESTION)
    is_city(last)


@case
def bind_tools() -> None:
    done = model.bind_tools([WEATHER_TOOL], tool_choice="any").invoke(WEATHER_QUESTION)
    assert done.tool_calls
    for call in done.tool_calls:
        assert call["name"] == "get_weather"
        is_place(call["args"])


@case
def bind_tools_stream() -> None:
    chunks = list(model.bind_tools([WEATHER_TOOL], tool_choice="any").stream(WEATHER_QUESTION))
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert total.tool_calls
    for call in total.tool_calls:
        is_place(call["args"])


if __name__ == "__main__":
    sys.exit(run())
