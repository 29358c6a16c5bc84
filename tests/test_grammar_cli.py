"""`sgen grammar check | explain | test | convert`, and what they are made of."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sgen.cli
from sgen.errors import GrammarError
from sgen.grammar_files import context, line_and_column, place_of, read_grammar
from sgen.grammars.compile import compile_grammar
from sgen.grammars.explain import read_as_far, refusals, shortest_text, ways_on
from sgen.grammars.outline import MAX_LINES, outline
from sgen.protocol import GrammarSpec

PERSON = """{
  "type": "object",
  "properties": {
    "name": {"type": "string", "maxLength": 5},
    "age": {"type": "integer", "minimum": 0, "maximum": 150}
  },
  "required": ["name", "age"],
  "additionalProperties": false
}
"""
WRONG = """{
  "type": "object",
  "properties": {
    "a/b": {"type": "string", "nonsense": 5},
    "list": [1, {"skipped": "}"}],
    "y": {"type": "array", "items": [{}, {"type": "strange"}]}
  }
}
"""

Write = Callable[[str, str], str]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, text: str) -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def grammar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `sgen grammar ...`: the exit status, stdout and stderr."""

    def run(*args: str, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        status = sgen.cli.main(["grammar", *args])
        shown = capsys.readouterr()
        assert "\x1b" not in shown.out + shown.err, "no colours"
        return status, shown.out, shown.err

    return run


def test_check(grammar: Run, write: Write) -> None:
    person = write("person.json", PERSON)
    status, out, _ = grammar("check", person, write("w.regex", "[a-z]{2,4}\n"))
    assert status == 0
    assert f"{person}: ok" in out
    assert "json_schema" in out
    assert "shortest text: 19 bytes" in out
    assert "shortest text: 2 bytes" in out
    assert out.count("compiled in") == 2


def test_check_as_json(grammar: Run, write: Write) -> None:
    status, out, _ = grammar("check", "--json", write("p.json", PERSON), write("w.json", WRONG))
    good, bad = json.loads(out)
    assert status == 1
    assert good["ok"]
    assert good["minimum_bytes"] == len('{"name":"","age":0}')
    assert good["nodes"] > 5
    assert good["states"] > 0
    assert good["compile_ms"] > 0
    assert not bad["ok"]
    assert bad["error"]["pointer"] == "/properties/a~1b/nonsense"
    assert (bad["error"]["line"], bad["error"]["column"]) == (4, 31)


def test_check_counts_tokens(grammar: Run, write: Write, smollm2_path: Path) -> None:
    names = "check", write("p.json", PERSON), "--model", str(smollm2_path), "--json"
    status, out, _ = grammar(*names)
    assert status == 0
    tokens = json.loads(out)[0]["minimum_tokens"]
    assert 5 <= tokens <= 12


def test_a_refusal_shows_its_place(grammar: Run, write: Write) -> None:
    status, out, _ = grammar("check", write("wrong.json", WRONG))
    lines = out.splitlines()
    assert status == 1
    assert lines[0].endswith("wrong.json: refused")
    assert "line 4, column 31 (keyword nonsense):" in out
    caret = next(i for i, line in enumerate(lines) if line.strip() == "^")
    assert lines[caret - 1][lines[caret].index("^") :].startswith('"nonsense"')
    status, out, _ = grammar("check", write("wrong.regex", r"(a)\1"))
    assert status == 1
    assert "line 1, column 4" in out


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("broken.json", b'{"a": [1,\n 2,}', "line 2, column 4"),
        ("empty.json", b" \n", "is empty"),
        ("empty.lark", b"", "is empty"),
        ("binary.json", b"\x7fELF\x02\xff\xfe", "is not text"),
        ("zero.regex", b"a\0b", "zero byte"),
        ("odd.txt", b"abc", "give --kind"),
        ("nowhere.json", None, "No such file"),
        ("folder.json", "", "directory"),
        ("twice.json", b'{"type": "string", "type": "null"}', "twice"),
        ("deep.json", b"[" * 100_000, "nested"),
    ],
)
def test_wrong_files_are_explained(
    grammar: Run, tmp_path: Path, name: str, data: bytes | str | None, says: str
) -> None:
    path = tmp_path / name
    if isinstance(data, bytes):
        path.write_bytes(data)
    elif data is not None:
        path.mkdir()
    status, out, _ = grammar("check", str(path))
    assert status == 1
    assert says in out
    for command in (["test", str(path), "x"], ["convert", str(path), "--to", "gbnf"]):
        status, out, err = grammar(*command)
        assert status == 1
        assert says in err
        assert not out
    json.loads(grammar("test", str(path), "x", "--json")[1])


