"""Grammars of whole outputs: calls in each form, in text, with reasoning and with content."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sgen.errors import GrammarError, InvalidRequestError
from sgen.grammars.compile import compile_grammar
from sgen.grammars.grammar import Grammar
from sgen.protocol import (
    GrammarSpec,
    ModelInfo,
    PromptPart,
    RoleStart,
    SamplingParams,
    Text,
    ToolDefinition,
    ToolFormat,
)
from sgen.server.events import Job, ToolChoice
from sgen.server.tool_grammar import job_grammar
from tests.front_ends import check_means

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FORMATS: tuple[ToolFormat, ...] = ("hermes", "json", "mistral", "llama3")


def tool(name: str, schema: object) -> ToolDefinition:
    return ToolDefinition(name, "", json.dumps(schema))


WEATHER, TIME = tool("weather", CITY), tool("time", {})


def info_of(form: ToolFormat = "hermes", **members: Any) -> ModelInfo:
    return ModelInfo(
        name="m",
        context_length=4096,
        vocab_size=256,
        has_chat_template=True,
        tool_format=form,
        **members,
    )


def job_of(mode: Any = "auto", **members: Any) -> Job:
    name, parallel = members.pop("name", ""), members.pop("parallel", True)
    defaults: dict[str, Any] = {
        "prompt": (RoleStart("assistant"),),
        "params": SamplingParams(),
        "tools": (WEATHER, TIME),
        "tool_choice": ToolChoice(mode, name, parallel),
    }
    return Job(id="x", **(defaults | members))


def grammar_of(job: Job, info: ModelInfo | None = None) -> Grammar:
    spec = job_grammar(job, info or info_of())
    assert spec is not None
    return compile_grammar(spec)


def calls(form: ToolFormat, *pairs: tuple[str, str]) -> str:
    """Calls as a model of that form writes them."""
    key = "parameters" if form == "llama3" else "arguments"
    texts = [f'{{"name": "{name}", "{key}": {arguments}}}' for name, arguments in pairs]
    if form == "mistral":
        return f"[TOOL_CALLS][{', '.join(texts)}]"
    if form == "json":
        return f"[{', '.join(texts)}]"
    if form == "llama3":
        return "; ".join(texts)
    return "\n".join(f"<tool_call>\n{text}\n</tool_call>" for text in texts)


A, B = ("weather", '{"city": "Köln"}'), ("time", '{"x":[1]}')
WRONG = ("weather", '{"city": 5}'), ("weather", "{}"), ("whether", "{}"), ("time", "[]")


@pytest.mark.parametrize("form", FORMATS)
def test_required(form: ToolFormat) -> None:
    grammar = grammar_of(job_of("required"), info_of(form))
    two = calls(form, A, B)
    yes, no = [calls(form, A), calls(form, B)], ["", "x", f"x{calls(form, A)}", calls(form, A)[:-1]]
    no += [calls(form, wrong) for wrong in WRONG] + [calls(form, A) + " and so on"]
    (no if form == "llama3" else yes).append(two)
    check_means(grammar, yes, no)
    single = grammar_of(job_of("required", parallel=False), info_of(form))
    check_means(single, [calls(form, A)], [two])
    named = grammar_of(job_of("required", name="time"), info_of(form))
    check_means(named, [calls(form, B)], [calls(form, A), calls(form, B, B)])


@pytest.mark.parametrize("form", FORMATS)
def test_auto(form: ToolFormat) -> None:
    grammar = grammar_of(job_of(), info_of(form))
    call = calls(form, A)
    yes = ["", "Hello < [", call, f"Let me see.\n{call}", '{"name": "Bob"}', '{"a":1}']
    no = [f"x {calls(form, wrong)}" for wrong in WRONG if wrong[0] != "whether"]
    check_means(grammar, yes, [*no, call + "x", call[:-1]])


def test_optional_marks() -> None:
    check_means(
        grammar_of(job_of("required"), info_of("llama3")),
        ["<|python_tag|>" + calls("llama3", A)],
        ["<|python_tag|>"],
    )
    check_means(
        grammar_of(job_of(), info_of("llama3")), ["So: <|python_tag|>" + calls("llama3", A)], []
    )
    spaced = calls("mistral", A, B).replace("[TOOL_CALLS][", "[TOOL_CALLS] [")
    check_means(grammar_of(job_of("required"), info_of("mistral")), [spaced], [])


def test_without_tools() -> None:
    content = GrammarSpec("regex", "[0-9]+")
    info = info_of(reasoning=("<think>", "</think>"))
    assert job_grammar(job_of(tools=()), info) is None
    assert job_grammar(job_of("none"), info) is None
    assert job_grammar(job_of("none", grammar=content), info_of()) == content
    prefix: tuple[PromptPart, ...] = (RoleStart("assistant"), Text("The answer:"))
    assert job_grammar(job_of("none", grammar=content, prompt=prefix), info) == content


@pytest.mark.parametrize("form", FORMATS)
def test_content_by_a_grammar_or_calls(form: ToolFormat) -> None:
    content = GrammarSpec("json_schema", '{"type":"object","maxProperties":1}')
    grammar = grammar_of(job_of(grammar=content), info_of(form))
    call = ("<|python_tag|>" if form == "llama3" else "") + calls(form, A)
    check_means(grammar, [call, "{}", '{"a":1}'], ["", "x", '{"a": 1}', f"x{call}"])


@pytest.mark.parametrize("kind", ["choices", "lark", "gbnf", "structural_tag"])
def test_every_kind_of_content(kind: Any) -> None:
    sources = {
        "choices": '["yes","no"]',
        "lark": 'start: "yes"',
        "gbnf": 'root ::= "yes"',
        "structural_tag": '{"format":{"type":"const_string","value":"yes"}}',
    }
    grammar = grammar_of(job_of(grammar=GrammarSpec(kind, sources[kind])))
    check_means(grammar, ["yes", calls("hermes", A)], ["maybe"])


@pytest.mark.parametrize("form", FORMATS)
def test_behind_reasoning(form: ToolFormat) -> None:
    call, number = calls(form, A), GrammarSpec("regex", "[0-9]+")
    closed = info_of(form, reasoning=("<think>", "</think>"))
    opened = info_of(form, reasoning=("<think>", "</think>"), reasoning_open=True)
    thought = f"I might {call} or\n</think>\n\n"
    for info, before in ((closed, "<think>" + thought), (opened, thought)):
        must = grammar_of(job_of("required"), info)
        check_means(must, [before + call], [before + "12", before])
        text = grammar_of(job_of(), info)
        check_means(text, [before + call, before + "12"], [f"{before}{calls(form, WRONG[0])}"])
        content = grammar_of(job_of("none", grammar=number), info)
        check_means(content, [before + "12"], [before + call, before + "x"])
    check_means(grammar_of(job_of("required"), closed), [call], ["<think>x"])
    check_means(grammar_of(job_of("required"), opened), [], [call])


@pytest.mark.parametrize(
    ("parameters", "yes", "no"),
    [
        ({}, ["{}", '{"a":[]}'], ["[]"]),
        (True, ["{}"], ["1"]),
        ({"properties": {"a": {"type": "null"}}}, ["{}", '{"a":null}'], ['{"b":1}', "null"]),
        (
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "$ref": "#/definitions/x",
                "definitions": {"x": {"required": ["a"]}},
            },
            ['{"a":1}', '{"a":1,"b":2}'],
            ["{}", "1"],
        ),
        ({"type": ["object", "null"]}, ["{}"], ["null"]),
        ({"properties": {"a": {}}, "required": ["b"]}, ['{"b":1}', '{"a":1,"b":1,"c":1}'], ["{}"]),
        ({"properties": {"a": {}}, "additionalProperties": True}, ['{"b":1}'], ["1"]),
    ],
)
def test_parameters(parameters: object, yes: list[str], no: list[str]) -> None:
    job = job_of("required", tools=(tool("f", parameters),))
    texts = [[calls("hermes", ("f", arguments)) for arguments in side] for side in (yes, no)]
    check_means(grammar_of(job), *texts)


@pytest.mark.parametrize(
    ("parameters", "keyword", "pointer"),
    [
        ('{"type":"string"}', "type", "/tools/a~1b/parameters"),
        ("[]", "type", "/tools/a~1b/parameters"),
        ("{", "json", "/tools/a~1b/parameters"),
        (
            '{"properties":{"x":{"colour":1}}}',
            "colour",
            "/tools/a~1b/parameters/properties/x/colour",
        ),
        ('{"properties":{"x":5}}', None, "/tools/a~1b/parameters/properties/x"),
    ],
)
def test_refused_parameters_name_the_tool(
    parameters: str, keyword: str | None, pointer: str
) -> None:
    with pytest.raises(GrammarError) as caught:
        grammar_of(job_of(tools=(WEATHER, ToolDefinition("a/b", "", parameters))))
    assert caught.value.pointer == pointer
    assert keyword is None or caught.value.keyword == keyword


def test_refused_content_has_its_own_pointer() -> None:
    with pytest.raises(GrammarError) as caught:
        grammar_of(job_of(grammar=GrammarSpec("json_schema", '{"items":5}')))
    assert caught.value.pointer == "/items"


def test_choices_that_cannot_be_made() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        job_grammar(job_of("required", name="nothing"), info_of())
    assert caught.value.param == "tool_choice"
    with pytest.raises(InvalidRequestError):
        job_grammar(job_of("required", tools=()), info_of())


def test_many_tools_with_long_names() -> None:
    tools = tuple(tool(f"{i:03}_" + "n" * 60, {"properties": {"a": {}}}) for i in range(128))
    for form in FORMATS:
        grammar = grammar_of(job_of(tools=tools), info_of(form))
        check_means(grammar, ["So. " + calls(form, (tools[-1].name, '{"a":1}'))], [])
