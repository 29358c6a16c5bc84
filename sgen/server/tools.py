"""What every interface asks of its tools, and of the choice among them."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import msgspec

from sgen.protocol import ToolDefinition
from sgen.server.errors import APIError
from sgen.server.events import ToolChoice, ToolMode
from sgen.server.formats import check_count, schema_text
from sgen.server.settings import Limits

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_MODES: dict[str, ToolMode] = {
    "none": "none",
    "auto": "auto",
    "required": "required",
    "any": "required",
}

Tools = tuple[ToolDefinition, ...]


class GivenTool(msgspec.Struct, frozen=True):
    """A function as it was sent.  `schema` is JSON text (none and null are any object); `place` is
    where its name stands in the body, and its schema under `key`."""

    name: str
    description: str | None
    schema: bytes
    place: str
    key: str = "parameters"


def define_tools(given: Sequence[GivenTool], limits: Limits) -> Tools:
    """APIError 400 for too many tools, for names that no model could write or that two have, and
    for schemas past the limits."""
    check_count("tools", len(given), limits.tools)
    size = sum(len(tool.schema) for tool in given)
    if size > limits.tools_bytes:
        message = (
            f"the schemas of the tools have {size:,} bytes together, and at most "
            f"{limits.tools_bytes:,} are allowed"
        )
        raise APIError(400, message, param="tools", code="schema_too_large")
    tools: dict[str, ToolDefinition] = {}
    for tool in given:
        if _NAME.fullmatch(tool.name) is None:
            message = f"{tool.name[:80]!r} is no tool's name: 1 to 128 letters, digits and _ . : -"
            raise _wrong(message, f"{tool.place}.name")
        if tool.name in tools:
            raise _wrong(f"two tools are named {tool.name!r}", f"{tool.place}.name")
        schema = tool.schema if tool.schema not in (b"", b"null") else b"{}"
        text = schema_text(schema, f"{tool.place}.{tool.key}", limits)
        tools[tool.name] = ToolDefinition(tool.name, tool.description or "", text)
    return tuple(tools.values())


def choose(
    mode: str, tools: Tools, *, name: str | None = None, parallel: bool = True
) -> ToolChoice:
    """APIError 400 for a mode that nobody knows, and for a name that no tool has.  Without tools
    none is required: some clients always ask for one."""
    if name is not None:
        only(tools, {name})
    known = _MODES.get(mode)
    if known is None:
        raise _wrong(f"tool_choice {mode[:80]!r} is not known", "tool_choice")
    return (
        ToolChoice(known, name or "", parallel) if tools and known != "none" else ToolChoice("none")
    )


def only(tools: Tools, names: Collection[str]) -> Tools:
    """Those of these names; APIError 400 where one is missing."""
    for name in sorted(set(names) - {tool.name for tool in tools}):
        raise _wrong(f"tool_choice names {name[:80]!r}, not one of the tools", "tool_choice")
    return tuple(tool for tool in tools if tool.name in names)


def call_arguments(text: bytes, param: str) -> str:
    """Those of an earlier call, an object as JSON text; it may stand in a JSON string.  An empty
    text stands for an empty one, as some models write it.  APIError 400 for anything else."""
    try:
        if text.lstrip()[:1] == b'"':
            text = msgspec.json.decode(text, type=str).encode()
        text = text.strip() or b"{}"
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _wrong(f"the arguments of a call are not JSON: {error}", param) from None
    if not isinstance(value, dict):
        raise _wrong("the arguments of a call are a JSON object", param)
    return text.decode()


def _wrong(message: str, param: str) -> APIError:
    return APIError(400, message, param=param, code="invalid_value")
