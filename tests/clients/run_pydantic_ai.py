"""pydantic-ai: output by a tool, native and prompted, streams, tools, by chat and Responses."""

from __future__ import annotations

import sys

from cases import BASE, KEY, MODEL, QUESTION, WEATHER_QUESTION, Anything, City, case, is_city, run
from pydantic_ai import Agent, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.exceptions import UsageLimitExceeded
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import UsageLimits

provider = OpenAIProvider(base_url=BASE, api_key=KEY)
model = OpenAIChatModel(MODEL, provider=provider)
short = ModelSettings(max_tokens=24)
longer = ModelSettings(max_tokens=80)


@case
async def text() -> None:
    assert (await Agent(model, model_settings=short).run(QUESTION)).output


@case
async def tool_output() -> None:
    is_city((await Agent(model, output_type=ToolOutput(City)).run(QUESTION)).output)


@case
async def native_output() -> None:
    is_city((await Agent(model, output_type=NativeOutput(City)).run(QUESTION)).output)


@case
async def prompted_output() -> None:
    """json_object only: that it is a City is not promised, that it is an object is."""
    agent = Agent(
        model, output_type=PromptedOutput(Anything), model_settings=ModelSettings(max_tokens=80)
    )
    assert isinstance((await agent.run(QUESTION)).output, Anything)


@case
async def stream_text() -> None:
    async with Agent(model, model_settings=short).run_stream(QUESTION) as result:
        pieces = [piece async for piece in result.stream_text(delta=True)]
    assert "".join(pieces)


@case
async def stream_native() -> None:
    async with Agent(model, output_type=NativeOutput(City)).run_stream(QUESTION) as result:
        partial = [output async for output in result.stream_output(debounce_by=None)]
        is_city(await result.get_output())
    assert partial


@case
async def stream_tool_output() -> None:
    async with Agent(model, output_type=ToolOutput(City)).run_stream(QUESTION) as result:
        is_city(await result.get_output())


@case
async def tools() -> None:
    """`required` at every turn: the model picks between the tool and the final result."""
    agent = Agent(model, output_type=City, retries=3)
    places: list[str] = []

    @agent.tool_plain
    def get_weather(city: str) -> str:
        places.append(city)
        return "21 degrees, sunny"

    try:
        run = await agent.run(WEATHER_QUESTION, usage_limits=UsageLimits(request_limit=4))
    except UsageLimitExceeded:
        # A small model may call the tool for ever; that the calls were valid is what counts.
        assert places
    else:
        is_city(run.output)


@case
async def responses_tool_output() -> None:
    over_responses = OpenAIResponsesModel(MODEL, provider=provider)
    is_city((await Agent(over_responses, output_type=ToolOutput(City)).run(QUESTION)).output)


@case
async def responses_native_output() -> None:
    over_responses = OpenAIResponsesModel(MODEL, provider=provider)
    is_city((await Agent(over_responses, output_type=NativeOutput(City)).run(QUESTION)).output)


if __name__ == "__main__":
    sys.exit(run())
