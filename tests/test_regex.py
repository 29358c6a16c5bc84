r"""Regular expressions: the texts that ECMA-262 says they match, or a refusal with its place.

Python's `re` is the oracle, once the classes that it sees differently are written out for it.
"""

from __future__ import annotations

import json
import random
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgen.errors import GrammarError
from sgen.grammars import language, pushdown
from sgen.grammars import regex as regex_module
from sgen.grammars.automata import DEAD, Automaton, run
from sgen.grammars.charset import shorthand
from sgen.grammars.compile import compile_grammar
from sgen.grammars.grammar import Grammar
from sgen.grammars.language import of_pattern
from sgen.grammars.regex import automaton, expansion, lengths, whole, with_length
from sgen.grammars.regex_parser import parse
from sgen.grammars.work import Work
from sgen.protocol import GrammarSpec
from tests.front_ends import check_means
from tests.walks import random_text

WHITE = "".join(chr(c) for low, high in shorthand("s") for c in range(low, high + 1))


def compiled(pattern: str) -> Grammar:
    return compile_grammar(GrammarSpec("regex", pattern))


def machine(pattern: str, *, search: bool = False) -> Automaton | None:
    return language.automaton(of_pattern(pattern, search=search), "utf8", Work())


def for_python(pattern: str) -> str:
    """The same with classes written out as ECMA-262 has them."""
    pattern = pattern.replace(r"[^\s]", f"[^{WHITE}]").replace(r"\s", f"[{WHITE}]")
    pattern = pattern.replace(r"\d", "[0-9]").replace(r"\w", "[0-9A-Za-z_]")
    return re.sub(r"(?<!\\)\.", "[^\n\r\u2028\u2029]", pattern)


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
        assert re.fullmatch(for_python(pattern), text), (pattern, text)


def conditional(look_around: bool) -> st.SearchStrategy[str]:
    """Patterns with anchors anywhere, some with look-around at one end."""
    leaf = st.sampled_from(["a", "b", "c", "[ab]", "[^a]", "^", "$", "ab", "", "a+", "[bc]{0,2}"])

    def grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        count = st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "{1,3}"])
        return st.one_of(
            st.tuples(inner, inner).map("".join),
            st.tuples(inner, inner).map(lambda p: f"(?:{p[0]}|{p[1]})"),
            st.tuples(inner, count).map(lambda p: f"(?:{p[0]}){p[1]}"),
        )

    body = st.recursive(leaf, grow, max_leaves=6)
    if not look_around:
        return body
    ahead = st.tuples(st.sampled_from(["(?=", "(?!"]), body).map(lambda p: "".join(p) + ")")
    behind = st.tuples(
        st.sampled_from(["(?<=", "(?<!"]), st.sampled_from(["a", "ab", "[bc]", "^b", "cc"])
    ).map(lambda p: "".join(p) + ")")
    start = st.sampled_from(["^", "^a", "^[ab]c", ""])
    end = st.sampled_from(["$", "b$", "[ab]$", ""])
    return st.tuples(start, ahead, body, behind, end).map("".join)


SHORT = [""] + [a + b + c + d for a in "abc" for b in " abc" for c in " abc" for d in " abc"]
SHORT = sorted({text.replace(" ", "") for text in SHORT})


@settings(max_examples=150, derandomize=True, deadline=None)
@given(pattern=conditional(False), search=st.booleans())
def test_anchors_anywhere(pattern: str, search: bool) -> None:
    """Alone, in the middle, repeated and in alternatives: as `re` without its `$` before a line
    end."""
    found, matcher = machine(pattern, search=search), re.compile(pattern)
    match = matcher.search if search else matcher.fullmatch
    for text in SHORT:
        accepted = found is not None and run(found, text.encode())
        assert accepted == bool(match(text)), (pattern, text)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(pattern=conditional(True), search=st.booleans())