def test_wrong_usage_exits_with_two(grammar: Run, write: Write) -> None:
    path = write("a.regex", "a")
    for args in (
        [],
        ["check"],
        ["check", path, "--kind", "yaml"],
        ["test", path],
        ["test", path, "a", "--stdin"],
        ["convert", path],
    ):
        with pytest.raises(SystemExit) as caught:
            grammar(*args)
        assert caught.value.code == 2


def test_kinds_and_stdin(grammar: Run, write: Write) -> None:
    def kind(*args: str, stdin: bytes = b"") -> str:
        status, out, _ = grammar("check", "--json", *args, stdin=stdin)
        assert status == 0, out
        found: str = json.loads(out)[0]["kind"]
        return found

    assert kind("-", "--kind", "regex", stdin=b"a+") == "regex"
    assert kind(write("list.json", '["yes", "no"]')) == "choices"
    tag = {"type": "structural_tag", "format": {"type": "any_text"}}
    assert kind(write("tag.json", json.dumps(tag))) == "structural_tag"
    assert kind(write("g.gbnf", 'root ::= "a"')) == kind(write("G.EBNF", 'root ::= "a"')) == "gbnf"
    assert kind(write("g.lark", 'start: "a"')) == "lark"
    assert kind(write("bom.json", "\ufeff{}")) == "json_schema"
    assert kind(write("odd", "{}"), "--kind", "json_schema") == "json_schema"


def test_options_reach_the_grammar(grammar: Run, write: Write) -> None:
    path = write("p.json", PERSON)
    other = '{"age":1,"name":"A"}'
    assert grammar("test", path, other)[0] == 1
    assert grammar("test", path, other, "--order", "any")[0] == 0
    pretty = '{\n  "name": "A",\n  "age": 1\n}'
    assert grammar("test", path, pretty)[0] == 1
    assert grammar("test", path, pretty, "--whitespace", "any")[0] == 0
    unknown = write("u.json", '{"type": "string", "x": 1, "nonsense": 2}')
    assert grammar("check", unknown)[0] == 1
    status, out, _ = grammar("check", unknown, "--unknown", "note")
    assert status == 0
    assert "note: " in out
    assert "nonsense" in out


def test_test(grammar: Run, write: Write) -> None:
    path = write("p.json", PERSON)
    status, out, _ = grammar("test", path, '{"name":"Ann","age":3}')
    assert (status, out) == (0, "accepted\n")
    status, out, _ = grammar("test", path, '{"name":"Änn","agee":3}')
    assert status == 1
    assert "rejected at byte 19, line 1, column 19" in out
    assert "here could follow: '\":'" in out
    lines = out.splitlines()
    assert lines[1][lines[2].index("^") :].startswith('e":3')
    status, out, _ = grammar("test", path, '{"name":"Ann","age":')
    assert status == 1
    assert "the text ends too soon" in out
    assert "[2-9]" in out
    status, out, _ = grammar("test", path, "x", "--json")
    result = json.loads(out)
    assert (result["accepted"], result["byte"], result["character"]) == (False, 0, 0)
    assert result["expected"] == ['\'{"name":"\'']


def test_test_files_and_lines(grammar: Run, write: Write) -> None:
    path = write("w.regex", "[a-zé]{2,4}")
    text = write("text.txt", "ab\nabcéf\n\nzz\n")
    status, out, _ = grammar("test", path, "--file", text, "--lines")
    assert status == 1
    assert "line 1: accepted" in out
    assert "line 2: rejected at byte 5, column 5" in out
    assert "line 3: rejected: the text ends too soon" in out
    assert out.endswith("2 of 4 lines accepted\n")
    assert grammar("test", path, "--stdin", stdin="éé".encode())[0] == 0
    status, _, err = grammar("test", path, "--stdin", stdin=b"\xc3")
    assert status == 1
    assert "no UTF-8" in err
    status, out, _ = grammar("test", path, "--stdin", "--lines", "--json", stdin=b"ab\nc\n")
    assert [r["accepted"] for r in json.loads(out)] == [True, False]
    status, out, _ = grammar("test", path, "--stdin", stdin=b"abc\n")
    assert "line 1, column 4" in out, "the line's end is no part of the text"


