"""Structural tags: free text, triggers, tags, and special tokens at their places."""

from __future__ import annotations

import itertools
import json
import random
import re
from typing import Any

import numpy as np
import pytest

from sgen.errors import GrammarError
from sgen.grammars.automata import run
from sgen.grammars.compile import compile_grammar
from sgen.grammars.free_text import free_text
from sgen.grammars.grammar import Grammar
from sgen.grammars.masks import Masker
from sgen.grammars.matcher import Matcher
from sgen.grammars.vocabulary import Vocabulary, special_text
from sgen.grammars.work import Work
from sgen.protocol import GrammarSpec
from tests.front_ends import check_means
from tests.walks import random_text

DIGITS = {"type": "regex", "pattern": "[0-9]+"}
ANY = {"type": "any_text"}


def grammar_of(tag: object) -> Grammar:
    return compile_grammar(GrammarSpec("structural_tag", json.dumps(tag)))


def of_format(**members: Any) -> Grammar:
    return grammar_of({"type": "structural_tag", "format": members})


def tag(begin: Any, end: Any, content: object = DIGITS) -> dict[str, Any]:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def triggered(triggers: list[str], *tags: object, **options: Any) -> dict[str, Any]:
    return {"type": "triggered_tags", "triggers": triggers, "tags": list(tags), **options}


def check(grammar: Grammar, accepted: list[str], rejected: list[str]) -> None:
    check_means(grammar, accepted, rejected)


@pytest.mark.parametrize(
    "words", [["aba"], ["<t>"], ["ab", "b"], ["aab", "ab"], ["aa", "aba", "é"]]
)
def test_free_text_by_brute_force(words: list[str]) -> None:
    """Every text over a few letters, for every word and every beginning of one as its end."""
    texts = ["".join(t) for n in range(6) for t in itertools.product("ab<é", repeat=n)]
    for ending in {word[:i] for word in words for i in range(len(word) + 1)}:
        automaton = free_text([w.encode() for w in words], ending.encode(), Work())
        for text in texts:
            inside = text[:-1] if ending in words else text
            right = text.endswith(ending) and not any(word in inside for word in words)
            found = automaton is not None and run(automaton, text.encode())
            assert found == right, (ending, text)


def follows(text: str, triggers: list[str], tags: dict[str, str], end: str) -> bool:
    """Whether a text is free text with tags, by searching for the first trigger again and again."""
    ends = [i for i in range(len(text) + 1) if any(text[:i].endswith(t) for t in triggers)]
    if not ends:
        return True
    fired = [t for t in triggers if text[: ends[0]].endswith(t)]
    for trigger in fired:
        rest = text[ends[0] - len(trigger) :]
        for begin, content in tags.items():
            if begin.startswith(trigger) and rest.startswith(begin):
                inside = rest[len(begin) :]
                for found in re.finditer(re.escape(end), inside):
                    done = re.fullmatch(content, inside[: found.start()])
                    if done and follows(inside[found.end() :], triggers, tags, end):
                        return True
    return False


@pytest.mark.parametrize(
    ("triggers", "tags", "end"),
    [
        (["<"], {"<": "a*"}, ">"),
        (["<a"], {"<a>": "b?", "<ab": "a"}, ">"),
        (["<", "<a"], {"<a": "b*", "<b": "a"}, "<"),
        (["<a", "a"], {"<ab": "b", "a>": "a?"}, ">"),
        (["aba"], {"aba": "b"}, "a"),
    ],
)
def test_tags_by_brute_force(triggers: list[str], tags: dict[str, str], end: str) -> None:
    grammar = of_format(
        **triggered(
            triggers,
            *(tag(b, end, {"type": "regex", "pattern": content}) for b, content in tags.items()),
        )
    )
    for size in range(8):
        for letters in itertools.product("<ab>", repeat=size):
            text = "".join(letters)
            assert grammar.matches(text.encode()) == follows(text, triggers, tags, end), text


