"""openai-agents: typed output and tools, by chat completions and by Responses (its default)."""

from __future__ import annotations

import sys

from agents import (
    Agent,
    MaxTurnsExceeded,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from agents.agent import StopAtTools
from cases import BASE, KEY, MODEL, QUESTION, WEATHER_QUESTION, City, case, is_city, run
from openai import AsyncOpenAI

set_tracing_disabled(True)


def _chat() -> OpenAIChatCompletionsModel:
    return OpenAIChatCompletionsModel(MODEL, AsyncOpenAI(base_url=BASE, api_key=KEY))


def _responses() -> OpenAIResponsesModel:
    return OpenAIResponsesModel(MODEL, AsyncOpenAI(base_url=BASE, api_key=KEY))


async def _typed(model: object) -> None:
    agent = Agent(name="cities", model=model, output_type=City, instructions="Be short.")
    is_city((await Runner.run(agent, QUESTION)).final_output)


async def _tools(model: object) -> None:
    places: list[str] = []

    @function_tool
    def get_weather(city: str) -> str:
        """The weather in a city."""
        places.append(city)
        return f"21 degrees in {city}"

    agent = Agent(
        name="weather",
        model=model,
        tools=[get_weather],
        model_settings=ModelSettings(tool_choice="required", max_tokens=100),
        reset_tool_choice=True,
    )
    try:
        result = await Runner.run(agent, WEATHER_QUESTION, max_turns=4)
    except MaxTurnsExceeded:
        # A small model may call the tool for ever; that the calls were valid is what counts.
        assert len(places) >= 4
    else:
        assert places
        assert result.final_output

    stopping = agent.clone(tool_use_behavior=StopAtTools(stop_at_tool_names=["get_weather"]))
    streamed = Runner.run_streamed(stopping, WEATHER_QUESTION, max_turns=2)
    kinds = {event.type async for event in streamed.stream_events()}
    assert "raw_response_event" in kinds
    assert "21 degrees" in streamed.final_output


@case
async def chat_typed() -> None:
    await _typed(_chat())


@case
async def chat_tools() -> None:
    await _tools(_chat())


@case
async def responses_typed() -> None:
    await _typed(_responses())


@case
async def responses_tools() -> None:
    await _tools(_responses())


if __name__ == "__main__":
    sys.exit(run())