def test_explain(grammar: Run, write: Write) -> None:
    status, out, _ = grammar("explain", write("p.json", PERSON))
    assert status == 0
    assert '"name" (required): string, at most 5 characters' in out
    assert '"age" (required): integer, at least 0, at most 150' in out
    assert "other keys: not allowed" in out
    assert 'shortest text, 19 bytes: {"name":"","age":0}' in out
    assert 'always begins with: {"name":"' in out
    status, out, _ = grammar("explain", write("w.regex", "[a-z]{2}|zoo"))
    assert status == 0
    assert "root ::= " in out
    assert "begins with: " in out


def test_explain_finds_all_refusals(grammar: Run, write: Write) -> None:
    path = write("wrong.json", WRONG)
    status, out, _ = grammar("explain", path)
    assert status == 1
    assert "line 4, column 31 (keyword nonsense)" in out
    assert "line 5, column 5" in out
    assert out.count("refused:") >= 2
    _, out, _ = grammar("explain", path, "--json")
    pointers = [e["pointer"] for e in json.loads(out)["refusals"]]
    assert len(set(pointers)) == len(pointers) >= 2


def test_convert(grammar: Run, write: Write) -> None:
    path = write("w.regex", "[a-z]{2,4}")
    assert grammar("convert", path, "--to", "gbnf")[1] == "root ::= [a-z]{2,4}\n"
    assert grammar("convert", path, "--to", "lark")[1] == "start: /[a-z]/~2..4\n"
    assert grammar("convert", path, "--to", "regex")[1] == "[a-z]{2,4}\n"
    status, out, err = grammar("convert", write("any.json", "{}"), "--to", "regex")
    assert (status, out) == (1, "")
    assert "recursive" in err
    tags = {"structures": [{"begin": "<t>", "schema": True, "end": "</t>"}], "triggers": ["<t>"]}
    tagged = write("tags.json", json.dumps({"type": "structural_tag", **tags}))
    status, out, err = grammar("convert", tagged, "--to", "gbnf")
    assert status == 0
    assert "special tokens" in err
    status, out, _ = grammar("convert", tagged, "--to", "gbnf", "--json")
    assert json.loads(out)["notes"]


# The parts.


@pytest.mark.parametrize(
    ("pointer", "keyword", "found"),
    [
        ("", "", '{\n  "type"'),
        ("", "properties", '"properties"'),
        ("/properties/a~1b", "", '"a/b"'),
        ("/properties/a~1b", "nonsense", '"nonsense"'),
        ("/properties/a~1b/nonsense", "nonsense", '"nonsense"'),
        ("/properties/list/1", "", '{"skipped'),
        ("/properties/y/items/1", "type", '"type": "strange"'),
        ("/properties/y/items/7", "type", '"items"'),
        ("/missing/one", "type", '{\n  "type"'),
    ],
)
def test_pointers_lead_to_places(pointer: str, keyword: str, found: str) -> None:
    error = GrammarError("wrong", keyword=keyword, pointer=pointer)
    offset = place_of(error, WRONG)
    assert offset is not None
    assert WRONG[offset:].startswith(found)


def test_places_in_what_is_no_json() -> None:
    for source in ("", "{", '{"a', '{"a" 1}', "[1", "nul"):
        place_of(GrammarError("wrong", pointer="/a/b"), source)
    assert place_of(GrammarError("wrong", position=99), "abc") == 3


def test_context_of_long_lines() -> None:
    line = "".join(chr(0x61 + i % 26) for i in range(1_000))
    for offset in (0, 3, 500, 999, 1_000):
        shown, caret = context(f"first\n{line}\nlast", 6 + offset)
        assert len(shown) <= 102
        assert caret.endswith("^")
        if offset < 1_000:
            assert shown[len(caret) - 1] == line[offset]
    assert context("a\tb\x07c", 4) == ["a·b·c", "    ^"]
    assert line_and_column("ab\ncd", 3) == (2, 1)