QWEN = {
    "type": "structural_tag",
    "format": triggered(
        ["<tool_call>"],
        *(
            tag(
                f'<tool_call>\n{{"name": "{name}", "arguments": ',
                "}\n</tool_call>",
                {"type": "json_schema", "json_schema": schema},
            )
            for name, schema in {
                "weather": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}},
                    "required": ["city"],
                },
                "time": {"type": "object", "properties": {}, "additionalProperties": False},
            }.items()
        ),
    ),
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city":"Köln"}}\n</tool_call>'
TIME = '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'


def test_hermes_and_qwen() -> None:
    check(
        grammar_of(QWEN),
        [
            "",
            "Just text, with a < b and <tool and even <tool_call.",
            CALL,
            f"Let me see.\n{CALL}\n{TIME} Done: <tool_",
            "<<tool_cal" + CALL,
            CALL.replace("Köln", "</tool_call>}\\n"),
        ],
        [
            "<tool_call>",
            "and <tool_call> as text",
            CALL.replace("weather", "whether"),
            CALL.replace("Köln", 'K"'),
            CALL[:-1],
            TIME.replace("{}", '{"city":"x"}'),
        ],
    )


def test_the_older_form() -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    for given in (schema, json.dumps(schema)):
        grammar = grammar_of(
            {
                "type": "structural_tag",
                "structures": [
                    {"begin": "<function=a>", "schema": given, "end": "</function>"},
                    {"begin": "<function=b>", "schema": {"const": None}, "end": "</function>"},
                ],
                "triggers": ["<function="],
            }
        )
        check(
            grammar,
            ["hi", '<function=a>{"x":1}</function>', "a<function=b>null</function><function"],
            ["<function=", "<function=c>null</function>", "<function=b>null</function"],
        )


LLAMA = {
    "type": "structural_tag",
    "structures": [
        {
            "begin": '<|python_tag|>{"name": "f", "parameters": ',
            "schema": {"type": "integer"},
            "end": "}",
        }
    ],
    "triggers": ["<|python_tag|>"],
}


def test_llama_3() -> None:
    call = '<|python_tag|>{"name": "f", "parameters": 12}'
    check(grammar_of(LLAMA), ["x", call, "x" + call + "y", "<|python_tag|"], [call[:-1], call[:16]])


def test_must_call_and_stop() -> None:
    tags = ["<f="], tag("<f=a>", ";"), tag("<f=b>", ";")
    a, b = "<f=a>1;", "<f=b>22;"
    check(of_format(**triggered(*tags)), ["", a, f"x{a}y{b}z"], ["<f="])
    must = triggered(*tags, at_least_one=True)
    check(of_format(**must), [a, f"{a}y{b}z"], ["", "x", f"x{a}", "<"])
    check(
        of_format(**triggered(*tags, stop_after_first=True)), ["", "x", f"x{a}"], [f"{a}y", a + b]
    )
    check(
        of_format(**triggered(*tags, at_least_one=True, stop_after_first=True)),
        [a, b],
        ["", "x", a + b, f"{a} "],
    )


def test_excluded_words() -> None:
    grammar = of_format(**triggered(["<f"], tag("<f>", ";"), excludes=["no"]))
    check(grammar, ["nn", "<f>1;n"], ["no", "<f>1;no", "nno"])
    check(of_format(type="any_text", excludes=["ab", "é"]), ["ba", "è"], ["aab", "é", "\xe9"])


def test_free_text_inside_a_tag_ends_where_its_end_first_occurs() -> None:
    think = tag("<think>", "</think>", ANY)
    grammar = of_format(
        type="sequence", elements=[think, triggered(["<f"], tag("<f>", ";"), stop_after_first=True)]
    )
    check(
        grammar,
        ["<think></think>", "<think>a</thin</think>b<f>1;", "<think><f></think>"],
        ["<think>", "a<think></think>", "<think></think><f", "<think>a</think>b<f>x;"],
    )
    check(of_format(**tag("(", "aba", ANY)), ["(aba", "(baba"], ["(ababa", "(abaaba"])
    check(of_format(**tag("(", [")", "]"], ANY)), ["(a)", "(]"], ["(a)]", "(a"])
    inner = triggered(["<f"], tag("<f>", ";"))
    check(of_format(**tag("(", ")", inner)), ["()", "(a<f>1;b)"], ["(", "(a)b)", "(<f>1)"])
    inner["stop_after_first"] = True
    check(of_format(**tag("(", ")", inner)), ["()", "(a<f>1;)"], ["(a<f>1;b)"])


