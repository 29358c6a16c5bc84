"""Lark grammars: the texts that lark's complete dynamic lexer accepts, or an error with a place."""

from __future__ import annotations

import random
import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lark import Lark
from lark.exceptions import LarkError, UnexpectedInput
from lark.lexer import TerminalDef

from sgen.errors import GrammarError
from sgen.grammars import library
from sgen.grammars.automata import run
from sgen.grammars.compile import compile_grammar
from sgen.grammars.grammar import Grammar
from sgen.grammars.lark_lexeme import lexeme, table
from sgen.grammars.lark_regex import read
from sgen.grammars.pushdown import Pushdown
from sgen.grammars.work import Work
from sgen.protocol import GrammarSpec
from tests.front_ends import check_ends_soon, check_means, check_place
from tests.walks import random_text


def compiled(source: str) -> Grammar:
    return compile_grammar(GrammarSpec("lark", source))


def reader(source: str) -> Lark:
    return Lark(source, parser="earley", lexer="dynamic_complete", ambiguity="forest",
                import_paths=[library.load])  # fmt: skip


def reads(parser: Lark, text: str) -> bool:
    try:
        parser.parse(text)
    except UnexpectedInput:
        return False
    except RuntimeError as error:  # lark finds two ways to end, and did not think of that
        return "multiple start symbol items" in str(error)
    return True


def most_readings(source: str, texts: list[bytes]) -> int:
    """The most configurations of any state on the way through texts that are accepted."""
    grammar = Grammar(compiled(source).plan, in_c=False)
    assert all(grammar.matches(text) for text in texts)
    machine = grammar.automaton
    assert isinstance(machine, Pushdown)
    return max(len(machine.configurations(state)) for state in range(machine.num_states))


# Against lark itself.


def body(rng: random.Random, depth: int, names: list[str]) -> str:
    """Alternatives of a rule."""

    def item() -> str:
        if depth == 0 or rng.random() < 0.6:
            terminals = ['"a"', '"b"', '"ab"', "A", "B", "/a|ab/", "/b+?/", '"a".."b"', '"B"i']
            return rng.choice([*names, *names, *terminals])
        inner = body(rng, depth - 1, names)
        if rng.random() < 0.3:
            return f"[{inner}]"
        return f"({inner}){rng.choice(['', '?', '*', '+', '~2', '~1..2'])}"

    def series() -> str:
        return " ".join(item() for _ in range(rng.choice([0, 1, 1, 2, 2])))

    return " | ".join(series() or '"c"' for _ in range(rng.choice([1, 1, 2, 2])))


IGNORED = ["", "", '%ignore " "', "%ignore /[ ]+/", '%ignore "a"', '%ignore /[ a]+/\n%ignore "  "',
           "%ignore / +/\n%ignore /#[^\\n]*/"]  # fmt: skip


def random_grammar(rng: random.Random) -> str:
    names = ["start", "x", "y", "z"][: rng.randint(1, 4)]
    lines = []
    for name in names:
        end = " | " + " ".join(names[1:]) if name == "start" else rng.choice(["", "", " |"])
        lines.append(f"{name}: {body(rng, 2, names)}{end}")
    return "\n".join([*lines, 'A: "a" "b"?', 'B: "b" | A "c"', rng.choice(IGNORED)]) + "\n"


