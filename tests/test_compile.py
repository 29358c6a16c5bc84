"""Sources of grammars: choices, and what is refused."""

from __future__ import annotations

import json
from typing import Literal

import pytest

from sgen.errors import GrammarError
from sgen.grammars.compile import compile_grammar
from sgen.protocol import GrammarSpec

Kind = Literal["regex", "json_schema", "choices", "lark", "gbnf"]


def test_choices() -> None:
    grammar = compile_grammar(GrammarSpec("choices", '["yes","no","yes, but","é",""]'))
    for choice in ["yes", "no", "yes, but", "é", ""]:
        assert grammar.matches(choice.encode())
    for other in ["y", "yes,", "nope", "\xe9".encode("latin-1").decode("latin-1") + "é"]:
        assert not grammar.matches(other.encode())


def test_many_choices() -> None:
    choices = [f"item {i * 7919}" for i in range(4096)]
    grammar = compile_grammar(GrammarSpec("choices", json.dumps(choices)))
    assert grammar.matches(choices[-1].encode())
    assert not grammar.matches(b"item 1")


@pytest.mark.parametrize(
    ("kind", "source", "keyword"),
    [
        ("choices", "[]", "choices"),
        ("choices", "[1]", "choices"),
        ("choices", '"ab"', "choices"),
        ("choices", "[", "choices"),
        ("choices", "[" * 100_000, "choices"),
        ("choices", json.dumps(["x"] * 5000), "choices"),
        ("choices", r'["\ud800"]', "choices"),
        ("lark", "start: 'a'", "syntax"),
        ("gbnf", "root ::= b", "undefined"),
    ],
)
def test_refused(kind: Kind, source: str, keyword: str) -> None:
    with pytest.raises(GrammarError) as caught:
        compile_grammar(GrammarSpec(kind, source))
    assert caught.value.keyword == keyword


def test_digest_names_the_source() -> None:
    sources: list[tuple[Kind, str]] = [("regex", "1"), ("json_schema", "true"), ("regex", "true")]
    digests = {compile_grammar(GrammarSpec(kind, source)).digest for kind, source in sources}
    assert len(digests) == 3
    again = compile_grammar(GrammarSpec("regex", "1"))
    assert again.digest in digests


def test_errors_of_the_interpreter_become_grammar_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(*_: object, **__: object) -> int:
        return endless(*_)

    monkeypatch.setattr("sgen.grammars.compile.lower_schema", endless)
    with pytest.raises(GrammarError) as caught:
        compile_grammar(GrammarSpec("json_schema", "true"))
    assert isinstance(caught.value.__cause__, RecursionError)
