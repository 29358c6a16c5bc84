"""Sampling parameters are checked wherever they come from: Python's constructor, or bytes."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from sgen.errors import InvalidRequestError
from sgen.protocol import GenerateRequest, SamplingParams, Text

WRONG = [
    ("max_tokens", 1.5),
    ("max_tokens", True),
    ("max_tokens", 0),
    ("temperature", "hot"),
    ("temperature", None),
    ("temperature", math.nan),
    ("temperature", True),
    ("temperature", -0.1),
    ("top_k", 2.5),
    ("top_k", -1),
    ("top_p", 0),
    ("top_p", math.nan),
    ("min_p", "0"),
    ("min_p", 1.01),
    ("presence_penalty", math.inf),
    ("frequency_penalty", [1]),
    ("repetition_penalty", 0.0),
    ("repetition_penalty", math.nan),
    ("logit_bias", {"5": 1.0}),
    ("logit_bias", {5: "1"}),
    ("logit_bias", {5: math.nan}),
    ("logit_bias", {True: 1.0}),
    ("logit_bias", [(5, 1.0)]),
    ("logit_bias", dict.fromkeys(range(1025), 1.0)),
    ("seed", 1.0),
    ("seed", 2**64),
    ("stop", "END"),
    ("stop", ("",)),
    ("stop", (b"END",)),
    ("stop", ("x",) * 17),
    ("stop_token_ids", ("a",)),
    ("stop_token_ids", 7),
    ("stop_token_ids", (False,)),
    ("ignore_eos", 1),
    ("logprobs", 21),
    ("logprobs", True),
    ("finish", "never"),
    ("finish", []),
]


@pytest.mark.parametrize(("param", "value"), WRONG)
def test_wrong_parameters_are_refused_by_name(param: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError, match=f"^{param} must be ") as e:
        SamplingParams(**{param: value})
    assert e.value.param == param


def test_right_parameters_pass_at_their_ends() -> None:
    SamplingParams(
        max_tokens=1,
        temperature=100,
        top_k=0,
        top_p=1,
        min_p=1,
        presence_penalty=-2,
        frequency_penalty=2.0,
        repetition_penalty=10,
        logit_bias={0: -100, 5: 100.0},
        seed=-(2**63),
        stop=("a",) * 16,
        stop_token_ids=(0,),
        ignore_eos=True,
        logprobs=20,
        finish="truncate",
    )
    assert SamplingParams(seed=2**64 - 1, logprobs=0).seed == 2**64 - 1


def test_bytes_go_there_and_back_and_are_checked_too() -> None:
    params = SamplingParams(max_tokens=3, temperature=0.5, logit_bias={7: 1.0}, stop=("a",))
    request = GenerateRequest(id="x", prompt=(Text("hello"),), params=params)
    assert msgspec.json.decode(msgspec.json.encode(request), type=GenerateRequest) == request
    for text in (b'{"top_k": -1}', b'{"top_k": 2.5}', b'{"stop": "END"}'):
        with pytest.raises(msgspec.ValidationError, match=r"top_k|array"):
            msgspec.json.decode(text, type=SamplingParams)
