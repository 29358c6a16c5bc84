"""The parts of a prompt as messages: who says what, which tools there are, what was called.

After `read`, each result knows the name of its tool and each call has an id; calls stand only in
finished messages of the assistant, behind their text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from sgen.errors import InvalidRequestError
from sgen.protocol import (
    PromptPart,
    Role,
    RoleEnd,
    RoleStart,
    Text,
    Tokens,
    ToolCall,
    ToolDefinition,
)

Content = list[Text | Tokens]


@dataclass(slots=True)
class Message:
    role: Role
    content: Content = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    before: Content = field(default_factory=list)  # text between the last message and this one
    closed: bool = False
    call_id: str = ""  # of role "tool": which call this is the result of
    tool: str = ""  # and of which tool; "" where nobody knows


@dataclass(slots=True)
class Conversation:
    tools: list[ToolDefinition] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    after: Content = field(default_factory=list)  # text behind the last message


def read(parts: Sequence[PromptPart]) -> Conversation:
    """InvalidRequestError if the roles make no sense, or a tool or a call is out of place."""
    conversation = Conversation()
    messages = conversation.messages
    for part in parts:
        message = messages[-1] if messages and not messages[-1].closed else None
        match part:
            case RoleStart(role):
                if message is not None:
                    _fail(f"role {role!r} starts inside role {message.role!r}")
                before, conversation.after = conversation.after, []
                messages.append(Message(role, before=before, call_id=part.tool_call_id))
            case RoleEnd():
                if message is None:
                    _fail("a role ends that did not start")
                message.closed = True
            case ToolDefinition():
                if messages:
                    _fail(f"tool {part.name!r} is defined behind the first message")
                conversation.tools.append(part)
            case ToolCall():
                if message is None or message.role != "assistant":
                    _fail(f"the call of {part.name!r} is in no message of the assistant")
                message.calls.append(part)
            case Text() | Tokens():
                if message is None:
                    conversation.after.append(part)
                elif message.calls:
                    _fail("text stands behind a call in the same message")
                else:
                    message.content.append(part)
    _check_end(conversation)
    _link(messages)
    return conversation


def _fail(message: str) -> NoReturn:
    raise InvalidRequestError(message, param="prompt")


def _check_end(conversation: Conversation) -> None:
    messages = conversation.messages
    if conversation.tools and not messages:
        _fail("tools are defined, but there is no message")
    if messages and messages[-1].calls and not messages[-1].closed:
        _fail("a message with calls is finished: end its role")


def _link(messages: Sequence[Message]) -> None:
    """Calls without an id get one; a result without one is that of the next call still open."""
    names: dict[str, str] = {}
    waiting: deque[str] = deque()
    for message in messages:
        for i, call in enumerate(message.calls):
            if not call.id:
                call = message.calls[i] = ToolCall(call.name, call.arguments, f"call_{len(names)}")
            names[call.id] = call.name
            waiting.append(call.id)
        if message.role == "tool":
            if not message.call_id and waiting:
                message.call_id = waiting[0]
            if message.call_id in waiting:
                waiting.remove(message.call_id)
            message.tool = names.get(message.call_id, "")
