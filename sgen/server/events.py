"""What an endpoint asks for and what comes back, the same for every interface.

An endpoint turns its body into a `Job`, runs it with `generate` (generation.py) and writes the
events in its own form.  Events of one `choice` come in this order: reasoning, then content and
tool calls, one call after the other, then `Finished`, once.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from sgen.protocol import (
    GrammarSpec,
    PromptPart,
    SamplingParams,
    TokenLogprob,
    ToolDefinition,
    Usage,
)

ToolMode = Literal["none", "auto", "required"]


class ToolChoice(msgspec.Struct, frozen=True):
    """`name` (with "required"): this tool alone.  `parallel`: more than one call is allowed."""

    mode: ToolMode = "auto"
    name: str = ""
    parallel: bool = True


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A request in no interface's own terms.  `grammar` is that of the content; with tools that
    the model may or must call, generation.py makes one grammar of both."""

    id: str
    prompt: tuple[PromptPart, ...]
    params: SamplingParams
    grammar: GrammarSpec | None = None
    tools: tuple[ToolDefinition, ...] = ()  # shown already: they stand in `prompt` too
    tool_choice: ToolChoice = ToolChoice()
    n: int = 1  # choices, seeded one by one; they share the prompt's prefix
    split_reasoning: bool = True  # else it stays part of the content
    cache_salt: str = ""


class ContentDelta(msgspec.Struct, frozen=True, tag="content"):
    choice: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class ReasoningDelta(msgspec.Struct, frozen=True, tag="reasoning"):
    choice: int
    text: str


class ToolCallStart(msgspec.Struct, frozen=True, tag="tool_call"):
    choice: int
    call: int  # counted from 0 within the choice
    id: str
    name: str


class ToolCallDelta(msgspec.Struct, frozen=True, tag="arguments"):
    """Pieces of a call's arguments join to JSON text that is valid by the tool's schema."""

    choice: int
    call: int
    arguments: str


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """The end of a choice.  `stop` is the stop text that matched, where one did."""

    choice: int
    reason: Literal["stop", "length", "tool_calls"]
    stop: str | None
    usage: Usage
    reasoning_tokens: int = 0  # of the usage's completion tokens


GenerationEvent = ContentDelta | ReasoningDelta | ToolCallStart | ToolCallDelta | Finished
