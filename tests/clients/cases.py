"""What the scripts of all clients share: the address of the server, and a list of cases to run.

A script runs in the virtual environment of its client, against a server that stands already:

    build/clients/openai-3/bin/python tests/clients/run_openai.py http://127.0.0.1:8000

and prints one JSON object a case: {"case", "ok", "seconds", "error"}.  It ends with 1 where a case
failed.  A case is a function that raises where the client did not get what it asked for.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, Field

URL = sys.argv[1].rstrip("/") if len(sys.argv) > 1 else "http://127.0.0.1:8000"
BASE = f"{URL}/v1"
MODEL = sys.argv[2] if len(sys.argv) > 2 else "smollm2"
KEY = "none"
ONLY = set(sys.argv[3:])


class City(BaseModel):
    """A city.  Bounded, so that an answer is short whatever a small model would like to say."""

    name: str = Field(max_length=20)
    population: int = Field(ge=0, le=50_000_000)
    kind: Literal["town", "capital", "port"]
    note: str | None = Field(default=None, max_length=20)


class Town(BaseModel):
    """A city without bounds, for clients that take those out of a schema."""

    kind: Literal["town", "capital", "port"]
    coastal: bool


class Anything(BaseModel, extra="allow"):
    """What json_object promises: an object, of whatever members."""


QUESTION = "Describe the city of Paris."
WEATHER_QUESTION = "What is the weather in Paris? Use the tool."

Case = Callable[[], Any]
_cases: list[tuple[str, Case]] = []


def case(function: Case) -> Case:
    """Registers a function (plain or async) as a case, by its name."""
    _cases.append((function.__name__, function))
    return function


def run() -> int:
    """All cases in the order of the script, or those named on the command line."""
    failed = 0
    for name, function in _cases:
        if ONLY and name not in ONLY:
            continue
        started, error = time.perf_counter(), ""
        try:
            outcome = function()
            if inspect.iscoroutine(outcome):
                asyncio.run(outcome)
        except Exception as problem:
            failed += 1
            error = f"{type(problem).__name__}: {problem}"[:600]
            traceback.print_exc()
        seconds = round(time.perf_counter() - started, 2)
        print(json.dumps({"case": name, "ok": not error, "seconds": seconds, "error": error}))
        sys.stdout.flush()
    return min(failed, 1)


def is_city(value: Any) -> None:
    """Raises unless the value, text of JSON, a dict or a City, is a valid City."""
    if isinstance(value, str):
        City.model_validate_json(value)
    elif isinstance(value, BaseModel):
        City.model_validate(value.model_dump())
    else:
        City.model_validate(value)


def refusal(kind: type[Exception], call: Callable[[], Any]) -> Any:
    """The error of a kind that a call must raise."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} came")


def is_place(arguments: Any) -> None:
    """Raises unless these are the arguments of the weather tool."""
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    assert isinstance(arguments, dict), arguments
    assert set(arguments) == {"city", "unit"}, arguments
    assert isinstance(arguments["city"], str), arguments
    assert arguments["unit"] in ("celsius", "fahrenheit"), arguments


WEATHER_PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": WEATHER_PARAMETERS,
    },
}