@settings(max_examples=50, derandomize=True, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_agrees_with_lark(seed: int) -> None:
    """Random grammars, left recursive, ambiguous, with circles and empty rules as they come."""
    rng = random.Random(seed)
    source = random_grammar(rng)
    try:
        parser = reader(source)
    except LarkError:
        return
    if len(parser.rules) > 60:  # lark writes out what is optional, and takes its time
        return
    try:
        grammar = compiled(source)
    except GrammarError as error:
        if error.keyword != "unsatisfiable":
            raise
        return
    texts = ["".join(rng.choice("aabbcB  #\n") for _ in range(rng.randint(0, 6))) for _ in range(9)]
    try:
        for _ in range(4):
            text = random_text(grammar, rng, size=6).decode()
            k = rng.randrange(len(text) + 1)
            texts += [text, text[:k] + text[k + 1 :], text[:k] + rng.choice("ab c") + text[k:]]
        for text in texts:
            if len(text) < 9:
                assert grammar.matches(text.encode()) == reads(parser, text), (source, text)
    except GrammarError as error:
        if error.keyword != "states":
            raise


def pattern(rng: random.Random, depth: int) -> str:
    if depth == 0 or rng.random() < 0.35:
        return rng.choice(["a", "b", "[ab]", "[^a]", ".", "c", '"', "(?<!a)", r"\w", "(?i:a)"])
    if rng.random() < 0.4:
        return pattern(rng, depth - 1) + pattern(rng, depth - 1)
    if rng.random() < 0.5:
        return f"(?:{pattern(rng, depth - 1)}|{pattern(rng, depth - 1)})"
    signs = ["*", "+", "?", "*?", "+?", "??", "{2}", "{1,3}", "{0,2}?", "{2,}?", "{2,}"]
    return f"(?:{pattern(rng, depth - 1)}){rng.choice(signs)}"


@settings(max_examples=100, derandomize=True, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_terminal_is_what_re_prefers(seed: int) -> None:
    rng = random.Random(seed)
    source = pattern(rng, 4)
    if rng.random() < 0.4:
        ahead, other = rng.choice(["(?!a)", "(?![bc])", "(?=a)", r"\b"]), pattern(rng, 3)
        choices = [source + ahead, f"(?:{source}{ahead}|{other})", f"{source}(?:{ahead}{other})?"]
        source = rng.choice(choices)
    try:
        machines = [lexeme(read(source), Work()), table(read(source), Work()).automaton()]
    except GrammarError as error:
        if error.keyword not in ("regexp", "unsatisfiable"):
            raise
        return
    for _ in range(20):
        text = "".join(rng.choice('aabbc"A\n') for _ in range(rng.randint(0, 7)))
        found = re.match(source, text)
        expected = found is not None and found.end() == len(text)
        assert [run(m, text.encode()) for m in machines] == [expected] * 2, (source, text)


def common() -> list[TerminalDef]:
    names = [
        "DIGIT", "HEXDIGIT", "INT", "SIGNED_INT", "DECIMAL", "FLOAT", "SIGNED_FLOAT", "NUMBER",
        "SIGNED_NUMBER", "ESCAPED_STRING", "LCASE_LETTER", "UCASE_LETTER", "LETTER", "WORD",
        "CNAME", "WS_INLINE", "WS", "CR", "LF", "NEWLINE", "SH_COMMENT", "CPP_COMMENT",
        "C_COMMENT", "SQL_COMMENT",
    ]  # fmt: skip
    source = "".join(f"%import common.{n}\n" for n in names) + f"start: {' | '.join(names)}"
    return list(reader(source).terminals)


def test_common_terminals_are_those_of_lark() -> None:
    """On texts made of what matters to them, ESCAPED_STRING with its look-behind among them."""
    rng = random.Random(0)
    for terminal in common():
        grammar = compiled(f"start: {terminal.name}\n%import common.{terminal.name}")
        expression = re.compile(terminal.pattern.to_regexp())
        for _ in range(150):
            size = rng.randint(1, 8)
            text = "".join(rng.choice('"\\\\"aB1.eE+- \t\r\n/*#_') for _ in range(size))
            begin = rng.choice(["", "", '"', "/*", "//", "#", "--", "1"])
            text = begin + text + rng.choice(["", '"', "*/"])
            found = expression.match(text)
            expected = found is not None and found.end() == len(text)
            assert grammar.matches(text.encode()) == expected, (terminal.name, text)


# One by one.

MEANS: dict[str, tuple[str, list[str], list[str]]] = {
    "repetitions": (
        'start: "a"~2 "b"~1..2 ("c" | "d")* "e"+ ["f"]',
        ["aabe", "aabbcdceef"], ["abe", "aabbbe", "aab", "aabeff"],
    ),
    "long counts": ('start: x~100..2000\nx: "a" | "b" "c"', ["a" * 100, "bc" * 2000],
                    ["a" * 99, "a" * 2001, "b" * 100]),
    "templates": (
        'start: _list{NUM} | _list{"x"}\n_list{item}: "[" item ("," item)* "]"\nNUM: /[0-9]+/',
        ["[1,22]", "[x]"], ["[1,x]", "[]"],
    ),
    "templates of templates": (
        'start: pair{opt, "a"}\npair{t, x}: t{x} "," t{x}\nopt{x}: [x]', [",", "a,", "a,a"], ["a"],
    ),
    "flags": (r'start: "é"i /x/i /a.b/s / y z/x', ["ÉXa\nbyz"], ["ÉXab yz"]),
    "escapes": (r'start: "\n\t\\\"\x41\u00e9" /\/\d\./', ['\n\t\\"Aé/7.'], ["n"]),
    "ranges": (r'start: "a".."c" "\u00e0".."\u00ff"', ["aé", "cÿ"], ["dé", "az"]),
    "priorities and trees": (
        'start.2: ?x -> y | _z\n?x.-1: "a"\n!_z: T\nT.10: "b"'.replace("?x ->", "x ->"),
        ["a", "b"], ["ab"],
    ),
    "terminals of terminals": (
        'start: T\nT: A | A B~2 | ("c" A)+\nA: "a"\nB: "b" | "d"', ["a", "abd", "caca"], ["ab"],
    ),
    "the longest alternative of a terminal comes first": (
        'start: T\nT: "a" | "ab" | "abc"', ["a", "ab", "abc"], ["b"],
    ),
    "but not of a regular expression": ("start: /a|ab|abc/", ["a"], ["ab", "abc"]),
    "lazy": ('start: /".*?"/ /<.+?>/s', ['"a"<b>', '""<>>'], ['"a"b"<b>', '"a"<b>>', '""<>']),
    "override": (
        '%import common (INT, DIGIT)\n%override DIGIT: "x"\nstart: INT DIGIT', ["77x"], ["77"],
    ),
    "extend what others use": (
        '%import common (INT, DIGIT)\n%extend DIGIT: "x"\nstart: INT', ["7x", "12"], ["", "y"],
    ),
    "override what others use": (
        '%import sgen.json (value, object)\n%override object: "o"\nstart: value', ["[o]"], ["{}"],
    ),
    "extend": ('%import common.INT\n%extend INT: "x"\nstart: INT', ["x", "12"], ["xx"]),
    "import under another name": ("%import common.INT -> N\nstart: N", ["12"], ["N"]),
    "names are not keywords": (
        'start: NAME | "if" " " NAME\nNAME: /(?!(if|el(se)?)\\b)[a-z]+/',
        ["iffy", "else1"[:4] + "s", "if x", "elx"], ["if", "else", "el", "if if"],
    ),
    "ends of words": (r'start: /if\b/ " " /x(?!\w)/ ";"', ["if x;"], ["if  x;"]),
    "what cannot follow": ('start: (OP " ")+\nOP: /[+*]|[?](?![a-z])|<|<=(?!=)/',
                           ["+ ? ", "< "], ["<= ", "a", "?a "]),
    "look-ahead inside": (r'start: /\/(?!\/)(\\\/|[^\/])*?\/[im]*/ /x+(?=[yz])[^z]/',
                          [r"/a\/b/imxy", "/a/xxy"], ["//x/xy", "/a/xz", "/a/x-", "/a/xx"]),
    "what cannot follow is less preferred": ('start: /a(?!b)|ab/ ";"', ["a;", "ab;"], ["b;"]),
    "a boundary behind other than a word": (r'start: /x\b/ "-"', ["x-"], ["-"]),
    "flags of the whole": ('start: A\nA: /(?i)x/ "y"', ["XY", "xy"], ["x"]),
    "comments and lines": ("start: /a/ // comment\n  | \\\n  /b/ # another\n", ["a", "b"], ["c"]),
    # %ignore
    "ignored around": ('start: "a" "b"\n%ignore " "', ["ab", "  a b "], ["a  c", " "]),
    "ignored alone": ('start: "a"?\n%ignore "  "', ["", "  ", "    a  "], [" ", "a "]),
    "ignored as long as possible": (
        'start: "a" "xb" | "c" " " "d"\n%ignore /x+/\n%ignore /[ ]+/',
        ["axb", " axb", "c d", "c  d"], ["axxb", "cd", "xaxxxb"],
    ),
    "ignored comments": (
        'start: "a"+ "\\n"?\n%ignore /#[^\\n]*/\n%ignore /[ \\n]+/',
        ["a#a\na", "aa #", "# x\na\n"], ["#a", "a#\nb"],
    ),
    "ignored inside nothing": ('start: "ab"\n%ignore " "', ["ab"], ["a b"]),
    "ignored in imports says nothing": ("%import sgen.json\nstart: json", ["[1]"], ["[1 ]"]),
    # Left recursion
    "direct": ('start: start "+" T | T\nT: "t"', ["t", "t+t+t"], ["", "t+", "+t"]),
    "indirect": ('start: x "1" | "s"\nx: y "2" | "x"\ny: start "3" | x "4"',
                 ["s", "x1", "s321", "x421", "s321321"], ["s3", "s31"]),
    "hidden": ('start: e start "x" | "y"\ne: "z"?', ["y", "yx", "zyx", "zzyxx", "zyxx"],
               ["zy", "zzyx", "x"]),
    "counted and empty": ('start: x~60..70 "e"\nx: "(" start ")" | "a"?',
                          ["e", "a" * 70 + "e", "a(e)(a(e)e)e"], ["a" * 71 + "e", "(e)"]),
    "hidden behind two": ('start: e f start "x" | "y"\ne: "z" |\nf: e e', ["y", "zzzyx", "yxx"],
                          ["zzzzyx", "zy"]),
    "circles": ('start: start | x | "a"\nx: start | x x | "b"', ["a", "b", "aab"], ["", "c"]),
    "empty circles": ('start: x x start | "a"\nx: start? x |', ["a", "aa", "aaa"], ["", "b"]),
    "a rule without end": ('start: x | "a"\nx: x "b"', ["a"], ["ab", "b"]),
    "both ends": ('start: start start | "a" | "(" start ")"', ["aa", "(a)a(aa)"], ["", "()"]),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(MEANS))
def test_means(name: str) -> None:
    source, yes, no = MEANS[name]
    check_means(compiled(source), yes, no)


@pytest.mark.parametrize("name", sorted(set(MEANS) - {"long counts", "counted and empty"}))
def test_means_the_same_to_lark(name: str) -> None:
    source, yes, no = MEANS[name]
    parser = reader(source)
    assert [t for t in yes if not reads(parser, t)] == []
    assert [t for t in no if reads(parser, t)] == []


REFUSED: list[tuple[str, str, str | None]] = [
    # source, keyword, line:column
    ('start: (\n', "syntax", "1:9"),
    ('start: "a\n', "syntax", "1:8"),
    ('start "a"\n', "syntax", "1:7"),
    ('start: "a" )\n', "syntax", "1:12"),
    ("start: foo\n", "undefined", "1:8"),
    ('start: "a"\n  | FOO\n', "undefined", "2:5"),
    ('x: "a"\n', "undefined", None),
    ('start: "a"\nother: "b"\n', "unused", "2:1"),
    ('start: "a"\nstart: "b"\n', "defined twice", "2:1"),
    ('start: t{"a"}\nt{x, y}: x y\n', "template", "1:8"),
    ('start: t\nt{x}: x\n', "template", "1:8"),
    ('start: t{"a"}\nt{x}: x t{t{x}}\n', "size", "2:9"),
    ("%declare X\nstart: X\n", "%declare", "1:10"),
    ("%import .other.x\nstart: x\n", "%import", "1:10"),
    ("%import python.NAME\nstart: NAME\n", "%import", "1:9"),
    ("%import os.path.x\nstart: x\n", "%import", "1:9"),
    ("%import common.NOPE\nstart: NOPE\n", "%import", "1:9"),
    ("%import sgen.jsn\nstart: jsn\n", "%import", "1:9"),
    ('%override x: "a"\nstart: x\n', "%override", "1:11"),
    ('%extend x: "a"\nstart: x\n', "%extend", "1:9"),
    ("start: /a*/\n", "empty terminal", "1:8"),
    ('start: ""\n', "empty terminal", "1:8"),
    ('start: A\nA: "a" | A "b"\n', "recursion", "2:10"),
    ('start: A\nA: start\n', "terminal", "2:4"),
    ('start: A\nA: "a" -> b\n', "terminal", "2:11"),
    ("start: /a(?=b)/\n", "regexp", "1:8"),
    ("start: /(?<!a)b/\n", "regexp", "1:8"),
    ("start: /(?!ab)c/\n", "regexp", "1:8"),
    ("start: /a(?!bc)d/\n", "regexp", "1:8"),
    (r"start: /(a)\1/" + "\n", "regexp", "1:8"),
    ("start: /^a$/\n", "regexp", "1:8"),
    (r"start: /a\bb/" + "\n", "unsatisfiable", "1:8"),
    (r"start: /a-\b/ /x/" + "\n", "regexp", "1:8"),
    (r"start: /a?\b/" + "\n", "regexp", "1:8"),
    (r"start: /a+$/" + "\n", "regexp", "1:8"),
    ("start: /a++/\n", "regexp", "1:8"),
    ("start: /[a/\n", "regexp", "1:8"),
    (r"start: /\p{L}/" + "\n", "regexp", "1:8"),
    ("start: /a/l\n", "regexp", "1:8"),
    ("start: /(a??)*b/\n", "regexp", "1:8"),
    ("start: /a{99999}/\n", "regexp", "1:8"),
    (r'start: /if\b/ /x/' + "\n", "regexp", "1:8"),
    (r'start: /if\b/ /x/' + '\n%ignore " "\n', "regexp", "1:8"),
    ('start: "ab".."c"\n', "range", "1:8"),
    ('start: "a"\n%ignore /(ab)+/\n', "%ignore", "2:9"),
    ('start: "a"~3..1\n', "lark", "1:12"),
    ('start: "a"~9999999999\n', "size", "1:12"),
    ("start: start\n", "unsatisfiable", None),
    ("start: x\nx: start | y\ny: x\n", "unsatisfiable", None),
]  # fmt: skip


@pytest.mark.parametrize(("source", "keyword", "place"), REFUSED)
def test_refused(source: str, keyword: str, place: str | None) -> None:
    with pytest.raises(GrammarError) as caught:
        compiled(source)
    assert caught.value.keyword == keyword
    if place is None:
        assert caught.value.position is None
        return
    check_place(caught.value, source, place)


def test_did_you_mean() -> None:
    for source, meant in (
        ("start: exprs\nexpr: /a/\n", "`expr`"),
        ("%import sgen.jsn\nstart: jsn\n", "`sgen.json`"),
    ):
        with pytest.raises(GrammarError) as caught:
            compiled(source)
        assert f"did you mean {meant}?" in caught.value.hint


def test_a_circle_is_named() -> None:
    with pytest.raises(GrammarError, match=r"rules `a0`, `a1`, `a10`, .* begin with") as caught:
        compiled(HOSTILE["a long circle"])
    assert caught.value.keyword == "left recursion"


AMBIGUOUS = {
    "plus and times": 'start: e\ne: e "+" e | e "*" e | NUM\nNUM: /[0-9]+/',
    "by name": 'start: e\n?e: sum | product | NUM\nsum: e "+" e\nproduct: e "*" e\nNUM: /[0-9]+/',
    "from the right": 'start: e\ne: t "+" e | t "*" e | t\nt: NUM | "(" e ")"\nNUM: /[0-9]+/',
    "levels": 'start: e\n?e: e "+" p | p\n?p: p "*" t | t\n?t: NUM | "(" e ")"\nNUM: /[0-9]+/',
    "by name, from the right": (
        'start: e\n?e: sum | product | t\nsum: t "+" e\nproduct: t "*" e\n'
        't: NUM | "(" e ")"\nNUM: /[0-9]+/'
    ),
    "without signs": 'start: start start | /[0-9]/ | "+" | "*"',
}


@pytest.mark.parametrize("name", sorted(AMBIGUOUS))
def test_ambiguity_stays_small(name: str) -> None:
    """500 operators, and, where there are parentheses, 150 of them in each other."""
    grammar = compiled(AMBIGUOUS[name])
    texts = [b"1" + b"+2*3" * 250]
    if "(" in AMBIGUOUS[name]:
        texts.append(b"(" * 150 + b"1" + b")+2*3" * 150)
    start = time.thread_time()
    assert all(grammar.matches(text) for text in texts)
    assert not grammar.matches(b"1+2*" if name != "without signs" else b"")
    assert time.thread_time() - start < 1
    assert most_readings(AMBIGUOUS[name], texts) <= 8


def test_alternatives_that_begin_alike_are_read_as_one() -> None:
    source = (
        'start: stmt+\nstmt: target "=" e ";" | e ";" | "if" e "then" stmt "end"\n'
        '  | "if" e "then" stmt "else" stmt "end"\n'
        'e: target | call | NAME\ncall: target "(" [e ("," e)*] ")"\n'
        'target: NAME | target "." NAME | target "[" e "]"\nNAME: /[x-z]+/'
    )
    texts = [
        b"ifxthen" * 60 + b"x;" + b"elsey;end" * 60,
        b"x[" * 60 + b"y" + b"].z(x)" * 59 + b"].z=z;",
    ]
    assert most_readings(source, texts) <= 12


HOSTILE = {
    "brackets": "start: " + "(" * 40_000 + '"a"' + ")" * 40_000,
    "terminals that double": "start: A40\nA0: /a/\n"
    + "".join(f"A{i + 1}: A{i} A{i}\n" for i in range(40)),
    "rules that double": "start: a40\na0: /a/\n"
    + "".join(f"a{i + 1}: a{i} a{i}\n" for i in range(40)),
    "many rules": "start: a0\n" + "".join(f'a{i}: a{i + 1} "b" | "a"\n' for i in range(4200)),
    "a long circle": "start: a0\n"
    + "".join(f'a{i}: a{i + 1} "b" | "a"\n' for i in range(300))
    + 'a300: a0 "c"',
    "counts of counts": "start: ((/a/~1000)~1000)~1000",
    "a template that grows": 'start: t{"a"}\nt{x}: x | t{u{x}}\nu{x}: x x',
    "too long": "start: " + '"a" ' * 24_000,
    "subsets": "start: (A | B)* A" + " (A | B)" * 30 + '\nA: "a"\nB: "b"',
    "catastrophe": "start: /(a+)+b/",
    "large states": "start: /.*x.{1000}y/",
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_grammars_end_soon(name: str) -> None:
    check_ends_soon(compiled, HOSTILE[name])


def test_llguidance_agrees() -> None:
    """Where the dialects agree: terminals that the longest match tells apart."""
    peer: Any = pytest.importorskip("llguidance", reason="llguidance (a peer) is not installed")
    tokenizer = peer.LLTokenizer("byte")
    rng = random.Random(0)
    sources = [library.source("json").replace("%ignore", "//"), AMBIGUOUS["levels"],
               AMBIGUOUS["plus and times"]]  # fmt: skip
    for source in sources:
        grammar = compiled(source)
        theirs = peer.LLMatcher.grammar_from_lark(source)
        for i in range(40):
            text = random_text(grammar, rng, size=5 + i // 2)
            k = rng.randrange(len(text) + 1)
            for changed in (text, text[:k] + text[k + 1 :], text[:k] + b"1" + text[k:]):
                matcher = peer.LLMatcher(tokenizer, theirs, log_level=0)
                taken = matcher.try_consume_tokens(list(changed))
                assert not matcher.is_error()
                expected = taken == len(changed) and matcher.is_accepting()
                assert grammar.matches(changed) == expected, (source, changed)
