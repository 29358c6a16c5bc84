"""llama-index openai-like: chat, streams, structured output by functions and by schema, tools."""

from __future__ import annotations

import sys

from cases import BASE, KEY, MODEL, QUESTION, WEATHER_QUESTION, City, case, is_city, run
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike


def _model(**options: object) -> OpenAILike:
    return OpenAILike(
        model=MODEL,
        api_base=BASE,
        api_key=KEY,
        is_chat_model=True,
        max_retries=0,
        timeout=120,
        max_tokens=options.pop("max_tokens", 200),
        **options,
    )


@case
def chat() -> None:
    answer = _model(max_tokens=12).chat([ChatMessage(role="user", content=QUESTION)])
    assert answer.message.content


@case
def stream() -> None:
    *_, last = _model(max_tokens=12).stream_chat([ChatMessage(role="user", content=QUESTION)])
    assert last.message.content


@case
def structured_by_function() -> None:
    model = _model(is_function_calling_model=True)
    question = [ChatMessage(role="user", content=QUESTION)]
    is_city(model.as_structured_llm(City).chat(question).raw)


@case
def structured_by_schema() -> None:
    model = _model(should_use_structured_outputs=True)
    question = [ChatMessage(role="user", content=QUESTION)]
    is_city(model.as_structured_llm(City).chat(question).raw)


@case
def tools() -> None:
    def get_weather(city: str) -> str:
        """The weather in a city."""
        return f"21 degrees in {city}"

    model = _model(is_function_calling_model=True)
    answer = model.chat_with_tools(
        [FunctionTool.from_defaults(get_weather)], user_msg=WEATHER_QUESTION, tool_required=True
    )
    calls = model.get_tool_calls_from_response(answer)
    assert calls
    assert all(call.tool_name == "get_weather" for call in calls)
    assert all(isinstance(call.tool_kwargs["city"], str) for call in calls)


if __name__ == "__main__":
    sys.exit(run())
