"""Jobs: choices side by side, nothing left running, and the same text as without a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from chat_backend import Fake
from starlette.testclient import TestClient

import sgen
from sgen.errors import CancelledError, InvalidRequestError
from sgen.protocol import (
    Chunk,
    GenerateRequest,
    GrammarSpec,
    PromptPart,
    RoleEnd,
    RoleStart,
    SamplingParams,
    Text,
    TokenLogprob,
    Usage,
)
from sgen.server.app import create_app
from sgen.server.events import Job, ToolChoice, ToolDefinition
from sgen.server.generation import collect, generate
from sgen.server.settings import Settings

SCHEMA = '{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}'


def job(**fields: Any) -> Job:
    return Job(**{"id": "r", "prompt": (Text("x"),), "params": SamplingParams(), **fields})


def test_closing_cancels_every_choice() -> None:
    backend = Fake(default="hello", delay=0.001, hold=("r#0", "r#1", "r#2"))

    async def run() -> None:
        events = generate(backend, job(n=3))
        await anext(events)
        await events.aclose()  # type: ignore[attr-defined]  # it is a generator

    asyncio.run(run())
    assert not backend.open
    assert sorted(backend.cancelled) == ["r#0", "r#1", "r#2"]


def test_one_choice_that_fails_ends_the_others() -> None:
    error = InvalidRequestError("no")
    backend = Fake(answers={"r#1": error}, default="hello", hold=("r#0",))
    with pytest.raises(InvalidRequestError):
        asyncio.run(collect(backend, job(n=2)))
    assert not backend.open


def test_a_cancelled_request_is_an_error_and_no_short_answer() -> None:
    class Cancelled(Fake):
        async def extend(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
            yield Chunk(text="hal")
            yield Chunk(finish_reason="cancelled")

    with pytest.raises(CancelledError):
        asyncio.run(collect(Cancelled(), job()))


def test_stop_is_left_out_where_all_output_is_constrained() -> None:
    backend = Fake()
    params = SamplingParams(stop=("}",))
    (choice,) = asyncio.run(
        collect(backend, job(grammar=GrammarSpec("json_schema", SCHEMA), params=params))
    )
    assert isinstance(json.loads(choice.text)["a"], int)
    assert backend.last.params.stop == ()


def test_a_stop_in_free_text_before_tools_comes_across_chunks() -> None:
    backend = Fake(answers={"r": "one two three"}, chunk=1)
    tool = ToolDefinition("f", "", "{}")
    params = SamplingParams(stop=("two",))
    (choice,) = asyncio.run(
        collect(backend, job(tools=(tool,), tool_choice=ToolChoice(), params=params))
    )
    assert (choice.text, choice.reason, choice.stop) == ("one ", "stop", "two")
    assert backend.cancelled == ["r"]


def test_log_probabilities_pass_by_a_stop_in_free_text() -> None:
    class Telling(Fake):
        async def extend(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
            for text in ("one", " t", "wo", " three"):
                logprob = TokenLogprob(ord(text[-1]), text, -0.5)
                yield Chunk(text=text, token_ids=(logprob.token,), logprobs=(logprob,))
            yield Chunk(finish_reason="stop", usage=Usage(1, 0, 4))

    tool = ToolDefinition("f", "", "{}")
    for stop, text, tokens in (
        ("two", "one ", ["one", " t"]),
        ("tow", "one two three", ["one", " t", "wo", " three"]),
    ):
        params = SamplingParams(stop=(stop,), logprobs=0)
        asked = job(tools=(tool,), tool_choice=ToolChoice(), params=params)
        (choice,) = asyncio.run(collect(Telling(), asked))
        assert choice.text == text
        assert [logprob.text for logprob in choice.logprobs] == tokens


class Real(Fake):
    """The engine in this process, as a server's backend."""

    def __init__(self, engine: sgen.Engine) -> None:
        super().__init__()
        self._engine = engine
        self._info = engine.info

    async def extend(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        async for chunk in self._engine.extend(request):
            yield chunk


def test_a_chat_has_the_text_of_the_engine(engine: sgen.Engine) -> None:
    prompt: tuple[PromptPart, ...] = (
        RoleStart("user"), Text("Name three colours."), RoleEnd(), RoleStart("assistant"),
    )  # fmt: skip
    params = SamplingParams(max_tokens=24)
    request = GenerateRequest(id="direct", prompt=prompt, params=params)

    async def direct() -> str:
        return "".join([chunk.text async for chunk in engine.extend(request)])

    with TestClient(create_app(Real(engine), Settings())) as client:
        body = {"messages": [{"role": "user", "content": "Name three colours."}],
                "temperature": 0, "max_tokens": 24}  # fmt: skip
        answer = client.post("/v1/chat/completions", json=body).json()
        streamed = client.post("/v1/chat/completions", json={**body, "stream": True}).text
    text = answer["choices"][0]["message"]["content"]
    assert text == asyncio.run(direct())
    pieces = [json.loads(x[6:]) for x in streamed.split("\n\n") if x.startswith("data: {")]
    assert "".join(p["choices"][0]["delta"].get("content", "") for p in pieces) == text


@pytest.mark.parametrize("stream", [False, True])
def test_too_few_tokens_for_a_schema_name_the_least(engine: sgen.Engine, stream: bool) -> None:
    with TestClient(create_app(Real(engine), Settings())) as client:
        form = {"type": "json_schema", "json_schema": {"schema": json.loads(SCHEMA)}}
        body = {"messages": [{"role": "user", "content": "x"}], "response_format": form}
        url = "/v1/chat/completions"
        response = client.post(url, json={**body, "max_tokens": 1, "stream": stream})
        cut = client.post(url, json={**body, "max_tokens": 1, "finish": "truncate"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "max_tokens"
    assert "at least" in response.json()["error"]["message"]
    assert cut.json()["choices"][0]["finish_reason"] == "length"


def test_logprobs_have_texts_and_bytes(engine: sgen.Engine) -> None:
    with TestClient(create_app(Real(engine), Settings())) as client:
        body = {"messages": [{"role": "user", "content": "Hi"}], "logprobs": True,
                "top_logprobs": 3, "temperature": 0, "max_tokens": 4}  # fmt: skip
        choice = client.post("/v1/chat/completions", json=body).json()["choices"][0]
    entries = choice["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == choice["message"]["content"]
    for entry in entries:
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert len(entry["top_logprobs"]) == 3
        assert entry["top_logprobs"][0]["token"] == entry["token"]
