"""What the endpoints answer, for the description: by path, the type of a whole answer.

Answers that are made as dictionaries have their types here; nothing else uses these.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from sgen.server.wire_messages import MessageUsage, TextBlock, ThinkingBlock, TokensCount
from sgen.server.wire_programs import Done, GrammarAnswer
from sgen.server.wire_responses import ResponseObject


class TokenUsage(msgspec.Struct, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int] | None = None
    completion_tokens_details: dict[str, int] | None = None


class AnsweredFunction(msgspec.Struct, kw_only=True):
    """`arguments` is JSON text, valid by the tool's schema."""

    name: str
    arguments: str


class AnsweredCall(msgspec.Struct, kw_only=True):
    id: str
    type: Literal["function"]
    function: AnsweredFunction


class AnswerMessage(msgspec.Struct, kw_only=True):
    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[AnsweredCall] | None = None


class ChatChoice(msgspec.Struct, kw_only=True):
    index: int
    message: AnswerMessage
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatAnswer(msgspec.Struct, kw_only=True):
    """`created` in seconds of Unix time."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    service_tier: str | None
    choices: list[ChatChoice]
    usage: TokenUsage


class CompletionChoice(msgspec.Struct, kw_only=True):
    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length", "tool_calls"]
    stop_reason: str | None


class CompletionAnswer(msgspec.Struct, kw_only=True):
    """`created` in seconds of Unix time."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: TokenUsage


class UsedTool(msgspec.Struct, kw_only=True, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]


class MessageAnswer(msgspec.Struct, kw_only=True):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[TextBlock | ThinkingBlock | UsedTool]
    stop_reason: str | None
    stop_sequence: str | None
    usage: MessageUsage


class TokenPiece(msgspec.Struct, kw_only=True):
    id: int
    piece: str


class TokenizeAnswer(msgspec.Struct, kw_only=True):
    count: int
    max_model_len: int
    tokens: list[int | TokenPiece]
    token_strs: list[str] | None = None


class DetokenizeAnswer(msgspec.Struct, kw_only=True):
    """The same text by three names."""

    prompt: str
    content: str
    text: str


class TemplateAnswer(msgspec.Struct, kw_only=True):
    prompt: str


class ModelEntry(msgspec.Struct, kw_only=True):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    max_model_len: int


class ModelList(msgspec.Struct, kw_only=True):
    object: Literal["list"]
    data: list[ModelEntry]


class State(msgspec.Struct, kw_only=True):
    status: str


ANSWERS: dict[str, Any] = {
    "/v1/chat/completions": ChatAnswer,
    "/v1/completions": CompletionAnswer,
    "/v1/responses": ResponseObject,
    "/v1/messages": MessageAnswer,
    "/v1/messages/count_tokens": TokensCount,
    "/v1/programs": Done,
    "/v1/grammars/check": GrammarAnswer,
    "/tokenize": TokenizeAnswer,
    "/detokenize": DetokenizeAnswer,
    "/apply-template": TemplateAnswer,
    "/v1/models": ModelList,
    "/v1/models/{name}": ModelEntry,
    "/health": State,
    "/ready": State,
}