def test_look_around_is_right_or_refused(pattern: str, search: bool) -> None:
    matcher = re.compile(pattern)
    match = matcher.search if search else matcher.fullmatch
    try:
        found = machine(pattern, search=search)
    except GrammarError as error:
        places = [m.start() for m in re.finditer(r"\(\?<?[=!]", pattern)]
        if error.keyword != "look-around" or error.position not in places:
            raise
        return
    for text in SHORT:
        accepted = found is not None and run(found, text.encode())
        assert accepted == bool(match(text)), (pattern, text)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (r"^(?!@@)[\w@]+$", ["a", "@a"], ["@@", "@@a"]),
        (r"^(?=.*[A-Z])(?=.*\d)(?!.*\s).{4,8}$", ["aB3d"], ["ab3d", "aBcd", "a B3d", "aB3"]),
        (r"^[a-z](?!.*--)[a-z-]*(?<!-)$", ["a-b", "a"], ["a--b", "a-", "-a"]),
        (r"^((?!foo).)*$", ["", "fo", "bar"], ["foo", "a foo b", "a\nb"]),
        (r"^ab(?!c)", ["ab", "abd"], ["abc", "xab"]),
        (r"foo(?=bar)", ["xfoobarx"], ["foo", "foob"]),
        (r"(?<=\$)\d+$", ["$5", "a$5"], ["5", "€5"]),
        (r"^(?!.*(\.\.|//)).*$", ["a.b/c"], ["a..b", "a//b"]),
        (r"(?!^\d+$)^.+$", ["a1", "1a"], ["1", ""]),
        (r"^$|^(?:\S+\s+){0,2}\S+$", ["", "a b c"], ["a b c d", " a"]),
        (r"a^b|c", ["c", "xc"], ["ab", "a^b"]),
        (r"(?:^|,)x(?:,|$)", ["x", "a,x,b", ",x"], ["ax", "xa"]),
    ],
)
def test_conditions(pattern: str, yes: list[str], no: list[str]) -> None:
    found = machine(pattern, search=True)
    assert found is not None
    assert [t for t in yes if not run(found, t.encode())] == []
    assert [t for t in no if run(found, t.encode())] == []


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
        (r"[^\w]", [" ", "-", "é"], ["a"]),
        (r"\W", ["-", "é"], ["a"]),
        (r"\w", ["a", "_", "9"], ["é"]),
        (r"\s", [" ", "\u00a0", "\u2028", "\ufeff"], ["\x1c", "\x85"]),
        (r"\S", ["a", "é", "\x1c", "\x85"], [" ", "\ufeff"]),
        (r"\cJ\cj", ["\n\n"], ["\n"]),
        (r"(?i)stra[ß-à]É", ["STRAßé", "straÀé"], ["stra", "strasse"]),
        (r"a(?i:b)(?-i:c)(?s:.)", ["aBc\n", "abcx"], ["ABc\n", "abC\n"]),
        (r"(?i)[^a]", ["b"], ["a", "A"]),
        (r"\pL\PL\p{Lu}", ["a1A"], ["a1a"]),
        (r"(?<first>a)(?P<second>b)(?:c)", ["abc"], ["ab"]),
        (r"[\uD800-\uDFFF]|a", ["a"], [""]),
        (r"\_\-\/\"\@\ ", ['_-/"@ '], ["_"]),
        (r"a.b", ["a\u2027b"], ["a\u2028b", "a\rb"]),
        (r"(a^b|c)", ["c"], ["ab", ""]),
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
    check_means(grammar, yes, no)


@pytest.mark.parametrize(
    ("pattern", "keyword", "position"),
    [
        ("a+(?=b)c", "look-around", 2),
        ("(?:(?!b)c)+d", "look-around", 3),
        ("x(?<=b)y*", "look-around", 1),
        ("a|(?!b)c|d", "look-around", 2),
        ("(?=a)*", "quantifier", 0),
        (r"(a)\1", "backreference", 3),
        (r"(?P<n>a)(?P=n)", "backreference", 8),
        (r"\bfoo", "word boundary", 0),
        ("(?m)foo", "flags", 0),
        ("a(?i)foo", "flags", 1),
        ("(?<a>x)(?<a>y)", "group", 7),
        ("(?<1>x)", "group", 0),
        ("(?)", "group", 0),
        ("(?>a)", "atomic group", 0),
        ("a++", "quantifier", 2),
        ("a**", "quantifier", 2),
        ("*a", "quantifier", 0),
        ("a{3,2}", "quantifier", 1),
        ("a{,3}", "quantifier", 1),
        ("a{20000000}", "quantifier", 1),
        ("a{1,99999999999999999999}", "quantifier", 1),
        ("(a{1,1000}){1,1000}", "quantifier", None),
        ("((((a{9}){9}){9}){9}){9}", "quantifier", None),
        ("a^b", "unsatisfiable", None),
        ("^*", "quantifier", 0),
        ("[a", "class", 0),
        ("[]a]", "class", 0),
        ("[b-a]", "class", 1),
        ("[[:alpha:]]", "class", 1),
        ("(a", "group", 0),
        ("a)", "group", 1),
        (r"\q", "escape", 0),
        ("a\\", "escape", 1),
        (r"\x6", "escape", 0),
        (r"\ud800", "unsatisfiable", None),
        (r"\u{110000}", "escape", 0),
        (r"\p{Nonsense}", "property", 0),
        (r"\pq", "property", 0),
        ("(" * 65 + "a" + ")" * 65, "group", 64),
        ("a" * 8193, "pattern", 8192),
        ("[^\\s\\S]", "unsatisfiable", None),
    ],
)
def test_refused(pattern: str, keyword: str, position: int | None) -> None:
    with pytest.raises(GrammarError) as caught:
        compiled(pattern)
    assert (caught.value.keyword, caught.value.position) == (keyword, position)


