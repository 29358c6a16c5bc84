"""GBNF: the texts that its rules derive, or an error with a place."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgen.errors import GrammarError
from sgen.grammars.compile import compile_grammar
from sgen.grammars.grammar import Grammar
from sgen.protocol import GrammarSpec
from tests.front_ends import check_ends_soon, check_means, check_place
from tests.walks import random_text


def compiled(source: str) -> Grammar:
    return compile_grammar(GrammarSpec("gbnf", source))


LIST = """# a list, as the format's own guide writes one
root ::= ("- " item)+   # items

item ::= [^\\n]+ "\\n"
"""

CHESS = """root ::= (
    # it must start with a move
    "1. " move " " move "\\n"

    # and goes on
    ([1-9] [0-9]? ". " move " " move "\\n")+
)
move ::= (pawn | nonpawn | castle) [+#]?
pawn ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
castle ::= "O-O" "-O"?
"""

JSON = r"""root ::= object
value ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""

MEANS: dict[str, tuple[str, list[str], list[str]]] = {
    "list": (LIST, ["- a\n", "- é -\n- b\n"], ["", "- \n", "- a", "a\n"]),
    "chess": (CHESS, ["1. e4 e5\n2. Nf3 Nc6\n", "1. O-O-O exd5=Q+\n12. Qa1# a2\n"],
              ["1. e4 e5\n", "1. e9 e5\n2. a1 a1\n", "1. O-o e5\n2. a1 a1\n"]),
    "json": (JSON, ['{"a": [1, -2.5e3, "x\\u00e9"], "b":{}}', "{}", '{ "":\n\t\ttrue}'],
             ["", "[]", "{a:1}", '{"a":01}', '{"a":1,}', '{"a":  1}']),
    "repetitions": ('root ::= "ab"{2} "c"{1,} "d"{0,2} [e]{ 1 , 2 } "f"*',
                    ["ababce", "ababccddeeff"],
                    ["abce", "ababe", "ababcddde", "ababc"]),
    "repetition of a literal is of all of it": ('root ::= "ab"*', ["", "abab"], ["abb", "a"]),
    "long counts": ('root ::= ("a" | "b"){100,3000}', ["ab" * 50, "a" * 3000],
                    ["a" * 99, "b" * 3001]),
    "signs after signs": ('root ::= "a"?+ "b"{2}{2}', ["bbbb", "aaabbbb"], ["abb"]),
    "escapes": (r'root ::= "\x41\u00e9\U0001F600\n\t\r\\\"" [\]\-x\[\\^]'.replace(r"\-", "-"),
                ['Aé😀\n\t\r\\"]', 'Aé😀\n\t\r\\"^'], ["A", 'Aé😀\n\t\r\\"y']),
    "classes": ("root ::= [^a-c] [a-] [-a] [ぁ-ゟ] [^\\n]", ["d-aぁ\r", "\n--ゟa"],
                ["a-aぁb", "d-aァb"]),
    "any character": ("root ::= . .", ["\n😀"], ["a", "abc"]),
    "empty alternatives": ('root ::= | "a" | ""', ["", "a"], ["b"]),
    "lines": ('root ::= "a" |\n  "b" | # more\n\n "c"\nx ::= "d"', ["a", "b", "c"], ["d"]),
    "windows lines": ('root ::= x\r\nx ::=\r\n"a"\r\n', ["a"], [""]),
    "names": ('root ::= a-b _c D9 9\na-b ::= "1"\n_c ::= "2"\nD9 ::= "3"\n9 ::= "4"', ["1234"],
              ["1"]),
    "left recursion": ('root ::= root "+" t | t\nt ::= t "*" f | f\nf ::= "(" root ")" | [0-9]+',
                       ["1", "1+2*(3+4)*5+6"], ["", "1+", "(1"]),
    "hidden left recursion": ('root ::= e root "x" | "y"\ne ::= "z"?', ["y", "zyx", "zzyxx"],
                              ["zy"]),
    "rules without end": ('root ::= "a" | x\nx ::= x "b"', ["a"], ["b", ""]),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(MEANS))
def test_means(name: str) -> None:
    source, yes, no = MEANS[name]
    check_means(compiled(source), yes, no)


def test_special_tokens() -> None:
    grammar = compiled("root ::= <think> [^<]* </think> .*")
    assert grammar.matches(b"\xff<think>\xfehm\xff</think>\xfeyes")
    assert not grammar.matches(b"<think>hm</think>yes")


REFUSED: list[tuple[str, str, str | None]] = [
    # source, keyword, line:column
    ("", "undefined", None),
    ('x ::= "a"\n', "undefined", None),
    ("root ::= foo\n", "undefined", "1:10"),
    ('root ::= "a"\nx ::= bar\n', "undefined", "2:7"),
    ('root ::= "a"\nroot ::= "b"\n', "defined twice", "2:1"),
    ('root "a"\n', "syntax", "1:6"),
    ('::= "a"\n', "syntax", "1:1"),
    ('root ::= "a\n"\n', "syntax", "1:10"),
    ('root ::= ("a"\n', "syntax", "1:10"),
    ('root ::= "a")\n', "syntax", "1:13"),
    ("root ::= [a\n", "class", None),
    ("root ::= [b-a]\n", "class", "1:11"),
    ('root ::= * "a"\n', "syntax", "1:10"),
    ('root ::= "a"{,3}\n', "repetition", "1:13"),
    ('root ::= "a"{3,2}\n', "repetition", "1:13"),
    ('root ::= "a"{70000}\n', "repetition", "1:13"),
    ('root ::= "a"{x}\n', "repetition", "1:13"),
    ('root ::= "\\q"\n', "escape", "1:11"),
    ('root ::= "\\x4"\n', "escape", "1:11"),
    ('root ::= "\\ud800"\n', "escape", "1:11"),
    ('root ::= "\\U00110000"\n', "escape", "1:11"),
    ("root ::= <[1234]>\n", "token", "1:10"),
    ("root ::= !<think>\n", "token", "1:10"),
    ("root ::= root\n", "unsatisfiable", None),
    ('root ::= root "a"\n', "unsatisfiable", None),
    ("root ::= a\na ::= b\nb ::= root | a\n", "unsatisfiable", None),
    ("root ::= [^\\x00-\\U0010FFFF]\n", "unsatisfiable", None),
]


@pytest.mark.parametrize(("source", "keyword", "place"), REFUSED)
def test_refused(source: str, keyword: str, place: str | None) -> None:
    with pytest.raises(GrammarError) as caught:
        compiled(source)
    if source == "root ::= [a\n":
        assert caught.value.keyword in ("syntax", "class")
        return
    assert caught.value.keyword == keyword
    if place is not None:
        check_place(caught.value, source, place)


def test_did_you_mean() -> None:
    with pytest.raises(GrammarError) as caught:
        compiled('root ::= itms\nitem ::= "a"\n')
    assert caught.value.hint == "did you mean `item`?"


def random_rules(rng: random.Random) -> list[tuple[str, str]]:
    """Rules of one grammar in what GBNF and Lark write alike."""
    names = ["root", "x", "y"][: rng.randint(1, 3)]

    def item(depth: int) -> str:
        if depth == 0 or rng.random() < 0.6:
            return rng.choice([*names, *names, '"a"', '"b"', '"ab"', '"c"'])
        return f"({choice(depth - 1)}){rng.choice(['', '?', '*', '+'])}"

    def choice(depth: int) -> str:
        alternatives = []
        for _ in range(rng.randint(1, 3)):
            alternatives.append(" ".join(item(depth) for _ in range(rng.choice([1, 1, 2, 3]))))
        return " | ".join(alternatives)

    uses = " | " + " ".join(names[1:])
    return [(n, choice(2) + (uses if n == "root" and len(names) > 1 else "")) for n in names]


@settings(max_examples=60, derandomize=True, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_equals_the_same_grammar_in_lark(seed: int) -> None:
    rng = random.Random(seed)
    rules = random_rules(rng)
    gbnf = "\n".join(f"{name} ::= {body}" for name, body in rules)
    lark = "\n".join(f"{name}: {body}" for name, body in rules).replace("root", "start")
    try:
        ours = compiled(gbnf)
    except GrammarError:
        with pytest.raises(GrammarError, match="no text can satisfy"):
            compile_grammar(GrammarSpec("lark", lark))
        return
    other = compile_grammar(GrammarSpec("lark", lark))
    texts = ["".join(rng.choice("aabbc") for _ in range(rng.randint(0, 8))) for _ in range(10)]
    try:
        texts += [random_text(g, rng, size=8).decode() for g in (ours, other) for _ in range(5)]
        for text in texts:
            assert ours.matches(text.encode()) == other.matches(text.encode()), (gbnf, text)
    except GrammarError as error:
        if error.keyword != "states":
            raise


def derives(rules: dict[str, str], text: str) -> bool:
    """Whether the rules, without signs and groups, derive a text: CYK over all pieces of it."""
    bodies = {n: [a.split() for a in body.split(" | ")] for n, body in rules.items()}
    found: set[tuple[str, int, int]] = set()

    def reaches(items: list[str], start: int, end: int) -> bool:
        if not items:
            return start == end
        first, rest = items[0], items[1:]
        if first.startswith('"'):
            word = first[1:-1]
            return text.startswith(word, start) and reaches(rest, start + len(word), end)
        middles = (m for m in range(start, end + 1) if (first, start, m) in found)
        return any(reaches(rest, m, end) for m in middles)

    changed = True
    while changed:
        changed = False
        for name, alternatives in bodies.items():
            for start in range(len(text) + 1):
                for end in range(start, len(text) + 1):
                    key = (name, start, end)
                    if key not in found and any(reaches(a, start, end) for a in alternatives):
                        found.add(key)
                        changed = True
    return ("root", 0, len(text)) in found


@settings(max_examples=60, derandomize=True, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_accepts_what_the_rules_derive(seed: int) -> None:
    """Plain rules against the definition: left recursion, circles and empty rules as they come."""
    rng = random.Random(seed)
    names = ["root", "x", "y"]

    def alternative() -> str:
        choices = [*names, '"a"', '"b"', '"ab"']
        return " ".join(rng.choice(choices) for _ in range(rng.choice([0, 1, 1, 2, 3]))) or '""'

    rules = {n: " | ".join(alternative() for _ in range(rng.randint(1, 3))) for n in names}
    texts = ["".join(rng.choice("ab") for _ in range(rng.randint(0, 4))) for _ in range(8)]
    try:
        grammar = compiled("\n".join(f"{name} ::= {body}" for name, body in rules.items()))
    except GrammarError as error:
        if error.keyword != "unsatisfiable" or any(derives(rules, t) for t in texts):
            raise
        return
    for text in texts:
        assert grammar.matches(text.encode()) == derives(rules, text), (rules, text)


HOSTILE = {
    "brackets": "root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000,
    "open brackets": "root ::= " + "[" * 100_000,
    "signs": 'root ::= "a"' + "*" * 50_000,
    "many rules": "root ::= a0\n" + "".join(f'a{i} ::= a{i + 1} "b" | "a"\n' for i in range(4200)),
    "a long circle": "root ::= a0\n" + "".join(f'a{i} ::= a{i + 1} "b" | "a"\n' for i in range(999))
    + 'a999 ::= a0 "c"\n',
    "counts of counts": 'root ::= (("a"{1000}){1000}){1000}',
    "too long": "root ::= " + '"a" ' * 200_000,
    "a long sequence": "root ::= " + '"a" ' * 20_000,
    "rules that double": "root ::= a40\na0 ::= [a]\n"
    + "".join(f"a{i + 1} ::= a{i} a{i}\n" for i in range(40)),
    "alternatives": "root ::= " + " | ".join(f'"{i}"' for i in range(20_000)),
    "subsets": 'root ::= ("a" | "b")* "a"' + ' ("a" | "b")' * 40,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_grammars_end_soon(name: str) -> None:
    check_ends_soon(compiled, HOSTILE[name])