def test_formats_of_formats() -> None:
    x = {"type": "const_string", "value": "x"}
    check(of_format(type="or", elements=[x, DIGITS]), ["x", "12"], ["", "x1"])
    check(of_format(type="optional", content=x), ["", "x"], ["xx"])
    check(of_format(type="plus", content=x), ["x", "xxx"], [""])
    check(of_format(type="star", content=x), ["", "xx"], ["y"])
    check(of_format(type="repeat", content=x, min=2, max=3), ["xx", "xxx"], ["x", "xxxx"])
    check(of_format(type="repeat", content=x, min=1, max=-1), ["x", "x" * 9], [""])
    dispatch = of_format(type="dispatch", rules=[["#", DIGITS]], loop=False)
    check(dispatch, ["", "a", "a#12"], ["#", "#1a"])
    check(of_format(type="dispatch", rules=[["#", DIGITS], ["!", x]]), ["a!x#1b!x"], ["#1!"])


def test_a_whole_grammar_has_its_own_options() -> None:
    def inside(**spec: str) -> dict[str, Any]:
        return {"type": "grammar_spec", "spec": spec}

    number = '{"type":"array","items":{"type":"integer"}}'
    loose = inside(kind="json_schema", source=number, whitespace="any")
    compact = {"type": "json_schema", "json_schema": json.loads(number)}
    both = of_format(type="sequence", elements=[loose, compact])
    check(both, ["[1, 2][1,2]"], ["[1, 2][1, 2]"])
    words = inside(kind="choices", source='["a","b"]')
    check(of_format(**tag("(", ")", words)), ["(a)", "(b)"], ["(c)", "(a"])
    text = inside(kind="structural_tag", source=json.dumps({"format": ANY}))
    check(of_format(type="or", elements=[text, DIGITS]), ["", "x", "1"], [])


def test_where_unknown_keywords_are_noted_they_are_in_grammars_inside_too() -> None:
    spec = {"kind": "json_schema", "source": '{"type":"integer","self":1}'}
    source = json.dumps({"format": {"type": "grammar_spec", "spec": spec}})
    with pytest.raises(GrammarError):
        compile_grammar(GrammarSpec("structural_tag", source))
    assert compile_grammar(GrammarSpec("structural_tag", source, unknown="note")).notes


def test_an_error_in_a_whole_grammar_tells_the_place_that_was_given() -> None:
    spec = {"kind": "json_schema", "source": '{"items":5}'}
    with pytest.raises(GrammarError) as caught:
        of_format(type="grammar_spec", spec=spec, place="/tools/f")
    assert caught.value.pointer == "/tools/f/items"


def test_tags_with_separator() -> None:
    members = {"type": "tags_with_separator", "tags": [tag("<", ">")], "separator": ", "}
    check(of_format(**members), ["", "<1>", "<1>, <2>, <3>"], ["<1>,<2>", "<1>, ", ", <1>"])
    check(of_format(**members, at_least_one=True), ["<1>", "<1>, <2>"], [""])
    check(of_format(**members, stop_after_first=True), ["", "<1>"], ["<1>, <2>"])
    check(of_format(**members, at_least_one=True, stop_after_first=True), ["<1>"], ["", "<1>, <2>"])
    check(of_format(**(members | {"separator": ""})), ["", "<1><2>"], ["<1>, <2>"])
    list_of_tags = of_format(**tag("<|tool_call|>[", "]", members))
    check(list_of_tags, ["<|tool_call|>[]", "<|tool_call|>[<1>, <2>]"], ["<|tool_call|>[<1>, ]"])


