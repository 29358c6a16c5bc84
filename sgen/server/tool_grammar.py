r"""One grammar of all that a job's output may be: reasoning, content, and calls of tools.

How calls are written, on which prompts (runtime/tool_prompts.py), grammar and parser agree:

- "hermes": `<tool_call>\n{"name": "f", "arguments": {...}}\n</tool_call>`; the next call follows on
  the next line.  A model that writes one call bare, or in a fence, as Qwen2.5-Coder does, has made
  it all the same: `{"name": "f", "arguments": {...}}` of a tool that there is.
- "json", for models that were not trained on any form: `[{"name": "f", "arguments": {...}}, ...]`.
- "mistral": `[TOOL_CALLS]` and that list, or a space between the two.
- "llama3": `{"name": "f", "parameters": {...}}`, one call alone; `<|python_tag|>` may stand first.

A model that may call ("auto") writes free text; a marker in it leads to calls, and after the last
one the output ends.  With a grammar of the content there is either content or calls.  Arguments
are always objects that are valid by the tool's schema.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from sgen.errors import GrammarError, InvalidRequestError
from sgen.protocol import GrammarSpec, ModelInfo, ToolDefinition, ToolFormat
from sgen.server.events import Job
from sgen.server.reasoning import behind_reasoning, markers_of

Format = dict[str, Any]
"""A format of a structural tag (see grammars/structural.py)."""

PYTHON_TAG = "<|python_tag|>"

_CLOSING = frozenset(["properties", "required", "type", "title", "description", "$schema", "$defs",
                      "definitions", "$id", "$comment", "examples", "default"])  # fmt: skip
"""Beside no others than these, `properties` are all members that a schema speaks of."""


MANY = 16
"""Tools; so many can each be watched for in a text by name."""


class Markup(msgspec.Struct, frozen=True):
    """A call is `head(name)`, its arguments, and `tail`.  Calls stand between `lead` with what
    the regex `opening` fits, and `end`, with `separator` between two of them."""

    key: str  # of the arguments
    lead: str
    opening: str = ""
    start: str = '{"name": "'
    tail: str = "}"
    separator: str = ""
    end: str = ""
    comma: str = ", "

    def named(self, name: str) -> str:
        """The beginning of a call, up to the end of its name."""
        return self.start + quoted(name)[1:]

    def head(self, name: str) -> str:
        """What stands before a call's arguments."""
        return f'{self.named(name)}{self.comma}"{self.key}": '


MARKUPS: dict[ToolFormat, Markup] = {
    "hermes": Markup("arguments", "<tool_call>", "", '\n{"name": "', "}\n</tool_call>",
                     "\n<tool_call>"),
    "json": Markup("arguments", '[{"name": "', "", "", separator=', {"name": "', end="]"),
    "mistral": Markup("arguments", "[TOOL_CALLS]", r" ?\[", separator=", ", end="]"),
    "llama3": Markup("parameters", ""),
}  # fmt: skip
ALONE: dict[ToolFormat, tuple[Markup, ...]] = {
    "hermes": (
        Markup("arguments", ""),
        Markup("arguments", "", start='```json\n{\n  "name": "', tail="\n}\n```", comma=",\n  "),
    ),
    "llama3": (MARKUPS["llama3"],),
}
"""Forms of a call alone, which are known by the tool's name."""


def quoted(text: str) -> str:
    """A JSON string."""
    return json.dumps(text, ensure_ascii=False)


def callable_tools(job: Job) -> tuple[ToolDefinition, ...]:
    """The tools that the model may call.  InvalidRequestError if there is none of the name that
    was chosen, or none at all where one must be called."""
    choice = job.tool_choice
    if choice.mode == "none":
        return ()
    if choice.mode == "auto" or not choice.name:
        if choice.mode == "required" and not job.tools:
            raise InvalidRequestError("a tool must be called, but there is none", param="tools")
        return job.tools
    found = tuple(tool for tool in job.tools if tool.name == choice.name)
    if not found:
        raise InvalidRequestError(f"there is no tool {choice.name!r}", param="tool_choice")
    return found[:1]


def call_markers(job: Job, info: ModelInfo) -> tuple[str, ...]:
    """The texts that begin calls in a text where they may stand.

    Where content has a grammar they stand at the beginning, and are so long that content, which
    may be JSON too, does not begin so.
    """
    markup, tools = MARKUPS[info.tool_format], callable_tools(job)
    if info.tool_format == "json" and job.grammar is not None:
        return tuple(markup.lead + markup.head(tool.name) for tool in tools)
    lead = markup.lead or PYTHON_TAG
    if job.grammar is not None:
        return (lead,)
    alone = ALONE.get(info.tool_format, ())
    if len(tools) <= MANY:
        return (lead, *(form.named(tool.name) for form in alone for tool in tools))
    return (lead, markup.start) if info.tool_format == "llama3" else (lead,)


