"""Tools, calls and results as a model is shown them: as data of its template, or as plain text.

A template that has a place for tools gets what transformers would pass, with placeholders for
texts.  For any other, `as_plain` writes a conversation of system, user and assistant alone: the
tools are in the system message, a call is the JSON list that the system message asks for, and
results are what a user says.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sgen.errors import InvalidRequestError
from sgen.protocol import Text, ToolCall, ToolDefinition
from sgen.runtime.conversation import Conversation, Message
from sgen.runtime.texts import CALL, ID, VALUE, Texts, check_unicode, read_object

_HEAD = "You have these tools, each with the JSON Schema of its arguments:\n"
_HOW = (
    "\nTo use tools, answer with a JSON list of calls and nothing else:\n"
    '[{"name": "the tool\'s name", "arguments": {"argument": "value"}}]\n'
    "The user's next message has the results."
)


# --- for a template that knows tools -------------------------------------------------------------


def tool_value(tool: ToolDefinition, texts: Texts) -> dict[str, Any]:
    """A definition as transformers passes it; InvalidRequestError names the tool if its schema
    is no JSON object."""
    where = f"tool {tool.name!r}"
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": _schema(tool),
    }
    return {"type": "function", "function": texts.hide(function, where)}


def call_value(call: ToolCall, texts: Texts, *, short_id: bool = False) -> dict[str, Any]:
    """A call as transformers passes it, with its arguments as an object."""
    where = f"the call of {call.name!r}"
    function = {
        "name": texts.placeholder(CALL, call.name, where),
        "arguments": texts.hide(_arguments(call), where),
    }
    return {
        "id": id_value(call.id, texts, short=short_id),
        "type": "function",
        "function": function,
    }


def id_value(call_id: str, texts: Texts, *, short: bool) -> str:
    """An id; `short`: of nine letters and digits, as Mistral's models know them."""
    if short and not (len(call_id) == 9 and call_id.isascii() and call_id.isalnum()):
        call_id = hashlib.blake2b(call_id.encode(errors="replace")).hexdigest()[:9]
    return texts.placeholder(ID, call_id, "the id of a call")


def result_value(message: Message, texts: Texts, *, short_id: bool = False) -> dict[str, Any]:
    """What a message of role "tool" has beside its content."""
    fields = {"tool_call_id": id_value(message.call_id, texts, short=short_id)}
    if message.tool:
        fields["name"] = texts.placeholder(VALUE, message.tool, "the name of a tool")
    return fields


def one_call_each(messages: Sequence[Message]) -> list[Message]:
    """For templates that take one call a message: calls side by side as one after the other, each
    with its result."""
    out: list[Message] = []
    owner: dict[str, Message] = {}
    for message in messages:
        if message.role == "tool" and message.call_id in owner and not message.before:
            at = next(i for i, m in enumerate(out) if m is owner[message.call_id])
            out.insert(at + 1, message)
            continue
        out.append(message if len(message.calls) < 2 else replace(message, calls=message.calls[:1]))
        out += [Message("assistant", calls=[c], closed=True) for c in message.calls[1:]]
        if message.calls:
            owner = {m.calls[0].id: m for m in out[-len(message.calls) :]}
    return out


# --- for any other -------------------------------------------------------------------------------


def as_plain(conversation: Conversation) -> Conversation:
    """The same conversation without tools, calls and results of their own kind."""
    messages: list[Message] = []
    behind_result = False
    for message in conversation.messages:
        is_result = message.role == "tool"
        plain = _plain_message(message)
        if behind_result and plain.role == "user" and not message.before:
            # One message for results and what follows: two users in a row are refused by many.
            last = messages[-1]
            joined = [*last.content, Text("\n\n"), *plain.content]
            messages[-1] = replace(last, content=joined, closed=plain.closed)
        else:
            messages.append(plain)
        behind_result = plain.role == "user" and (is_result or behind_result)
    if conversation.tools:
        _tell(messages, tools_text(conversation.tools))
    return Conversation([], messages, conversation.after)


def _plain_message(message: Message) -> Message:
    if message.role == "tool":
        head = f"Result of {message.tool}:\n" if message.tool else "Result:\n"
        return replace(message, role="user", content=[Text(head), *message.content])
    if not message.calls:
        return message
    calls = ", ".join(map(_call_text, message.calls))
    between = [Text("\n")] if message.content else []
    return replace(message, content=[*message.content, *between, Text(f"[{calls}]")], calls=[])


def _call_text(call: ToolCall) -> str:
    _arguments(call)
    check_unicode(call.name, "the name of a call")
    name = json.dumps(call.name, ensure_ascii=False)
    return f'{{"name": {name}, "arguments": {call.arguments.strip() or "{}"}}}'


def tools_text(tools: Sequence[ToolDefinition]) -> str:
    """What a system message says of the tools and of how to call them."""
    lines = []
    for tool in tools:
        description = f": {tool.description}" if tool.description else ""
        schema = json.dumps(_schema(tool), ensure_ascii=False)
        check_unicode(tool.name + description, f"tool {tool.name!r}")
        lines.append(f"- {tool.name}{description}\n  {schema}\n")
    return _HEAD + "".join(lines) + _HOW


def _tell(messages: list[Message], text: str) -> None:
    """Put a text into the system message, behind its own."""
    first = messages[0]
    if first.role == "system" and first.closed:
        between = [Text("\n\n")] if first.content else []
        messages[0] = replace(first, content=[*first.content, *between, Text(text)])
    else:
        messages[0] = replace(first, before=[])
        messages.insert(0, Message("system", [Text(text)], before=first.before, closed=True))


def without_system(messages: Sequence[Message]) -> list[Message]:
    """For templates without a system role: its text stands before the first user's."""
    leading = 0
    while leading < len(messages) and messages[leading].role == "system":
        leading += 1
    if not leading or not all(m.closed for m in messages[:leading]):
        return list(messages)
    head, rest = messages[:leading], list(messages[leading:])
    if any(m.before for m in [*head[1:], *rest[:1]]):
        raise InvalidRequestError(
            "the model's chat template has no system role, hence no place for text behind it",
            param="prompt",
            hint="put the text into a role",
        )
    content = [p for m in head for p in [*m.content, Text("\n\n")]]
    if rest and rest[0].role == "user":
        rest[0] = replace(rest[0], content=[*content, *rest[0].content], before=head[0].before)
        return rest
    return [Message("user", content[:-1], before=head[0].before, closed=True), *rest]


def _schema(tool: ToolDefinition) -> dict[str, Any]:
    schema = read_object(tool.parameters, f"the parameters of tool {tool.name!r}")
    return schema or {"type": "object", "properties": {}}


def _arguments(call: ToolCall) -> dict[str, Any]:
    return read_object(call.arguments.strip() or "{}", f"the arguments of a call of {call.name!r}")
