"""Regular expressions: the texts that Python's `re` (with ASCII classes) matches, or refused."""

from __future__ import annotations

import random
import re

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from sgen.errors import GrammarError
from sgen.grammars import pushdown
from sgen.grammars import regex as regex_module
from sgen.grammars.automata import run
from sgen.grammars.compile import compile_grammar
from sgen.grammars.grammar import Grammar
from sgen.grammars.regex import anywhere, automaton, expansion, lengths, whole, with_length
from sgen.grammars.regex_syntax import parse
from sgen.protocol import GrammarSpec
from tests.walks import random_text


def compiled(pattern: str) -> Grammar:
    return compile_grammar(GrammarSpec("regex", pattern))


def patterns() -> st.SearchStrategy[str]:
    leaf = st.sampled_from(
        ["a", "b", "é", "😀", ".", "[ab]", "[^a]", "[a-cé]", r"\d", r"\w", r"\s", r"[^\s]", r"\.",
         r"\x61", r"\u00e9", "[0-9-]", "ab", ""]
    )  # fmt: skip

    def grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        group = inner.map(lambda p: f"(?:{p})")
        return st.one_of(
            st.tuples(inner, inner).map("".join),
            st.tuples(inner, inner).map(lambda p: f"({p[0]}|{p[1]})"),
            st.tuples(
                group, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{0,2}?", "{2,}"])
            ).map("".join),
        )

    return st.recursive(leaf, grow, max_leaves=8)


TEXTS = st.text(alphabet="ab1 é😀.-c\n", max_size=8)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(pattern=patterns(), texts=st.lists(TEXTS, min_size=6, max_size=12))
def test_agrees_with_re(pattern: str, texts: list[str]) -> None:
    machine = automaton(whole(parse(pattern)))
    assert machine is not None
    for text in texts:
        assert run(machine, text.encode()) == bool(re.fullmatch(pattern, text, re.ASCII)), (
            pattern,
            text,
        )


@settings(max_examples=100, derandomize=True, deadline=None)
@given(pattern=patterns(), seed=st.integers(0, 99))
def test_whatever_it_writes_matches(pattern: str, seed: int) -> None:
    grammar = compiled(pattern)
    for i in range(5):
        text = random_text(grammar, random.Random(f"{seed} {i}"), size=12).decode()
        assert re.fullmatch(pattern, text), (pattern, text)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(pattern=patterns(), start=st.booleans(), end=st.booleans(), text=TEXTS)
def test_search(pattern: str, start: bool, end: bool, text: str) -> None:
    pattern = "^" * start + f"(?:{pattern})" + "$" * end
    machine = automaton(anywhere(parse(pattern)))
    assert machine is not None
    # `$` of `re` also matches before a last line end; that of JSON Schema does not.
    expected = bool(re.search(pattern.removesuffix("$") + r"\Z" * end, text, re.ASCII))
    assert run(machine, text.encode()) == expected, (pattern, text)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (r"^a$|^b", ["a", "b"], ["ab", ""]),
        (r"(^a|b)c$", ["ac", "bc"], ["c"]),
        (r"\Aab\Z", ["ab"], ["a"]),
        (r"(?P<year>\d{4})-(?<m>\d\d)", ["2024-01"], ["٢٠٢٤-01", "2024-1"]),
        (r"\u{1F600}|\uD83D\uDE01", ["😀", "😁"], ["a"]),
        (r"[\u0061-\x63]+", ["abc"], ["d", ""]),
        (r"a{,b}{x}{", ["a{,b}{x}{"], ["a"]),
        (r"[\w-.]+", ["a-.", "_"], [" "]),
        (r"[^\w]", [" ", "-"], ["é", "a"]),
        (r"\W", ["-"], ["é", "a"]),
        (r"\w", ["a", "_", "9"], ["é"]),
        (r"\s", [" ", "\u00a0", "\u2028"], ["\ufeff", "\x1c"]),
        (r"\S", ["a", "é"], [" ", "\ufeff", "\x1c", "\x85"]),
        (r".", ["a", "😀", "\x85"], ["\n", "\r", "\u2028"]),
        (r"\p{Lu}\P{L}", ["A1", "É-"], ["a1", "AA"]),
        (r"\p{Script=Greek}+", ["αβ"], ["a"]),
        (r"\0|[\b]", ["\0", "\b"], ["b"]),
        (r"[\]a]", ["]", "a"], ["\\"]),
        (r"[+--]", ["+", ",", "-"], ["."]),
        (r"(a?){3}", ["", "a", "aaa"], ["aaaa"]),
        (r"((a{0,2})*b){2}", ["bb", "aaaaabab"], ["b", "bbb"]),
        (r"(a*)*", ["", "aaa"], ["b"]),
        (r"((a|b?)+c?){2,3}", ["", "abcabc"], ["d"]),
        (r"a{300}", ["a" * 300], ["a" * 299, "a" * 301]),
        (r"[ab]{2,65535}", ["ab" * 40], ["a"]),
    ],
)
def test_accepts_and_rejects(pattern: str, yes: list[str], no: list[str]) -> None:
    grammar = compiled(pattern)
    assert [t for t in yes if not grammar.matches(t.encode())] == []
    assert [t for t in no if grammar.matches(t.encode())] == []


