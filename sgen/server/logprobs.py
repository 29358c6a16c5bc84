"""Log-probabilities of tokens in the two forms that OpenAI's interfaces have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sgen.protocol import TokenLogprob

_LEAST = -9999.0  # JSON has no infinity


def chat_logprobs(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Of a piece of a chat's content."""
    return {"content": [_entry(logprob) for logprob in logprobs], "refusal": None}


def completion_logprobs(logprobs: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """Of a completion's text; `offset` is where it begins, in characters."""
    offsets: list[int] = []
    for logprob in logprobs:
        offsets.append(offset)
        offset += len(logprob.text)
    return {
        "tokens": [logprob.text for logprob in logprobs],
        "token_logprobs": [_finite(logprob.logprob) for logprob in logprobs],
        "top_logprobs": [
            {data.decode("utf-8", "replace"): _finite(value) for value, data in _top(logprob)}
            for logprob in logprobs
        ],
        "text_offset": offsets,
    }


def _entry(logprob: TokenLogprob) -> dict[str, Any]:
    data = logprob.data or logprob.text.encode()
    top = [_token(data, value) for value, data in _top(logprob)]
    return {**_token(data, logprob.logprob), "top_logprobs": top}


def _token(data: bytes, value: float) -> dict[str, Any]:
    return {
        "token": data.decode("utf-8", "replace"),
        "logprob": _finite(value),
        "bytes": list(data),
    }


def _top(logprob: TokenLogprob) -> list[tuple[float, bytes]]:
    return [(v, data) for (_, v), data in zip(logprob.top, logprob.top_data, strict=False)]


def _finite(value: float) -> float:
    return max(value, _LEAST)