@pytest.mark.parametrize(
    ("value", "keyword", "pointer"),
    [
        ([], "structural_tag", ""),
        ({}, "format", ""),
        ({"format": {}, "extra": 1}, "extra", "/extra"),
        ({"type": "other", "format": {}}, "type", "/type"),
        ({"format": {"type": "nothing"}}, "type", "/format/type"),
        ({"format": {"type": "qwen_xml_parameter"}}, "qwen_xml_parameter", "/format/type"),
        ({"format": {"type": "any_tokens"}}, "any_tokens", "/format/type"),
        ({"format": {"type": "any_text", "max_chars": 3}}, "max_chars", "/format/max_chars"),
        ({"format": {"type": "any_text", "excludes": [""]}}, "excludes", "/format/excludes/0"),
        ({"format": {"type": "const_string"}}, "value", "/format"),
        ({"format": {"type": "sequence", "elements": []}}, "elements", "/format/elements"),
        ({"format": triggered(["<"], tag("(", ")"))}, "triggers", "/format"),
        ({"format": triggered(["<"], tag("<", ">"), tag("(", ")"))}, "begin", "/format/tags/1"),
        ({"format": triggered(["<"], {"begin": "<"})}, "content", "/format/tags/0"),
        ({"format": triggered(["a", "bab"], tag("bab", ")"), tag("a", ""))}, "triggers", "/format"),
        ({"format": tag("<", "", ANY)}, "end", "/format/content"),
        ({"format": {"type": "star", "content": ANY}}, "star", "/format/content"),
        ({"format": {"type": "token", "token": 7}}, "token", "/format/token"),
        (
            {"format": {"type": "json_schema", "json_schema": True, "style": "qwen_xml"}},
            "style",
            "/format/style",
        ),
        (
            {"format": tag("<", ">", {"type": "json_schema", "json_schema": {"items": 5}})},
            None,
            "/format/content/json_schema/items",
        ),
        ({"format": {"type": "regex", "pattern": "(a"}}, None, "/format/pattern"),
        ({"format": {"type": "grammar_spec", "spec": {"kind": "x"}}}, "spec", "/format/spec"),
        (
            {"format": tag("<", ">", {"type": "grammar_spec", "spec":
                {"kind": "structural_tag", "source": '{"format":{"type":"any_text"}}'}})},
            "spec", "/format/content/spec",
        ),
        ({"structures": [], "triggers": ["<"]}, "structures", "/structures"),
        ({"format": triggered(["<" * 300], tag("<" * 300, ")"))}, "triggers", "/format"),
    ],
)  # fmt: skip
def test_refused(value: object, keyword: str | None, pointer: str) -> None:
    with pytest.raises(GrammarError) as caught:
        grammar_of(value)
    assert caught.value.pointer == pointer
    assert keyword is None or caught.value.keyword == keyword


def test_no_work_without_end() -> None:
    """Large but harmless sources are compiled, others refused, both soon."""
    many = [tag(f"<f{i}>", ";") for i in range(300)]
    check(of_format(**triggered(["<f"], *many)), ["<f299>1;", "<f"[:1]], ["<f300>1;"])
    nested: Any = DIGITS
    for _ in range(20):
        nested = tag("<", ">", nested)
    check(of_format(**nested), ["<" * 20 + "1" + ">" * 20], ["<1>"])
    with pytest.raises(GrammarError):
        grammar_of({"format": triggered([str(i) * 200 for i in range(1, 99)], tag("1" * 200, ""))})


# Special tokens.

SPECIAL = ["<tool_call>", "</tool_call>", "<|python_tag|>", "<think>", "</think>", "<|end|>"]
PIECES = [
    "<tool", "_call>", "</", "<|", "|>", "think>", '{"', '":', "name", "12", "}\n", "\n", " a",
    "<tool_call>\n", "python_tag", ">\n",
]  # fmt: skip