@pytest.mark.parametrize(
    ("pattern", "keyword", "position"),
    [
        ("a(?=b)", "look-ahead", 1),
        ("(?!b)c", "negative look-ahead", 0),
        ("x(?<=b)", "look-behind", 1),
        ("(?<!b)", "negative look-behind", 0),
        (r"(a)\1", "backreference", 3),
        (r"(?P<n>a)(?P=n)", "backreference", 8),
        (r"\bfoo", "word boundary", 0),
        ("(?i)foo", "flags", 0),
        ("(?>a)", "atomic group", 0),
        ("a++", "quantifier", 2),
        ("a**", "quantifier", 2),
        ("*a", "quantifier", 0),
        ("a{3,2}", "quantifier", 1),
        ("a{,3}", "quantifier", 1),
        ("a{70000}", "quantifier", 1),
        ("a{1,99999999999999999999}", "quantifier", 1),
        ("(a{1,1000}){1,1000}", "quantifier", None),
        ("((((a{9}){9}){9}){9}){9}", "quantifier", None),
        ("a^b", "anchor", 1),
        ("(a$)b", "anchor", 2),
        ("(^a)+", "anchor", 1),
        ("[a", "class", 0),
        ("[]a]", "class", 0),
        ("[b-a]", "class", 1),
        ("[[:alpha:]]", "class", 1),
        ("(a", "group", 0),
        ("a)", "group", 1),
        (r"\q", "escape", 0),
        ("a\\", "escape", 1),
        (r"\x6", "escape", 0),
        (r"\ud800", "escape", 0),
        (r"\u{110000}", "escape", 0),
        (r"\p{Nonsense}", "property", 0),
        (r"\pL", "property", 0),
        ("(" * 65 + "a" + ")" * 65, "group", 64),
        ("a" * 1025, "pattern", 1024),
        ("[^\\s\\S]", "unsatisfiable", None),
    ],
)
def test_refused(pattern: str, keyword: str, position: int | None) -> None:
    with pytest.raises(GrammarError) as caught:
        compiled(pattern)
    assert (caught.value.keyword, caught.value.position) == (keyword, position)


@pytest.mark.parametrize("name", ["d", "w", "s"])
def test_classes_lie_between_the_dialects(name: str) -> None:
    """What is accepted is in the class for ECMA-262, Python and Unicode alike."""
    positive, negative = compiled(rf"\{name}"), compiled(rf"\{name.upper()}")
    ascii_only, unicode_too = regex.compile(rf"(?a)\{name}"), regex.compile(rf"\{name}")
    for code in [*range(0x3100), 0xFEFF, 0x1D7D8]:
        char = chr(code)
        if positive.matches(char.encode()):
            assert unicode_too.match(char)
        if ascii_only.match(char) and code not in range(0x1C, 0x20):
            assert positive.matches(char.encode())
        if negative.matches(char.encode()):
            assert not unicode_too.match(char)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(pattern=patterns(), low=st.integers(0, 4), size=st.integers(0, 4), text=TEXTS)
def test_with_length(pattern: str, low: int, size: int, text: str) -> None:
    tree = whole(parse(pattern))
    least, most = lengths(tree)
    if re.fullmatch(pattern, text, re.ASCII):
        assert least <= len(text) <= (len(text) if most is None else most)
    narrowed = with_length(tree, low, low + size)
    if narrowed is not None:
        machine = automaton(narrowed)
        fits = bool(re.fullmatch(pattern, text, re.ASCII)) and low <= len(text) <= low + size
        assert (machine is not None and run(machine, text.encode())) == fits


def test_repetitions_are_counted_not_unrolled() -> None:
    assert expansion(parse("[a-z]{1,60000}")) < 10
    grammar = compiled("x[a-z]{1,60000}y")
    assert grammar.num_states == 1
    assert grammar.matches(b"x" + b"a" * 500 + b"y")
    assert not grammar.matches(b"xy")


def test_ambiguity_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text with too many readings ends in an error, not in a hang."""
    monkeypatch.setattr(pushdown, "MAX_CONFIGURATIONS", 100)
    grammar = compiled(".{0,3000}x.{0,3000}x")
    assert grammar.matches(b"x" * 90)
    with pytest.raises(GrammarError) as caught:
        grammar.matches(b"x" * 150)
    assert caught.value.keyword == "ambiguity"


def test_states_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regex_module, "MAX_STATES", 500)
    grammar = compiled("[ab]*a[ab]{20}")
    rng = random.Random(0)
    with pytest.raises(GrammarError) as caught:
        grammar.matches(bytes(rng.choice(b"ab") for _ in range(5000)))
    assert caught.value.keyword == "states"
