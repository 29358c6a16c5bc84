"""The wire types of POST /v1/messages and /v1/messages/count_tokens, after Anthropic's interface.

`MessagesRequest` has what a prompt is made of in common with `CountRequest`, which asks for
its length only.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from sgen.server.errors import APIError

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class Block(msgspec.Struct):
    """A block of a message's content, or of a tool's result; which fields count is up to
    `type`."""

    type: str
    text: str = ""
    id: str = ""
    name: str = ""
    input: dict[str, Any] | None = None
    tool_use_id: str = ""
    content: str | list[Block] | None = None
    is_error: bool | None = None


class Message(msgspec.Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(msgspec.Struct):
    name: str
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class ToolChoiceBody(msgspec.Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str = ""
    disable_parallel_tool_use: bool | None = None


class OutputFormat(msgspec.Struct):
    type: str
    schema: dict[str, Any] | None = None


class OutputConfig(msgspec.Struct):
    format: OutputFormat | None = None
    effort: str | None = None


class CountRequest(msgspec.Struct, kw_only=True):
    messages: list[Message]
    model: str | None = None
    system: str | list[Block] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoiceBody | None = None
    thinking: dict[str, Any] | None = None
    output_config: OutputConfig | None = None


class MessagesRequest(msgspec.Struct, kw_only=True):
    """`seed`, `min_p`, `cache_salt` and `finish` are ours, the rest is Anthropic's;
    `output_format` is what `output_config.format` was called before."""

    max_tokens: int
    messages: list[Message]
    model: str | None = None
    system: str | list[Block] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoiceBody | None = None
    thinking: dict[str, Any] | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stream: bool | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    seed: int | None = None
    min_p: float | None = None
    cache_salt: str | None = None
    finish: Literal["valid", "truncate"] = "valid"


class TokensCount(msgspec.Struct):
    input_tokens: int


class TextBlock(msgspec.Struct, tag_field="type", tag="text"):
    text: str = ""
    citations: None = None


class ThinkingBlock(msgspec.Struct, tag_field="type", tag="thinking"):
    """`signature` is empty: reasoning that comes back to us is not read."""

    thinking: str = ""
    signature: str = ""


class ToolUseBlock(msgspec.Struct, tag_field="type", tag="tool_use"):
    """`input` is the very text that the model wrote, an object that is valid by the schema."""

    id: str
    name: str
    input: msgspec.Raw = msgspec.Raw(b"{}")


ContentBlock = TextBlock | ThinkingBlock | ToolUseBlock


class MessageUsage(msgspec.Struct):
    """Tokens; `input_tokens` are those that did not come from the cache."""

    input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int = 0


class MessageObject(msgspec.Struct, kw_only=True):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[ContentBlock] = []
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    usage: MessageUsage


class ErrorBody(msgspec.Struct):
    type: str
    message: str


class ErrorMessage(msgspec.Struct, tag_field="type", tag="error"):
    error: ErrorBody
    request_id: str


_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_message(error: APIError, request_id: str) -> ErrorMessage:
    """The kind says what the status says, since a stream has no status of its own any more; the
    field in question, which this interface has no place for, stands before the message."""
    default = "api_error" if error.status >= 500 else "invalid_request_error"
    where = f"{error.param}: " if error.param else ""
    body = ErrorBody(_KINDS.get(error.status, default), where + error.message)
    return ErrorMessage(body, request_id)