def vocabulary() -> Vocabulary:
    """Two tokens that end a text, of which one has a name; special tokens; bytes; pieces."""
    tokens = [b""] * (2 + len(SPECIAL)) + [bytes([b]) for b in range(256)]
    tokens += [p.encode() for p in PIECES] + [b"\xe2\x82", b"\xac<", b"\xff<tool_call>\xfe"]
    special = {i + 2: name for i, name in enumerate(SPECIAL)}
    return Vocabulary(tokens, [0, 7], special | {0: "<|im_end|>"})


WORDS = vocabulary()


def token(name: str) -> int:
    return SPECIAL.index(name) + 2


def tokens_of(text: str) -> list[int]:
    return [WORDS.token_bytes.index(bytes([b])) for b in text.encode()]


def accept(matcher: Matcher, *parts: str | int) -> bool:
    tokens = [t for p in parts for t in (tokens_of(p) if isinstance(p, str) else [p])]
    return all(matcher.accept(t) for t in tokens)


def test_walk_bytes() -> None:
    assert WORDS.walk_bytes[token("<think>")] == special_text("<think>") == b"\xff<think>\xfe"
    assert WORDS.walk_bytes[0] == WORDS.walk_bytes[7] == b"", "they end a text"
    assert WORDS.walk_bytes[-1] == b"", "text that looks like a special token"
    assert WORDS.walk_bytes[WORDS.token_bytes.index(b"\xff")] == b""
    assert all(WORDS.token_bytes[token(name)] == b"" for name in SPECIAL)
    other = Vocabulary(WORDS.token_bytes, WORDS.eos_ids, {3: "<x>"})
    assert other.digest != WORDS.digest


def test_special_tokens_at_their_places_only() -> None:
    masker = Masker(grammar_of(QWEN), WORDS)
    call, end = token("<tool_call>"), token("</tool_call>")
    inside = '\n{"name": "weather", "arguments": {"city":"'
    for begin in (call, "<tool_call>", "<<tool_call>"):
        matcher = Matcher(masker)
        assert accept(matcher, "text é ", begin)
        for name in SPECIAL:
            assert not matcher.fork().accept(token(name)), "after the trigger"
        assert not matcher.is_accepting()
        assert accept(matcher, inside)
        for name in SPECIAL:
            assert not matcher.fork().accept(token(name)), "inside a string"
        assert accept(matcher, 'x"}}\n')
        spelled = matcher.fork()
        assert accept(spelled, "</tool_call>")
        assert spelled.is_accepting()
        assert accept(matcher, end, " and ", call)
        assert not accept(matcher.fork(), end)
    matcher = Matcher(masker)
    allowed = [name for name in SPECIAL if matcher.fork().accept(token(name))]
    assert allowed == ["<tool_call>", "<|end|>"], "the second ends the text"


def test_special_tokens_inside_fixed_texts() -> None:
    think = tag("<think>\n", "\n</think>", ANY)
    masker = Masker(of_format(type="sequence", elements=[think, DIGITS]), WORDS)
    matcher = Matcher(masker)
    begin, end = token("<think>"), token("</think>")
    assert accept(matcher, begin, "\nx")
    assert not matcher.fork().accept(end), "the end is a line of its own"
    assert not accept(matcher.fork(), "\n\n", begin)
    assert accept(matcher.fork(), "\n\n", end, "12")
    assert accept(matcher, "\n</thin\n</think>", "12")
    assert not accept(matcher, end)


