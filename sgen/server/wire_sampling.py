"""The fields that chats and completions share: how to choose tokens, and what output must be.

The names are those of OpenAI, vLLM, SGLang and llama.cpp.  Null is the same as leaving one out.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Raw


class StreamOptions(msgspec.Struct, kw_only=True):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class JsonSchemaFormat(msgspec.Struct, kw_only=True):
    """`strict` changes nothing: every schema is enforced."""

    name: str | None = None
    description: str | None = None
    schema: Raw = msgspec.field(default_factory=Raw)
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, kw_only=True):
    """OpenAI's three types; `schema` beside json_object is llama.cpp's."""

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: JsonSchemaFormat | None = None
    schema: Raw = msgspec.field(default_factory=Raw)
    structures: Raw = msgspec.field(default_factory=Raw)
    triggers: Raw = msgspec.field(default_factory=Raw)
    format: Raw = msgspec.field(default_factory=Raw)


class StructuredOutputs(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """vLLM's; one of them.  A misspelt one must not be no constraint."""

    json: Raw = msgspec.field(default_factory=Raw)
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    structural_tag: Raw = msgspec.field(default_factory=Raw)


class GenerationRequest(msgspec.Struct, kw_only=True):
    """What both endpoints take."""

    model: str | None = None
    n: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n_predict: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    cache_salt: str | None = None
    finish: Literal["valid", "truncate"] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Raw = msgspec.field(default_factory=Raw)
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    regex: str | None = None
    ebnf: str | None = None
    json_schema: Raw = msgspec.field(default_factory=Raw)
    grammar: str | None = None
    user: Raw = msgspec.field(default_factory=Raw)
    metadata: Raw = msgspec.field(default_factory=Raw)
    store: Raw = msgspec.field(default_factory=Raw)
    service_tier: Raw = msgspec.field(default_factory=Raw)
    safety_identifier: Raw = msgspec.field(default_factory=Raw)
    prompt_cache_key: Raw = msgspec.field(default_factory=Raw)
    cache_prompt: Raw = msgspec.field(default_factory=Raw)
