"""What a chat template does with tools, system texts and reasoning: found by trying it, once.

A template counts as one that knows tools if it shows a tool, a call and a result, and writes the
call in a form that the server can constrain and read (`ToolFormat`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from sgen.errors import InvalidRequestError
from sgen.protocol import Role, ToolCall, ToolDefinition, ToolFormat
from sgen.runtime.conversation import Message
from sgen.runtime.template import ChatTemplate, Fields
from sgen.runtime.texts import CALL, CLOSE, ESCAPED, OPEN, REASONING, VALUE, Texts
from sgen.runtime.tool_prompts import call_value, result_value, tool_value

THINK = ("<think>", "</think>")

_TOOL = ToolDefinition(
    "probe", "what it does", '{"type": "object", "properties": {"key": {"type": "string"}}}'
)
_CALL = ToolCall("probe", '{"key": "value"}', "probe0000")


@dataclass(frozen=True, slots=True)
class Habits:
    """`tools`: how the template has calls written, None if it does not know tools.  `reasoning`:
    what becomes of it in earlier messages: it is taken as a field, cut out, or left as it is."""

    tools: ToolFormat | None
    one_call: bool  # a message
    system: bool  # it has a system role
    reasoning: Literal["field", "cut", "kept"]
    reasoning_open: bool


def habits_of(template: ChatTemplate) -> Habits:
    tools = _tool_format(template)
    return Habits(
        tools=tools,
        one_call=tools is not None and not _text_of_calls(template, 2),
        system=_accepts(template, "system", "user"),
        reasoning=_reasoning(template),
        reasoning_open=_opens_reasoning(template),
    )


def _accepts(template: ChatTemplate, *roles: Role) -> bool:
    try:
        template.render(roles, prompt=True)
    except InvalidRequestError:
        return False
    return True


# --- tools ---------------------------------------------------------------------------------------


def _text_of_calls(template: ChatTemplate, number: int) -> str:
    """A conversation with so many calls at once, each with its result; "" if it is refused."""
    texts = Texts()
    calls = [ToolCall(_CALL.name, _CALL.arguments, f"probe{i:04}") for i in range(number)]
    results = [Message("tool", call_id=c.id, tool=c.name, closed=True) for c in calls]
    roles: list[Role] = ["user", "assistant", *(m.role for m in results)]
    values = [call_value(c, texts) for c in calls]
    fields: list[Fields] = [{}, {"content": "", "tool_calls": values}]
    fields += [result_value(m, texts) for m in results]
    try:
        text = template.render(
            roles, prompt=False, fields=fields, tools=[tool_value(_TOOL, texts)]
        ).replace(ESCAPED, "")
    except InvalidRequestError:
        return ""
    needed = [_TOOL.description, "key", "value"]
    is_shown = all(texts.placeholder(VALUE, word, "") in text for word in needed)
    return text if is_shown and text.count(_name(texts)) == number else ""


def _name(texts: Texts) -> str:
    return texts.placeholder(CALL, _CALL.name, "")


def _tool_format(template: ChatTemplate) -> ToolFormat | None:
    before, _, behind = _text_of_calls(template, 1).partition(_name(Texts()))
    tail = before[-200:]
    element = tail.rpartition("<tool_call>")[2] if "<tool_call>" in tail else None
    if element is not None and "</tool_call>" not in element:
        call = element + behind.partition("</tool_call>")[0]
        return "hermes" if re.search('"name"', call) and re.search('"arguments"', call) else None
    if not re.search(r'\{\s*"name"\s*:\s*"$', before):
        return None
    key = re.match(r'"\s*,\s*"(arguments|parameters)"\s*:\s*\{', behind)
    if key is None:
        return None
    if key[1] == "parameters":
        return "llama3"
    return "mistral" if re.search(r"\[TOOL_CALLS\]\s*\[\s*\{[^{]*$", before) else None


# --- reasoning -----------------------------------------------------------------------------------


def _reasoning(template: ChatTemplate) -> Literal["field", "cut", "kept"]:
    """Tried with an answer that nobody replied to yet, and with one that somebody did."""
    if THINK[1] not in template.source:
        return "kept"
    hidden = Texts().placeholder(REASONING, "why", "")
    try:
        text = template.render(
            ("user", "assistant"), prompt=False, fields=[{}, {"reasoning_content": hidden}]
        )
        if hidden in text:
            return "field"
        content = "<think>\nwhy\n</think>\n\n"
        text = template.render(
            ("user", "assistant", "user"),
            prompt=True,
            fields=[{}, {"content": f"{content}{OPEN}1{CLOSE}"}, {}],
        )
    except InvalidRequestError:
        return "kept"
    return "kept" if "why" in text else "cut"


def _opens_reasoning(template: ChatTemplate) -> bool:
    try:
        text = template.render(("user",), prompt=True)
    except InvalidRequestError:
        return False
    return text.rstrip().endswith(THINK[0])
