"""A conversation of items or blocks, gathered to the messages of a prompt.

Interfaces that send calls and results as items of their own (Responses, Anthropic's) say in many
pieces what a chat template takes as one message: pieces of one role in a row become one message,
and calls belong to the assistant's message before them.  The system messages at the head become
one too, since most templates have a place for one only.  A whole answer is a stream that nobody
reads (`drain`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Protocol

from sgen.protocol import (
    PromptPart,
    Role,
    RoleEnd,
    RoleStart,
    Text,
    ToolCall,
    ToolDefinition,
)
from sgen.server.events import GenerationEvent


class Turns:
    """Grows by `say`, `call` and `result`; `parts` is the prompt."""

    def __init__(self, tools: Sequence[ToolDefinition] = ()) -> None:
        self._tools = tuple(tools)
        self._messages: list[tuple[RoleStart, list[str], list[ToolCall]]] = []

    def say(self, role: Role, text: str) -> None:
        self._message(role)[0].append(text)

    def call(self, call: ToolCall) -> None:
        self._message("assistant")[1].append(call)

    def result(self, call_id: str, text: str) -> None:
        """Of a call; each one is a message of its own."""
        self._messages.append((RoleStart("tool", tool_call_id=call_id), [text], []))

    @property
    def last_role(self) -> Role | None:
        return self._messages[-1][0].role if self._messages else None

    def parts(self, *, resume: bool = False) -> tuple[PromptPart, ...]:
        """Ends with the open message of the assistant; with `resume` that is the last message,
        if it is the assistant's and has no calls."""
        parts: list[PromptPart] = list(self._tools)
        for start, texts, calls in self._messages:
            text = "\n\n".join(text for text in texts if text)
            parts.append(start)
            if text:
                parts.append(Text(text))
            parts += calls
            parts.append(RoleEnd())
        if resume and self.last_role == "assistant" and not self._messages[-1][2]:
            parts.pop()
        else:
            parts.append(RoleStart("assistant"))
        return tuple(parts)

    def _message(self, role: Role) -> tuple[list[str], list[ToolCall]]:
        if self.last_role != role:
            self._messages.append((RoleStart(role), [], []))
        _, texts, calls = self._messages[-1]
        return texts, calls


class Writer(Protocol):
    """Turns events into the bytes of a stream."""

    def start(self) -> bytes: ...
    def feed(self, event: GenerationEvent) -> bytes: ...


async def written(
    events: AsyncGenerator[GenerationEvent, None], writer: Writer
) -> AsyncGenerator[bytes, None]:
    """The stream's bytes.  Nothing is said before the engine has taken the request: what it
    refuses is a plain error."""
    async with aclosing(events):
        head: Callable[[], bytes] = writer.start
        async for event in events:
            yield head() + writer.feed(event)
            head = bytes


async def drain(said: AsyncGenerator[bytes, None]) -> None:
    """For what its writer has gathered when it ends."""
    async for _ in said:
        pass
