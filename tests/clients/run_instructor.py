"""instructor: TOOLS, JSON, JSON_SCHEMA and partial objects."""

from __future__ import annotations

import sys

import instructor
import openai
from cases import BASE, KEY, MODEL, QUESTION, City, case, is_city, run

plain = openai.OpenAI(base_url=BASE, api_key=KEY, max_retries=0, timeout=120)
messages = [{"role": "user", "content": QUESTION}]


def _ask(mode: instructor.Mode) -> City:
    client = instructor.from_openai(plain, mode=mode)
    return client.chat.completions.create(
        model=MODEL, messages=messages, response_model=City, max_retries=0
    )


@case
def tools() -> None:
    is_city(_ask(instructor.Mode.TOOLS))


@case
def tools_strict() -> None:
    is_city(_ask(instructor.Mode.TOOLS_STRICT))


@case
def json() -> None:
    """The server sees json_object and a schema in the prompt alone: a small model may get it
    wrong, and instructor then says so; it must be an object in any case."""
    client = instructor.from_openai(plain, mode=instructor.Mode.JSON)
    try:
        client.chat.completions.create(
            model=MODEL, messages=messages, response_model=City, max_retries=0, max_tokens=120
        )
    except Exception as error:
        text = str(error)
        assert "json_invalid" not in text, text
        assert "validation error" in text, text


@case
def json_schema() -> None:
    is_city(_ask(instructor.Mode.JSON_SCHEMA))


@case
def partial() -> None:
    client = instructor.from_openai(plain, mode=instructor.Mode.JSON_SCHEMA)
    *_, last = client.chat.completions.create_partial(
        model=MODEL, messages=messages, response_model=City, max_retries=0
    )
    is_city(last)


@case
def responses_tools() -> None:
    client = instructor.from_openai(plain, mode=instructor.Mode.RESPONSES_TOOLS)
    is_city(client.create(model=MODEL, messages=messages, response_model=City, max_retries=0))


if __name__ == "__main__":
    sys.exit(run())