def test_formats_of_special_tokens() -> None:
    named = {"type": "token", "token": "<|python_tag|>"}
    only = tag(named, {"type": "token", "token": "</think>"}, ANY)
    masker = Masker(of_format(**only), WORDS)
    matcher = Matcher(masker)
    assert not accept(matcher.fork(), "<")
    assert masker.min_tokens == 2
    assert accept(matcher, token("<|python_tag|>"), "</think>")
    assert not matcher.is_accepting()
    assert accept(matcher, token("</think>"))
    assert matcher.is_finished()
    members = {"trigger_tokens": ["<|python_tag|>"], "tags": [tag(named, ";")]}
    matcher = Matcher(Masker(of_format(type="token_triggered_tags", **members), WORDS))
    assert accept(matcher, "<|python_tag|> is text", token("<|python_tag|>"), "1;")
    assert matcher.is_accepting()
    rules = [["<|python_tag|>", DIGITS]]
    matcher = Matcher(Masker(of_format(type="token_dispatch", rules=rules, loop=False), WORDS))
    assert accept(matcher, "x", token("<|python_tag|>"), "12")
    assert not accept(matcher, " ")


def test_a_token_that_no_vocabulary_has() -> None:
    grammar = of_format(type="token", token="<|nowhere|>")
    with pytest.raises(GrammarError) as caught:
        Masker(grammar, WORDS)
    assert caught.value.keyword == "vocabulary"
    plain = Vocabulary([b"", *(bytes([b]) for b in range(256))], [0])
    masker = Masker(grammar_of(LLAMA), plain)
    assert accept_bytes(masker, b'x<|python_tag|>{"name": "f", "parameters": 12}')
    assert not accept_bytes(masker, b"\xff")


def accept_bytes(masker: Masker, text: bytes) -> bool:
    matcher = Matcher(masker)
    return all(matcher.accept(masker.vocabulary.token_bytes.index(bytes([b]))) for b in text)


MANY = [
    QWEN,
    LLAMA,
    {"format": tag("<think>\n", "\n</think>", ANY)},
    {"format": triggered(["<tool_", "<|"], tag("<tool_call>", "</tool_call>"), tag("<|a", "|>"))},
    {"format": triggered(["<tool"], tag("<tool_call>\n", "</tool_call>\n"), at_least_one=True)},
    {"format": tag("<think>", ["</think>", "<|end|>"], triggered(["\n<th"], tag("\n<think>", "")))},
    {"format": {"type": "dispatch", "rules": [["<|python_tag|>", DIGITS]], "excludes": ["#"]}},
]  # fmt: skip


@pytest.mark.parametrize("value", MANY)
def test_masks_equal_trying_every_token(value: object) -> None:
    masker = Masker(grammar_of(value), WORDS)
    seen = set()
    for seed in range(6):
        rng = random.Random(seed)
        matcher = Matcher(masker)
        for _ in range(14):
            mask = np.unpackbits(matcher.allowed().view(np.uint8), bitorder="little")
            allowed = np.flatnonzero(mask).tolist()
            assert allowed == [t for t in range(len(WORDS)) if matcher.fork().accept(t)]
            if matcher.is_finished():
                break
            special = [t for t in allowed if t in WORDS.special]
            pieces = [t for t in allowed if len(WORDS.token_bytes[t]) > 1]
            choices = [c for c in (special, pieces, allowed) if c]
            chosen = rng.choice(rng.choice(choices))
            seen.add(chosen)
            assert matcher.accept(chosen)
    assert any(t in WORDS.special for t in seen), "some special token was taken"


@pytest.mark.parametrize("value", MANY)
def test_never_cut(value: object) -> None:
    """Whatever is taken, the shortest way to an end is one token shorter after its next token."""
    masker = Masker(grammar_of(value), WORDS)
    for seed in range(8):
        rng = random.Random(seed)
        matcher = Matcher(masker)
        for remaining in range(masker.min_tokens + seed, 0, -1):
            mask = np.unpackbits(matcher.allowed(remaining).view(np.uint8), bitorder="little")
            allowed = [t for t in np.flatnonzero(mask).tolist() if t not in WORDS.eos_ids]
            if not allowed:
                break
            assert matcher.accept(rng.choice(allowed))
        assert matcher.is_accepting()


def test_random_texts_are_accepted() -> None:
    for value in MANY:
        grammar = grammar_of(value)
        for seed in range(20):
            assert grammar.matches(random_text(grammar, random.Random(seed)))
