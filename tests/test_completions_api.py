"""Completions: prompts in every form, echo, log-probabilities, streams, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from chat_backend import Fake
from starlette.testclient import TestClient

from sgen.protocol import Text, TokenLogprob, Tokens
from sgen.server.app import create_app
from sgen.server.logprobs import chat_logprobs, completion_logprobs
from sgen.server.settings import Settings


def post(body: dict[str, Any]) -> tuple[Fake, Any]:
    backend = Fake(default="hello")
    with TestClient(create_app(backend, Settings())) as client:
        return backend, client.post("/v1/completions", json=body)


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a", [(Text("a"),)]),
        (["a", "b"], [(Text("a"),), (Text("b"),)]),
        ([65, 66], [(Tokens((65, 66), ""),)]),
        ([[65], [66]], [(Tokens((65,), ""),), (Tokens((66,), ""),)]),
    ],
)
def test_every_form_of_prompt(prompt: Any, parts: list[Any]) -> None:
    backend, response = post({"prompt": prompt})
    assert [request.prompt for request in backend.requests] == parts
    choices = response.json()["choices"]
    assert [choice["index"] for choice in choices] == list(range(len(parts)))
    assert {choice["text"] for choice in choices} == {"hello"}
    assert response.json()["usage"]["completion_tokens"] == 5 * len(parts)


@pytest.mark.parametrize("prompt", ["AB", [65, 66]])
def test_echo_puts_the_prompt_before_the_text(prompt: Any) -> None:
    assert post({"prompt": prompt, "echo": True})[1].json()["choices"][0]["text"] == "ABhello"


def test_a_stream_of_two_prompts_with_two_choices_each() -> None:
    body = {"prompt": ["a", "b"], "n": 2, "stream": True, "echo": True,
            "stream_options": {"include_usage": True}}  # fmt: skip
    *lines, done = [x for x in post(body)[1].text.split("\n\n") if x]
    assert done == "data: [DONE]"
    *chunks, usage = [json.loads(line.removeprefix("data: ")) for line in lines]
    texts = [""] * 4
    for chunk in chunks:
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == ["ahello", "ahello", "bhello", "bhello"]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 20


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": ["a"] * 257}, "prompt"),
        ({"logprobs": 21}, "logprobs"),
        ({"echo": True, "logprobs": 1}, "echo"),
    ],
)
def test_what_is_refused_is_named(fields: dict[str, Any], param: str) -> None:
    backend, response = post({"prompt": "a", **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert not backend.requests


def test_both_forms_of_logprobs() -> None:
    half = TokenLogprob(
        1, "\ufffd", -0.5, ((1, -0.5), (2, float("-inf"))), b"\xc3", (b"\xc3", b"a")
    )
    entry = chat_logprobs([half])["content"][0]
    assert entry["bytes"] == [0xC3]
    assert [top["bytes"] for top in entry["top_logprobs"]] == [[0xC3], [97]]
    assert entry["top_logprobs"][1]["logprob"] == -9999.0
    plain = completion_logprobs([TokenLogprob(1, "ab", -1.0), TokenLogprob(2, "c", -2.0)], 3)
    assert plain["tokens"] == ["ab", "c"]
    assert plain["text_offset"] == [3, 5]
