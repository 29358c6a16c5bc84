"""smolagents: a model that must call a tool with stop texts, and structured code output."""

from __future__ import annotations

import sys

from cases import BASE, KEY, MODEL, QUESTION, WEATHER_QUESTION, case, run
from smolagents import OpenAIServerModel, ToolCallingAgent, tool

model = OpenAIServerModel(
    model_id=MODEL, api_base=BASE, api_key=KEY, max_tokens=200, client_kwargs={"max_retries": 0}
)


@tool
def get_weather(city: str) -> str:
    """The weather in a city.

    Args:
        city: The city's name.
    """
    return f"21 degrees in {city}"


def _message(text: str) -> dict[str, object]:
    return {"role": "user", "content": [{"type": "text", "text": text}]}


@case
def text() -> None:
    assert model.generate([_message(QUESTION)], max_tokens=12).content


@case
def tool_call() -> None:
    """`required` and stop texts at once, as its agents send them."""
    answer = model.generate(
        [_message(WEATHER_QUESTION)],
        stop_sequences=["Observation:", "Calling tools:"],
        tools_to_call_from=[get_weather],
    )
    assert answer.tool_calls
    assert all(call.function.name == "get_weather" for call in answer.tool_calls)


@case
def agent() -> None:
    """Whether a small model ends well is its own affair; each of its calls must be one."""
    runner = ToolCallingAgent(tools=[get_weather], model=model, max_steps=2, verbosity_level=0)
    assert runner.run(WEATHER_QUESTION) is not None
    steps = [step for step in runner.memory.steps if getattr(step, "tool_calls", None)]
    assert steps
    names = {call.name for step in steps for call in step.tool_calls}
    assert names <= {"get_weather", "final_answer"}


@case
def structured_code() -> None:
    """The schema of its CodeAgent(use_structured_outputs_internally=True), with its stop texts."""
    import json

    from smolagents.models import CODEAGENT_RESPONSE_FORMAT

    answer = model.generate(
        [_message("Compute 2 + 2.")],
        stop_sequences=["Observation:", "Calling tools:"],
        response_format=CODEAGENT_RESPONSE_FORMAT,
    )
    assert set(json.loads(answer.content)) == {"thought", "code"}


if __name__ == "__main__":
    sys.exit(run())
