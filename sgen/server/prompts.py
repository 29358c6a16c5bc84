"""From the messages and tools of a chat to the parts of a prompt.

Texts of a message's parts are joined.  A developer is the system; names of speakers and refusals
mean nothing to a template, and are left out.
"""

from __future__ import annotations

from sgen.protocol import PromptPart, Role, RoleEnd, RoleStart, Text, ToolCall
from sgen.server.errors import APIError
from sgen.server.events import ToolChoice
from sgen.server.settings import Limits
from sgen.server.tools import GivenTool, Tools, call_arguments, choose, define_tools, only
from sgen.server.wire_chat import ChatMessage, ChatRequest, ChatTool, MessageCall

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


def prompt_of(body: ChatRequest, tools: Tools) -> tuple[PromptPart, ...]:
    """Ends with the open message of the assistant; APIError 400 names the message at fault."""
    if not body.messages:
        raise _wrong("there must be at least one message", "messages")
    parts: list[PromptPart] = list(tools)
    for i, message in enumerate(body.messages):
        parts += _message(message, f"messages.{i}")
    if body.continue_final_message:
        last = body.messages[-1]
        if last.role != "assistant" or last.tool_calls:
            raise _wrong("only a text of the assistant can be continued", "continue_final_message")
        parts.pop()
    elif body.add_generation_prompt is not False:
        parts.append(RoleStart("assistant"))
    return tuple(parts)


def tools_of(given: list[ChatTool], limits: Limits) -> Tools:
    """APIError 400 for what is no function, or not one that can be called."""
    functions: list[GivenTool] = []
    for i, tool in enumerate(given):
        function = tool.function
        if tool.type != "function" or function is None:
            raise _wrong(f"a tool is a function here, not {tool.type[:80]!r}", f"tools.{i}.type")
        schema, place = bytes(function.parameters), f"tools.{i}.function"
        functions.append(GivenTool(function.name, function.description, schema, place))
    return define_tools(functions, limits)


def chosen_tools(body: ChatRequest, tools: Tools) -> tuple[ToolChoice, Tools]:
    """How to choose, and from which."""
    given = body.tool_choice or "auto"
    parallel = body.parallel_tool_calls is not False
    if isinstance(given, str):
        return choose(given, tools, parallel=parallel), tools
    if given.type == "function" and given.function is not None:
        return choose("required", tools, name=given.function.name, parallel=parallel), tools
    if given.type == "allowed_tools" and given.allowed_tools is not None:
        allowed = given.allowed_tools
        tools = only(tools, {tool.function.name for tool in allowed.tools if tool.function})
        return choose(allowed.mode, tools, parallel=parallel), tools
    raise _wrong(f"tool_choice of type {given.type[:80]!r} is not known", "tool_choice")


def _message(message: ChatMessage, place: str) -> list[PromptPart]:
    role = _ROLES.get(message.role)
    if role is None:
        known = ", ".join(_ROLES)
        raise _wrong(f"there is no role {message.role[:80]!r}; roles: {known}", f"{place}.role")
    if message.tool_calls and role != "assistant":
        raise _wrong("only the assistant calls tools", f"{place}.tool_calls")
    if message.content is None and role != "assistant":
        raise _wrong(f"a message of role {role!r} needs content", f"{place}.content")
    text = _content(message, place)
    parts: list[PromptPart] = [RoleStart(role, message.tool_call_id or "")]
    if text:
        parts.append(Text(text))
    for i, call in enumerate(message.tool_calls or ()):
        parts.append(_call(call, f"{place}.tool_calls.{i}"))
    parts.append(RoleEnd())
    return parts


def _content(message: ChatMessage, place: str) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    texts: list[str] = []
    for i, part in enumerate(message.content):
        if part.type == "text" and part.text is not None:
            texts.append(part.text)
        elif part.type != "refusal":
            text = f"a part of type {part.type[:80]!r} cannot be read: the model takes text only"
            raise _wrong(text, f"{place}.content.{i}.type")
    return "".join(texts)


def _call(call: MessageCall, place: str) -> ToolCall:
    text = call_arguments(bytes(call.function.arguments), f"{place}.function.arguments")
    return ToolCall(call.function.name, text, call.id or "")


def _wrong(message: str, param: str) -> APIError:
    return APIError(400, message, param=param, code="invalid_value")