def test_what_can_follow() -> None:
    def after(spec: GrammarSpec, text: bytes) -> list[str]:
        grammar = compile_grammar(spec)
        size, state = read_as_far(grammar, text)
        assert size == len(text)
        return ways_on(grammar, state)

    assert after(GrammarSpec("regex", "ab?"), b"a") == ['"b"', "the end"]
    assert after(GrammarSpec("regex", "[a-cé]x|dog"), b"") == ["[a-c é]", '"dog"']
    assert after(GrammarSpec("regex", "é"), b"\xc3") == ["the rest of a character"]
    assert after(GrammarSpec("regex", "a"), b"a") == ["the end"]
    many = json.dumps([f"{chr(0x61 + i)}{i}" for i in range(26)])
    assert after(GrammarSpec("choices", many), b"")[-1] == "15 more"
    tags = {"format": {"type": "tag", "begin": "<t>", "content": {"type": "any_text"}, "end": "]"}}
    first = after(GrammarSpec("structural_tag", json.dumps(tags)), b"")
    assert first == ['"<t>"', "the special token <t>"]


def test_shortest_text() -> None:
    def shortest(kind: Any, source: str) -> tuple[bytes, int]:
        return shortest_text(compile_grammar(GrammarSpec(kind, source)))

    assert shortest("regex", "[!-~]{3}|abcd") == (b"000", 3)
    assert shortest("json_schema", PERSON) == (b'{"name":"","age":0}', 19)
    text, length = shortest("json_schema", '{"type": "string", "minLength": 100000}')
    assert length == 100_002
    assert len(text) == 2_000


def test_refusals_end() -> None:
    nested: Any = {"nonsense": 1}
    for _ in range(30):
        nested = {"type": "object", "properties": {"a": nested}, "nonsense": 1}
    assert len(list(refusals(GrammarSpec("json_schema", json.dumps(nested))))) == 20
    for source in ("[", "5", '{"type": 5}', '{"$ref": "#/nowhere"}', "false"):
        assert 1 <= len(list(refusals(GrammarSpec("json_schema", source)))) <= 3
    assert len(list(refusals(GrammarSpec("regex", r"(a)\1(b)\2")))) == 1
    assert list(refusals(GrammarSpec("json_schema", PERSON))) == []


def test_outline() -> None:
    value = {
        "anyOf": [
            {"type": ["string", "null"], "pattern": "^a", "minLength": 1, "maxLength": 1},
            {"type": "array", "prefixItems": [True], "items": False, "contains": {"const": 1}},
            {"$ref": "#/$defs/n"},
            {"enum": [1, 2, 3, 4, 5, "x" * 200]},
            {"required": ["k"], "dependentRequired": {"k": ["l"]}, "patternProperties": {"^x": {}}},
        ],
        "$defs": {"n": {"type": "number", "exclusiveMinimum": 0, "multipleOf": 0.5}},
    }
    text = "\n".join(outline(value))
    assert text.splitlines()[0] == "any of"
    for part in (
        "string or null, 1 character, matching /^a/",
        "item 1: any JSON value",
        "further items: not allowed",
        "contains: 1",
        "as #/$defs/n",
        "one of 1, 2, 3, 4, 5, … (6 values)",
        '"k" (required): any JSON value',
        'with "k": any value; if an object, with',
        "keys matching /^x/: any JSON value",
        "#/$defs/n: number, above 0, a multiple of 0.5",
    ):
        assert part in text
    wide = {"properties": {f"p{i}": {} for i in range(500)}}
    assert len(outline(wide)) == MAX_LINES + 1
    deep: Any = {}
    for _ in range(200):
        deep = {"items": deep}
    assert outline(deep)[-1].strip() == "…"
    for odd in (5, {"properties": 5, "required": "x", "anyOf": {}, "enum": 3, "items": []}):
        assert outline(odd)


def test_files_are_read_as_they_are(write: Write) -> None:
    file = read_grammar(write("a.regex", "a\\n\r\n"), None, {})
    assert file.spec == GrammarSpec("regex", "a\\n")
    file = read_grammar(write("b.regex", " \t"), "regex", {"order": "any"})
    assert file.spec == GrammarSpec("regex", " \t", order="any")
