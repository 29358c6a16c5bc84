"""Chat templates: what known ones use is there, and their way with reasoning is found out."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_templates import PLAIN, QWEN3, R1, byte_tokenizer

from sgen.errors import InvalidRequestError
from sgen.protocol import PromptPart, RoleEnd, RoleStart, Text, Tokens
from sgen.runtime.chat import PromptEncoder
from sgen.runtime.template import ChatTemplate

FIRST = "\ue0f00\ue0f1"
THOUGHT = "<think>\nwhy\n</think>\n\nyes"


def rendered(source: str) -> str:
    return ChatTemplate(source + "{{ messages[0].content }}", {}).render(["user"], prompt=False)


@pytest.mark.parametrize(
    ("source", "want"),
    [
        ("{{ {'b': ['é', 1]} | tojson(indent=2) }}", '{\n  "b": [\n    "é",\n    1\n  ]\n}'),
        ("{{ {'b': 1, 'a': 2} | tojson(separators=(',', ':')) }}", '{"b":1,"a":2}'),
        ("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}", '{"a": 2, "b": 1}'),
        ("{{ 'a\nb\n\nc' | indent }}", "a\n    b\n\n    c"),
        ("{{ 'a\nb' | indent(2, first=True) }}", "  a\n  b"),
        ("{{ 'a\n\nb' | indent('-', blank=True) }}", "a\n-\n-b"),
        ("{{ ' ' * 3 }}|", "   |"),
        ("{% generation %}x{{ 1 }}{% endgeneration %}", "x1"),
        ("{{ {} is mapping }}{{ [] is iterable }}{{ 'x' is string }}", "TrueTrueTrue"),
        ("{% if strftime_now is defined %}{{ strftime_now('%Y') | length }}{% endif %}", "4"),
        ("{% if tools is not defined and not enable_thinking %}none{% endif %}", "none"),
    ],
)
def test_what_known_templates_use(source: str, want: str) -> None:
    assert rendered(source) == want + FIRST


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' | indent('x' * 100000000, first=True) }}",
        "{{ ('a\n' * 10000000) | indent(16) }}",
        "{{ 'ab' * 100000000 }}",
        "{{ [1] | tojson(separators=('x' * 1000, ':')) }}",
        "{{ 1 | tojson(separators=1) }}",
        "{% generation %}",
    ],
)
def test_what_they_use_is_bounded(source: str) -> None:
    with pytest.raises(Exception, match="chat template"):
        rendered(source)


@pytest.fixture
def encoder(tmp_path: Path, request: pytest.FixtureRequest) -> PromptEncoder:
    return PromptEncoder(byte_tokenizer(tmp_path, request.param))


def asked(*answer: Text | Tokens, then: str = "") -> list[PromptPart]:
    parts = [RoleStart("user"), Text("x"), RoleEnd(), RoleStart("assistant"), *answer, RoleEnd()]
    return [*parts, RoleStart("user"), Text(then), RoleEnd()] if then else parts


@pytest.mark.parametrize("encoder", [QWEN3], indirect=True)
def test_reasoning_is_given_to_a_template_that_takes_it(encoder: PromptEncoder) -> None:
    assert encoder.reasoning == ("<think>", "</think>")
    assert not encoder.reasoning_open
    assert encoder.render(asked(Text(THOUGHT))).endswith(f"assistant\n{THOUGHT}<|im_end|>\n")
    assert "why" not in encoder.render(asked(Text(THOUGHT), then="y"))
    assert "yes<|im_end|>" in encoder.render(asked(Text(THOUGHT), then="y"))


@pytest.mark.parametrize("encoder", [R1], indirect=True)
def test_reasoning_is_cut_where_the_template_cuts_it(encoder: PromptEncoder) -> None:
    assert encoder.reasoning_open
    for text in (THOUGHT, THOUGHT.removeprefix("<think>")):
        assert "<|im_start|>yes<|im_end|>" in encoder.render(asked(Text(text), then="y"))
    kept = encoder.render(asked(Tokens((1, 2), THOUGHT), then="y"))
    assert THOUGHT in kept, "what was generated stays as it was"
    with_spaces = encoder.render(asked(Text("no thought"), then="y"))
    assert "<|im_start|>no thought<|im_end|>" in with_spaces


@pytest.mark.parametrize("encoder", [PLAIN], indirect=True)
def test_reasoning_stays_where_the_template_knows_none(encoder: PromptEncoder) -> None:
    assert encoder.reasoning is None
    assert THOUGHT in encoder.render(asked(Text(THOUGHT), then="y"))


def test_content_that_a_template_writes_as_json_is_escaped(tmp_path: Path) -> None:
    source = "{% for m in messages %}{{ {'said': m.content} | tojson }}{% endfor %}"
    encoder = PromptEncoder(byte_tokenizer(tmp_path, source))
    parts = [RoleStart("user"), Text('a "b"\n'), RoleEnd()]
    assert encoder.render(parts) == '{"said": "a \\"b\\"\\n"}'
    twice = source.replace("tojson", "tojson | tojson")
    encoder = PromptEncoder(byte_tokenizer(tmp_path, twice))
    assert encoder.render([RoleStart("user"), Text('"'), RoleEnd()]) == r'"{\"said\": \"\\\"\"}"'


def test_render_says_what_encode_encodes(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(tmp_path, PLAIN)
    encoder = PromptEncoder(tokenizer)
    parts = [Text("before"), *asked(Text("é"), then="y"), RoleStart("assistant"), Text("Well")]
    text = encoder.render(parts)
    assert text.endswith("<|im_start|>assistant\nWell")
    assert encoder.encode(parts) == tokenizer.encode(text, special=True)
    with pytest.raises(InvalidRequestError, match="not valid Unicode"):
        encoder.render([Text("\ud800")])