def job_grammar(job: Job, info: ModelInfo) -> GrammarSpec | None:
    """The grammar of the whole output; None if any text will do.

    GrammarError for parameters that are no schema of an object, InvalidRequestError for a choice
    of tools that cannot be made.  Nothing is compiled here: whatever of a schema cannot be enforced
    is refused by the engine, with a pointer that begins with `/tools/NAME/parameters`.
    """
    tools = callable_tools(job)
    markers = markers_of(job.prompt, info)
    if tools:
        root = _with_tools(job, info, tools)
    elif job.grammar is None or markers is None:
        return job.grammar
    else:
        root = _content(job.grammar)
    if markers is not None:
        root = behind_reasoning(markers, root)
    source = json.dumps({"type": "structural_tag", "format": root}, ensure_ascii=False)
    return GrammarSpec("structural_tag", source)


def _with_tools(job: Job, info: ModelInfo, tools: Sequence[ToolDefinition]) -> Format:
    markup = MARKUPS[info.tool_format]
    choice = job.tool_choice
    one = not choice.parallel or bool(choice.name) or info.tool_format == "llama3"
    calls = _calls(markup, tools, one=one)
    python_tag: Format = {"type": "const_string", "value": PYTHON_TAG}
    if choice.mode == "required":
        if info.tool_format == "llama3":
            return _sequence({"type": "optional", "content": python_tag}, calls)
        return _sequence({"type": "const_string", "value": markup.lead}, calls)
    if job.grammar is not None:
        lead: Format = {"type": "const_string", "value": markup.lead or PYTHON_TAG}
        call = _sequence(lead, calls)
        return {"type": "or", "elements": [call, _content(job.grammar)]}
    triggers = call_markers(job, info)
    tags = [{"type": "tag", "begin": triggers[0], "content": calls, "end": ""}]
    if len(triggers) > 1:
        alone = ALONE[info.tool_format]
        tags += [_call(form, tool) for form in alone for tool in tools]
    text: Format = {"type": "triggered_tags", "triggers": list(triggers), "tags": tags}
    if info.reasoning is not None:
        text["excludes"] = list(info.reasoning)  # reasoning stands nowhere but before the text
    return text | {"stop_after_first": True}


def _calls(markup: Markup, tools: Sequence[ToolDefinition], *, one: bool) -> Format:
    """One call or several, behind `lead`."""
    calls: Format = {
        "type": "tags_with_separator",
        "tags": [_call(markup, tool) for tool in tools],
        "separator": markup.separator,
        "at_least_one": True,
        "stop_after_first": one,
    }
    before = [{"type": "regex", "pattern": markup.opening}] if markup.opening else []
    behind = [{"type": "const_string", "value": markup.end}] if markup.end else []
    return _sequence(*before, calls, *behind)


def _call(markup: Markup, tool: ToolDefinition) -> Format:
    arguments = GrammarSpec("json_schema", _parameters(tool), whitespace="any")
    content = _spec(arguments, _place(tool))
    return {"type": "tag", "begin": markup.head(tool.name), "content": content, "end": markup.tail}


def _content(grammar: GrammarSpec) -> Format:
    return _spec(grammar, "")


def _spec(spec: GrammarSpec, place: str) -> Format:
    fields: Format = msgspec.to_builtins(spec)
    return {"type": "grammar_spec", "spec": fields, "place": place}


def _sequence(*elements: Format) -> Format:
    return {"type": "sequence", "elements": list(elements)}


def _place(tool: ToolDefinition) -> str:
    return f"/tools/{tool.name.replace('~', '~0').replace('/', '~1')}/parameters"


def _parameters(tool: ToolDefinition) -> str:
    """The schema of a tool's arguments, made to say that they are an object.

    An object of declared members and of nothing else said gets no others: they are all that the
    tool knows, so a model that adds one is wrong.
    """
    try:
        schema = json.loads(tool.parameters)
    except (ValueError, RecursionError) as error:
        raise GrammarError(
            f"the parameters of the tool {tool.name!r} are not JSON: {error}",
            keyword="json",
            pointer=_place(tool),
        ) from None
    if schema is True or schema is None:
        schema = {}
    kinds = schema.get("type", "object") if isinstance(schema, dict) else None
    if kinds != "object" and not (isinstance(kinds, list) and "object" in kinds):
        raise GrammarError(
            f"the parameters of the tool {tool.name!r} are not the schema of an object",
            keyword="type",
            pointer=_place(tool),
        )
    schema = {**schema, "type": "object"}
    properties = schema.get("properties")
    if "$ref" in schema:  # beside which older drafts ignore everything
        schema["allOf"] = [{"$ref": schema.pop("$ref")}, *schema.get("allOf", ())]
    elif isinstance(properties, dict) and schema.keys() <= _CLOSING:
        required = schema.get("required") or ()
        if isinstance(required, list | tuple) and all(name in properties for name in required):
            schema["additionalProperties"] = False
    return json.dumps(schema, ensure_ascii=False)
