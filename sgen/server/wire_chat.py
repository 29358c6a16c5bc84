"""The body of POST /v1/chat/completions.  What is not here is ignored, and counted."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from sgen.server.wire_sampling import GenerationRequest


class ContentPart(msgspec.Struct, kw_only=True):
    type: str
    text: str | None = None
    refusal: str | None = None


class CalledFunction(msgspec.Struct, kw_only=True):
    """`arguments` are JSON text in a string; an object is taken too."""

    name: str
    arguments: Raw = msgspec.field(default_factory=Raw)


class MessageCall(msgspec.Struct, kw_only=True):
    id: str | None = None
    type: str | None = None
    function: CalledFunction


class ChatMessage(msgspec.Struct, kw_only=True):
    role: str
    content: str | list[ContentPart] | None = None
    tool_calls: list[MessageCall] | None = None
    tool_call_id: str | None = None


class FunctionTool(msgspec.Struct, kw_only=True):
    name: str
    description: str | None = None
    parameters: Raw = msgspec.field(default_factory=Raw)


class ChatTool(msgspec.Struct, kw_only=True):
    type: str = "function"
    function: FunctionTool | None = None


class NamedFunction(msgspec.Struct, kw_only=True):
    name: str


class AllowedTool(msgspec.Struct, kw_only=True):
    type: str = "function"
    function: NamedFunction | None = None


class AllowedTools(msgspec.Struct, kw_only=True):
    mode: str = "auto"
    tools: list[AllowedTool] = []


class ChosenTool(msgspec.Struct, kw_only=True):
    type: str = "function"
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None


class TemplateOptions(msgspec.Struct, kw_only=True):
    enable_thinking: bool | None = None


class ChatRequest(GenerationRequest, kw_only=True):
    messages: list[ChatMessage]
    tools: list[ChatTool] | None = None
    tool_choice: str | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    separate_reasoning: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template: Raw = msgspec.field(default_factory=Raw)
    chat_template_kwargs: TemplateOptions | None = None
    functions: Raw = msgspec.field(default_factory=Raw)
    function_call: Raw = msgspec.field(default_factory=Raw)
