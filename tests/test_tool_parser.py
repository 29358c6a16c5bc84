"""Events of outputs: the same however the text is cut, and right for all that a grammar admits."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgen.errors import CancelledError
from sgen.protocol import (
    Chunk,
    GrammarSpec,
    RoleStart,
    SamplingParams,
    Text,
    TokenLogprob,
    ToolFormat,
    Usage,
)
from sgen.server.events import (
    ContentDelta,
    Finished,
    GenerationEvent,
    Job,
    ReasoningDelta,
    ToolCallDelta,
    ToolCallStart,
)
from sgen.server.tool_parser import OutputParser
from tests.test_tool_grammar import (
    FORMATS,
    A,
    B,
    calls,
    grammar_of,
    info_of,
    job_of,
    tool,
)
from tests.walks import random_text

THINK = ("<think>", "</think>")


def parsed(
    job: Job, info: Any, pieces: Sequence[str], reason: Any = "stop", **last: Any
) -> list[GenerationEvent]:
    parser = OutputParser(info, job, 0)
    events = [e for p in pieces for e in parser.feed(Chunk(text=p, token_ids=tuple(map(ord, p))))]
    usage = Usage(completion_tokens=sum(map(len, pieces)))
    return events + parser.feed(Chunk(finish_reason=reason, usage=usage, **last))


def said(events: list[GenerationEvent]) -> dict[str, Any]:
    """What events join to."""
    found: dict[str, Any] = {"reasoning": "", "content": "", "calls": [], "end": None}
    for event in events:
        assert found["end"] is None, "nothing follows the end"
        match event:
            case ReasoningDelta(text=text):
                assert text
                assert not found["content"]
                assert not found["calls"]
                found["reasoning"] += text
            case ContentDelta(text=text):
                assert text
                found["content"] += text
            case ToolCallStart(call=call, name=name, id=call_id):
                assert re.fullmatch(r"call_[0-9A-Za-z]{24}", call_id)
                assert call == len(found["calls"])
                found["calls"].append([name, ""])
            case ToolCallDelta(call=call, arguments=arguments):
                assert arguments
                assert call == len(found["calls"]) - 1
                found["calls"][-1][1] += arguments
            case Finished(reason=reason, stop=stop):
                found["end"] = (reason, stop)
    return found


def expected(
    reasoning: str = "",
    content: str = "",
    made: Sequence[tuple[str, str]] = (),
    end: str = "stop",
    stop: str | None = None,
) -> dict[str, Any]:
    made_calls = [list(call) for call in made]
    return {"reasoning": reasoning, "content": content, "calls": made_calls, "end": (end, stop)}


def whole(job: Job, info: Any, text: str, reason: Any = "stop") -> dict[str, Any]:
    """What a text says, which is the same when it comes by the character."""
    found = said(parsed(job, info, [text], reason))
    assert found == said(parsed(job, info, list(text), reason))
    return found


def cut(text: str, places: list[int]) -> list[str]:
    ends = sorted({p % (len(text) + 1) for p in places})
    return [text[i:j] for i, j in zip([0, *ends], [*ends, len(text)], strict=True)]


VALUES = st.recursive(
    st.none() | st.integers() | st.text() | st.sampled_from(['"}\n</tool_call>', "\\", "<tool_"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(st.text(), VALUES, max_size=3)
WORDS = st.lists(
    st.sampled_from(
        ["Hi", " ", "\n", "<", "<tool", "_call", ">", "é🙂", '{"name": ', "[TOOL_", "|", "["]
    ),
    max_size=8,
)


@pytest.mark.parametrize("form", FORMATS)
@given(
    words=WORDS,
    values=st.lists(st.tuples(st.sampled_from(["weather", "time"]), ARGUMENTS), max_size=3),
    thought=st.none() | WORDS,
    escape=st.booleans(),
    places=st.lists(st.integers(0, 10_000), max_size=12),
)
def test_any_cutting_says_the_same(
    form: ToolFormat,
    words: list[str],
    values: list[tuple[str, Any]],
    thought: list[str] | None,
    escape: bool,
    places: list[int],
) -> None:
    made = [(name, json.dumps(value, ensure_ascii=escape)) for name, value in values]
    made = made[:1] if form == "llama3" else made
    content = "".join(words)
    if any(marker in content for marker in ("<tool_call>", "[TOOL_CALLS]", '[{"name": ')):
        content = ""
    text = content + (calls(form, *made) if made else "")
    reasoning = "" if thought is None else "".join(thought)
    if thought is not None:
        text = f"<think>\n{reasoning}\n</think>\n\n{text}"
        content = content.lstrip("\n") if not made else content
    found = said(parsed(job_of(), info_of(form, reasoning=THINK), cut(text, places)))
    shown = content.rstrip() if made else content
    if thought is not None:
        shown = shown.lstrip("\n")
    assert found == expected(reasoning.strip("\n"), shown, made, "tool_calls" if made else "stop")


SCHEMAS: dict[str, Any] = {
    "weather": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 5}, "day": {"enum": ["<", 'a"}']}},
        "required": ["day"],
    },
    "deep": {"properties": {"x": {"type": "array", "items": {"type": "object"}}}},
    "wea": {},
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("mode", ["auto", "required"])
@pytest.mark.parametrize("content", [None, GrammarSpec("json_schema", '{"type":"array"}')])
@pytest.mark.parametrize("thinks", [None, False, True])
def test_all_that_a_grammar_admits(
    form: ToolFormat, mode: str, content: GrammarSpec | None, thinks: bool | None
) -> None:
    tools = tuple(tool(name, schema) for name, schema in SCHEMAS.items())
    job = job_of(mode, tools=tools, grammar=content)
    info = info_of(form, reasoning=None if thinks is None else THINK, reasoning_open=bool(thinks))
    grammar = grammar_of(job, info)
    called = 0
    for seed in range(25):
        rng = random.Random(seed)
        walked = random_text(grammar, rng, rng.choice([5, 60, 300]))
        text = walked.replace(b"\xff", b"").replace(b"\xfe", b"").decode()
        found = whole(job, info, text)
        for name, arguments in found["calls"]:
            jsonschema.validate(json.loads(arguments), SCHEMAS[name] | {"type": "object"})
            called += 1
        assert found["calls"] or mode == "auto"
        assert found["end"][0] == ("tool_calls" if found["calls"] else "stop")
        if content is not None and not found["calls"]:
            assert isinstance(json.loads(found["content"]), list)
    assert called or mode == "auto"


def test_content_of_a_mode_without_calls() -> None:
    text = calls("hermes", A) + " <think>x</think>"
    assert whole(job_of("none"), info_of(), text) == expected(content=text)
    assert whole(job_of(tools=()), info_of(), text) == expected(content=text)


def test_text_around_calls() -> None:
    job, info = job_of(), info_of()
    text = "\n\nI look.\n\n" + calls("hermes", A, B)
    assert whole(job, info, text) == expected("", "\n\nI look.", [A, B], "tool_calls")
    assert whole(job, info, "\n\n" + calls("hermes", A))["content"] == ""
    assert whole(job, info, "so <tool_") == expected(content="so <tool_")
    assert whole(job, info, "so \n\n") == expected(content="so \n\n")


BARE = '{"name": "weather", "arguments": {"city": "Rome"}}'
FENCED = """```json
{
  "name": "weather",
  "arguments": {
    "city": "Rome"
  }
}
```"""


@pytest.mark.parametrize("call", [BARE, FENCED])
def test_calls_without_their_markup(call: str) -> None:
    """As Qwen2.5-Coder writes them, which was shown `<tool_call>`; only names of tools do that."""
    job, info = job_of(), info_of()
    grammar = grammar_of(job, info)
    text = f"So:\n{call}"
    assert grammar.matches(text.encode())
    assert not grammar.matches(text.replace('"city"', '"town"').encode())
    found = whole(job, info, text)
    assert (found["content"], found["end"]) == ("So:", ("tool_calls", None))
    assert [(n, json.loads(a)) for n, a in found["calls"]] == [("weather", {"city": "Rome"})]
    other = text.replace("weather", "Bob")
    assert grammar.matches(other.encode())
    assert whole(job, info, other) == expected("", other)


def test_cut_by_length() -> None:
    job, info = job_of(), info_of()
    made = calls("hermes", A, B)
    for size in range(len(made)):
        found = whole(job, info, made[:size], "length")
        assert found["end"] == ("length", None)
        joined = [list(call) for call in (A, B)]
        for (name, arguments), right in zip(found["calls"], joined, strict=False):
            assert name == right[0]
            assert right[1].startswith(arguments)
        assert "<tool_call>" not in found["content"]


def test_free_text_that_fills_all_tokens_is_cut() -> None:
    """An engine calls that an end, since a grammar that takes any text is content with it."""
    job = job_of(params=SamplingParams(max_tokens=4))
    assert whole(job, info_of(), "abcd")["end"] == ("length", None)
    assert whole(job, info_of(), "abc")["end"] == ("stop", None)
    must = job_of("none", grammar=GrammarSpec("regex", "[a-z]+"), params=job.params)
    assert whole(must, info_of(), "abcd")["end"] == ("stop", None)


def test_a_call_without_room_is_cut_and_its_beginning_left_out() -> None:
    text = "Well.\n<tool_call>"[:-1]
    job = job_of(params=SamplingParams(max_tokens=40))
    found = whole(job, info_of(), text)
    assert (found["content"], found["end"]) == ("Well.", ("length", None))
    roomy = job_of(params=SamplingParams(max_tokens=4000))
    assert whole(roomy, info_of(), text)["end"] == ("stop", None)
    fence = whole(job, info_of(), "```")
    assert (fence["content"], fence["end"]) == ("```", ("stop", None))


def test_reasoning() -> None:
    job = job_of(tools=())
    closed, opened = info_of(reasoning=THINK), info_of(reasoning=THINK, reasoning_open=True)
    text = "<think>\na\n\nb\n</think>\n\nHi\n"
    assert whole(job, closed, text) == expected("a\n\nb", "Hi\n")
    assert whole(job, closed, "\n " + text) == expected("a\n\nb", "Hi\n")
    assert whole(job, opened, text.removeprefix("<think>")) == expected("a\n\nb", "Hi\n")
    assert whole(job, closed, "Hi <think>a</think>") == expected("", "Hi <think>a</think>")
    assert whole(job, closed, " <thi") == expected("", " <thi")
    for cut_text in ("<think>\na <", "<think>a </thin"):
        shown = cut_text.removeprefix("<think>").lstrip("\n")
        assert whole(job, closed, cut_text, "length") == expected(shown, "", end="length")
    kept = job_of(tools=(), split_reasoning=False)
    assert whole(kept, closed, text) == expected("", text)
    continued = job_of(tools=(), prompt=(RoleStart("assistant"), Text("So")))
    assert whole(continued, opened, "x") == expected("", "x")


def test_cancelled_from_outside() -> None:
    parser = OutputParser(info_of(), job_of("none"), 0)
    with pytest.raises(CancelledError):
        parser.feed(Chunk(finish_reason="cancelled", usage=Usage()))


def test_logprobs_belong_to_content() -> None:
    pieces = [
        "<think>",
        "hm",
        "</think>",
        "\n\n",
        "Let",
        " me",
        ".\n",
        "<tool_call>",
        "\n",
        '{"name"',
    ]
    pieces += [': "time", "arguments": ', "{}", "}\n</tool_call>"]
    job = job_of(params=SamplingParams(logprobs=0))
    rows = [TokenLogprob(i, piece, -1.0) for i, piece in enumerate(pieces)]
    info = info_of(reasoning=THINK)
    for size in (1, 2, 5, len(pieces)):
        parser = OutputParser(info, job, 0)
        shown: dict[str, str] = {}
        for i in range(0, len(pieces), size):
            text = "".join(pieces[i : i + size])
            for event in parser.feed(Chunk(text=text, logprobs=tuple(rows[i : i + size]))):
                if isinstance(event, ContentDelta):
                    shown |= {row.text: event.text for row in event.logprobs}
        assert list(shown) == ["Let", " me", ".\n"], size


def test_plain_chunks_pass_as_they_are() -> None:
    row = TokenLogprob(1, "\ufffd", -1.0)
    parser = OutputParser(info_of(), job_of(tools=()), 1)
    assert parser.feed(Chunk(text="a", logprobs=(row,))) == [ContentDelta(1, "a", (row,))]
    assert parser.feed(Chunk(logprobs=(row,))) == [ContentDelta(1, "", (row,))]
    last = parser.feed(Chunk(text="b", finish_reason="stop", stop="c", usage=Usage(1, 0, 2)))
    assert last == [ContentDelta(1, "b"), Finished(1, "stop", "c", Usage(1, 0, 2))]
