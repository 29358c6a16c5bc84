"""Prompts with tools: as transformers renders them, as plain text elsewhere, and safe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_templates import GEMMA, HERMES, LLAMA3, MISTRAL, PLAIN, SPECIAL, byte_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from sgen.errors import InvalidRequestError
from sgen.protocol import PromptPart, RoleEnd, RoleStart, Text, Tokens, ToolCall, ToolDefinition
from sgen.runtime.chat import PromptEncoder
from sgen.runtime.gguf import GGUFFile
from sgen.runtime.tokenizer import Tokenizer, tokenizer_from_gguf

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": 'a "city", é\n'},
        "days": {"enum": [1]},
    },
    "required": ["city"],
}
WEATHER = ToolDefinition("get_weather", "Weather of a city", json.dumps(SCHEMA))
SHAPES = {"plain": PLAIN, "hermes": HERMES, "llama3": LLAMA3, "mistral": MISTRAL, "gemma": GEMMA}


def said(role: Any, text: str, *calls: ToolCall, call_id: str = "") -> list[PromptPart]:
    content = [Text(text)] if text else []
    return [RoleStart(role, call_id), *content, *calls, RoleEnd()]


ASKED = [WEATHER, *said("user", "Rain?")]
CALLED = [*ASKED, *said("assistant", "", ToolCall("get_weather", '{"city":"Rom"}', "abcdefghi"))]
ANSWERED = [*CALLED, *said("tool", "dry", call_id="abcdefghi"), RoleStart("assistant")]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PromptEncoder]:
    return {
        name: PromptEncoder(byte_tokenizer(tmp_path_factory.mktemp(name), source))
        for name, source in SHAPES.items()
    }


@pytest.fixture(scope="module")
def qwen(qwen_path: Path) -> Tokenizer:
    with GGUFFile.open(qwen_path) as file:
        return tokenizer_from_gguf(file.metadata, 151936, "qwen.gguf")


# --- templates that know tools -------------------------------------------------------------------


def test_qwen_equals_transformers(qwen: Tokenizer, qwen_path: Path) -> None:
    from transformers import AutoTokenizer

    oracle = AutoTokenizer.from_pretrained(qwen_path.parent, gguf_file=qwen_path.name)
    parts = [WEATHER, *said("system", "Be brief."), *ANSWERED[1:]]
    function = {"name": "get_weather", "description": WEATHER.description, "parameters": SCHEMA}
    call = {"name": "get_weather", "arguments": {"city": "Rom"}}
    want = oracle.apply_chat_template(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Rain?"},
            {"role": "assistant", "content": "", "tool_calls": [{"function": call}]},
            {"role": "tool", "content": "dry"},
        ],
        tools=[{"type": "function", "function": function}],
        add_generation_prompt=True,
        tokenize=False,
    )
    encoder = PromptEncoder(qwen)
    assert encoder.tool_format == "hermes"
    assert encoder.render(parts) == want
    assert encoder.encode(parts) == oracle.encode(want, add_special_tokens=False)


def test_formats_are_found_by_trying(encoders: dict[str, PromptEncoder]) -> None:
    found = {name: encoder.tool_format for name, encoder in encoders.items()}
    known = {"hermes": "hermes", "llama3": "llama3", "mistral": "mistral"}
    assert found == {"plain": "json", "gemma": "json"} | known
    assert all(encoder.reasoning is None for encoder in encoders.values())


@pytest.mark.parametrize("name", SHAPES)
def test_every_model_sees_tools_calls_and_results(
    name: str, encoders: dict[str, PromptEncoder]
) -> None:
    text = encoders[name].render(ANSWERED)
    packed = "".join(text.split())
    for word in ("get_weather", "Weatherofacity", '"required":["city"]', r"a\"city\",é\n"):
        assert word in packed
    assert text.index("Rain?") < text.rindex("Rom") < text.rindex("dry")


def test_several_calls_come_one_by_one_where_the_template_takes_one(
    encoders: dict[str, PromptEncoder],
) -> None:
    calls = [ToolCall("get_weather", json.dumps({"city": c}), c) for c in ("Rom", "Oslo")]
    results = [*said("tool", "cold", call_id="Oslo"), *said("tool", "dry", call_id="Rom")]
    parts = [*ASKED, *said("assistant", "", *calls), *results, RoleStart("assistant")]
    text = encoders["llama3"].render(parts)
    places = [text.index(f'"{word}"') for word in ("Rom", "dry", "Oslo", "cold")]
    assert places == sorted(places)
    text = encoders["hermes"].render(parts)
    places = [text.index(word) for word in ("Rom", "Oslo", "cold", "dry")]
    assert places == sorted(places)


def test_ids_for_mistral_have_nine_characters(encoders: dict[str, PromptEncoder]) -> None:
    parts = [*ASKED, *said("assistant", "", ToolCall("get_weather", "{}", "call_1-long"))]
    text = encoders["mistral"].render([*parts, *said("tool", "dry", call_id="call_1-long")])
    made = text.partition('"id": "')[2].partition('"')[0]
    assert (len(made), made.isalnum(), text.count(made)) == (9, True, 2)
    assert encoders["mistral"].render(ANSWERED).count("abcdefghi") == 2


def test_a_tool_that_the_template_hides_is_refused(encoders: dict[str, PromptEncoder]) -> None:
    with pytest.raises(InvalidRequestError, match="does not show tool 'get_weather'"):
        encoders["mistral"].encode([WEATHER, *said("assistant", "Hello")])


# --- templates that do not -----------------------------------------------------------------------


def test_tools_join_the_system_message(encoders: dict[str, PromptEncoder]) -> None:
    parts = [WEATHER, *said("system", "Be brief."), *said("user", "Rain?")]
    text = encoders["plain"].render(parts)
    assert text.startswith("<|im_start|>system\nBe brief.\n\nYou have these tools")
    assert encoders["plain"].render(ASKED).startswith("<|im_start|>system\nYou have these tools")
    assert encoders["gemma"].render(parts).startswith("<|im_start|>user\nBe brief.\n\nYou have")


def test_results_and_what_follows_are_one_users_message(encoders: dict[str, PromptEncoder]) -> None:
    closed = [*ANSWERED[:-1], *said("tool", "16 degrees"), *said("user", "Thanks!")]
    text = encoders["gemma"].render([*closed, RoleStart("assistant")])
    want = "user\nResult of get_weather:\ndry\n\nResult:\n16 degrees\n\nThanks!<|im_end|>\n"
    assert want in text
    assert '[{"name": "get_weather", "arguments": {"city":"Rom"}}]<|im_end|>' in text


def test_a_system_text_goes_to_the_first_user_where_there_is_no_such_role(
    encoders: dict[str, PromptEncoder],
) -> None:
    parts = [*said("system", "Be brief."), *said("user", "Hi")]
    assert encoders["gemma"].render(parts) == "<|im_start|>user\nBe brief.\n\nHi<|im_end|>\n"
    with pytest.raises(InvalidRequestError, match="refuses"):
        encoders["gemma"].render([*parts, *said("system", "More.")])
    with pytest.raises(InvalidRequestError, match="refuses"):
        encoders["gemma"].render([*parts, *said("user", "Hi")])
    with pytest.raises(InvalidRequestError, match="no system role"):
        encoders["gemma"].render([*parts[:3], Text("between"), *parts[3:]])


# --- both ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "hermes", "llama3"])
def test_a_longer_conversation_keeps_its_prefix(
    name: str, encoders: dict[str, PromptEncoder]
) -> None:
    encoder = encoders[name]
    first = encoder.encode([*ASKED, RoleStart("assistant")])
    second = encoder.encode(ANSWERED)
    third = encoder.encode([*ANSWERED, Tokens((65, 66), "ab"), RoleEnd(), *said("user", "Ok")])
    head = len(first)
    assert second[:head] == first
    assert third[: len(second) + 2] == [*second, 65, 66]


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([ToolDefinition("f", "", "{"), *said("user", "x")], "parameters of tool 'f'"),
        ([ToolDefinition("f", "", "[]"), *said("user", "x")], "parameters of tool 'f' must be"),
        ([ToolDefinition("f\ud800"), *said("user", "x")], "not valid Unicode"),
        (
            [ToolDefinition("f", "", '{"a":' * 500 + "1" + "}" * 500), *said("user", "x")],
            "deeper than 200",
        ),
        ([*said("user", "x"), *said("assistant", "", ToolCall("f", "1"))], "call of 'f' must be"),
        ([*said("user", "x"), *said("assistant", "", ToolCall("f", "{'a'"))], "not JSON"),
        ([*said("user", "x"), *said("user", "", ToolCall("f", "{}"))], "no message of the ass"),
        ([*said("user", "x"), WEATHER], "behind the first message"),
        ([WEATHER, Text("x")], "no message"),
        ([*said("user", "x"), RoleStart("assistant"), ToolCall("f", "{}")], "end its role"),
        (
            [*said("user", "x"), RoleStart("assistant"), ToolCall("f", "{}"), Text("x"), RoleEnd()],
            "behind a call",
        ),
    ],
)
def test_broken_tools_and_calls_are_named(
    parts: list[PromptPart], says: str, encoders: dict[str, PromptEncoder]
) -> None:
    for name in ("plain", "hermes"):
        with pytest.raises(InvalidRequestError, match=says):
            encoders[name].encode(parts)


def test_endless_tools_are_refused(encoders: dict[str, PromptEncoder], tmp_path: Path) -> None:
    schema = {"anyOf": [{"enum": [i]} for i in range(70_000)]}
    huge = ToolDefinition("huge", "", json.dumps(schema, separators=(",", ":")))
    with pytest.raises(InvalidRequestError, match="more than"):
        encoders["hermes"].encode([huge, *said("user", "x")])
    greedy = HERMES.replace(
        "{{ tool | tojson }}", "{% for i in range(999) %}{{ tool | tojson }}{% endfor %}"
    )
    encoder = PromptEncoder(byte_tokenizer(tmp_path, greedy))
    with pytest.raises(InvalidRequestError, match="characters as the model's chat template"):
        encoder.encode([ToolDefinition("f", "x" * 100_000), *said("user", "x")])


odd = st.one_of(
    st.sampled_from([*SPECIAL, "<|im_", "end|>", "\ue0f00\ue0f1", '"', "\\"]), st.text()
)
texts = st.lists(odd, max_size=3).map("".join)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(texts, values, max_size=3)


@settings(max_examples=60, deadline=None)
@given(
    name=texts.filter(bool), description=texts, schema=objects, arguments=objects, said_text=texts
)
@pytest.mark.parametrize("shape", SHAPES)
def test_only_the_template_writes_special_tokens(
    shape: str,
    name: str,
    description: str,
    schema: dict[str, Any],
    arguments: dict[str, Any],
    said_text: str,
    encoders: dict[str, PromptEncoder],
) -> None:
    encoder = encoders[shape]

    def prompt(name: str, tool: ToolDefinition, arguments: str, text: str) -> list[PromptPart]:
        return [
            tool,
            *said("user", text),
            *said("assistant", "", ToolCall(name, arguments, text)),
            *said("tool", text, call_id=text),
            RoleStart("assistant"),
        ]

    parts = prompt(
        name,
        ToolDefinition(name, description, json.dumps(schema)),
        json.dumps(arguments),
        said_text,
    )
    tame = prompt("f", ToolDefinition("f"), "{}", "x")
    ids = encoder.encode(parts)
    special = [i for i in ids if i >= 256]
    assert special == [i for i in encoder.encode(tame) if i >= 256]
    text = encoder.render(parts)
    assert name in text or json.dumps(name, ensure_ascii=False) in text
    spelled = sum(encoder.render(tame).count(s) for s in SPECIAL)
    assert spelled == len(special)
