"""litellm: as an OpenAI server and as a hosted vLLM; typed output, tools, streams."""

from __future__ import annotations

import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it fetches one at import

import litellm
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

PROVIDERS = ("openai", "hosted_vllm")


def _ask(provider: str, question: str, **options: object) -> litellm.ModelResponse:
    return litellm.completion(
        model=f"{provider}/{MODEL}",
        api_base=BASE,
        api_key=KEY,
        messages=[{"role": "user", "content": question}],
        num_retries=0,
        timeout=120,
        **options,
    )


@case
def text() -> None:
    for provider in PROVIDERS:
        assert _ask(provider, QUESTION, max_tokens=12).choices[0].message.content


@case
def stream() -> None:
    for provider in PROVIDERS:
        chunks = _ask(provider, QUESTION, max_tokens=12, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


@case
def typed() -> None:
    for provider in PROVIDERS:
        answer = _ask(provider, QUESTION, response_format=City)
        is_city(answer.choices[0].message.content)


@case
def tools() -> None:
    for provider in PROVIDERS:
        answer = _ask(provider, WEATHER_QUESTION, tools=[WEATHER_TOOL], tool_choice="required")
        calls = answer.choices[0].message.tool_calls
        assert calls
        for call in calls:
            assert call.function.name == "get_weather"
            is_place(call.function.arguments)


if __name__ == "__main__":
    sys.exit(run())