def test_shorthand_classes_are_those_of_ecma() -> None:
    spaces = set("\t\n\v\f\r\u2028\u2029\ufeff")
    for code in [*range(0x3100), 0xFEFF, 0x1D7D8]:
        char = chr(code)
        expected = {
            "d": char in "0123456789",
            "w": char == "_" or (char.isascii() and char.isalnum()),
            "s": char in spaces or unicodedata.category(char) == "Zs",
        }
        for letter, inside in expected.items():
            for name, wanted in ((letter, inside), (letter.upper(), not inside)):
                assert any(a <= code <= b for a, b in shorthand(name)) == wanted, (code, name)


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
    found = automaton(whole(parse("x[a-z]{1,60000}y")))
    assert found is not None
    assert run(found, b"x" + b"a" * 500 + b"y")
    assert not run(found, b"xy")


def test_long_nested_repetitions_become_one_network() -> None:
    """Where more than a machine has room for could be read in several ways at once."""
    pattern = "([a-z]{1,20},){0,99}[a-z]{1,20}"
    assert expansion(parse(pattern)) > regex_module.MAX_EXPANSION
    found = machine(pattern)
    assert found is not None
    assert run(found, b",".join([b"abc"] * 100))
    assert not run(found, b",".join([b"abc"] * 101))
    assert not run(found, b",".join([b"abc"] * 5 + [b"a" * 21]))


def test_ambiguity_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very many readings of a text some are dropped: it ends in no hang, and in no trap."""
    monkeypatch.setattr(pushdown, "MAX_CONFIGURATIONS", 100)
    found = automaton(whole(parse(".{0,3000}x.{0,3000}x")))
    assert found is not None
    assert run(found, b"x" * 90)
    state = found.advance(found.start, b"x" * 150)
    assert state != DEAD
    assert found.weight(state) <= 100
    assert found.distance(state) <= 1


def test_states_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regex_module, "MAX_STATES", 500)
    found = automaton(whole(parse("[ab]*a[ab]{20}")))
    assert found is not None
    rng = random.Random(0)
    with pytest.raises(GrammarError) as caught:
        run(found, bytes(rng.choice(b"ab") for _ in range(5000)))
    assert caught.value.keyword == "states"


@pytest.mark.parametrize(
    "pattern",
    ["(a{1,1000}){1,1000}", "(?:" * 60 + "a" + "){1,9}" * 60, "^(?!.*a.{15}b).*$",
     "((a{1,99}){1,99}b?)*", "(?=.*a.{14}$)(?=.*b.{13}$)^.*$"],
)  # fmt: skip
def test_hostile_patterns_are_refused_soon(pattern: str) -> None:
    with pytest.raises(GrammarError) as caught:
        machine(pattern, search=True)
    assert caught.value.keyword in ("quantifier", "ambiguity", "work", "pattern")


def test_every_real_pattern_is_read(shared: Path) -> None:
    """Those of real schemas: none is refused."""
    found: set[str] = set()
    pending = [
        json.loads(line)["schema"]
        for line in (shared / "grammar" / "jsonschema_dev.jsonl").read_text().splitlines()
    ]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            found |= {v for k, v in part.items() if k == "pattern" and isinstance(v, str)}
            pending += part.values()
        elif isinstance(part, list):
            pending += part
    assert len(found) > 100
    for pattern in found:
        assert machine(pattern, search=True) is not None
