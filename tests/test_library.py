"""The ready-made grammars: what they write, the real parsers read."""

from __future__ import annotations

import ast
import csv
import datetime
import functools
import io
import json
import random
import re
import sqlite3
import warnings
from collections.abc import Callable

import pytest
from lark import Lark

from sgen.grammars import library
from sgen.grammars.compile import compile_grammar
from sgen.grammars.grammar import Grammar
from sgen.protocol import GrammarSpec
from tests.front_ends import check_means
from tests.walks import random_text


@functools.lru_cache(maxsize=16)
def compiled(name: str) -> Grammar:
    return compile_grammar(GrammarSpec("lark", library.source(name)))


EXAMPLES: dict[str, tuple[list[str], list[str]]] = {
    "json": (
        ['{"a":[1,-2.5e3,"x\\u00e9\\n",true,null],"b":{}}', " [ ] ", '"é😀"', "0",
         '\t{ "" : 0 }\n'],
        ["", "01", "[1,]", "{a:1}", "'a'", '"\n"', "[1 2]", "nul", '"\\x"', "1.", "+1"],
    ),
    "jsonl": (
        ['{"a":1}\n{"a":2}\n', "1", "[1, 2]\r\n[]", ' "a" \n{ } '],
        ["", "{\n}", "1\n\n2", "1 2", "\n1"],
    ),
    "csv": (
        ["a,b\r\n1,2\r\n", "", ",", '"a ""b"", c\nd",e', "a b,c'd"],
        ['a"b', '"a', '"a"b', "a\rb"],
    ),
    "iso_dates": (
        ["2024-02-29", "2000-02-29", "1999-12-31", "2020-W53-7", "2021-W52-1", "23:59:59.125Z",
         "12:30", "2024-01-31T00:00+01:00", "P1Y2M3DT4H5M6S", "P3W", "PT0.5S", "P1M"],
        ["2023-02-29", "1900-02-29", "2024-04-31", "2024-13-01", "2021-W53-1", "24:00",
         "0000-01-01", "12:60", "P", "PT", "P1Y3W", "2024-1-1", "2024-01-01T", "2024-01-01 00:00"],
    ),
    "arithmetic": (
        ["1", "-(2 + 3) * 4 ** -2", "((7))", "1.5e-3//2 % 3", "--1"],
        ["", "1 +", "(1", "1 2", "x", "01", "2(3)", "* 1"],
    ),
    "sql_select": (
        ["SELECT 1", "select * from users;", "SELECT u.name AS n, count(*) FROM users AS u "
         "LEFT JOIN orders ON u.id = orders.user_id WHERE (age >= 18 OR name LIKE 'A%') AND NOT "
         "x IS NULL GROUP BY u.name HAVING count(*) > 1 ORDER BY n DESC NULLS LAST "
         "LIMIT 10 OFFSET 5",
         "SELECT a FROM t WHERE b IN (SELECT c FROM u) AND d NOT BETWEEN 1 AND 2",
         "SELECT CASE WHEN a THEN 'it''s' ELSE NULL END FROM (SELECT 1 AS a) AS s",
         'SELECT DISTINCT "odd name" FROM t UNION ALL SELECT x - -1 FROM u',
         "SELECT a||b,c*2 FROM t",
         "SELECT CAST(a AS TEXT), sum(DISTINCT b) FROM t, u CROSS JOIN v WHERE EXISTS (SELECT 1)",
         "SELECT fromage FROM selection"],
        ["", "SELECT", "SELECTa FROM t", "SELECT a FROMt", "SELECT a FROM", "SELECT from FROM t",
         "SELECT a FROM t WHERE", "SELECT a b c", "SELECT a--b", "DROP TABLE t", "SELECT 'a",
         "SELECT a FROM t LIMIT", "SELECT 1; SELECT 2", "SELECT a FROM t ORDER BY", "ſELECT 1"],
    ),
    "python_expression": (
        ["1", "x if y else z", "[a for a in b if a not in c]", "{**d, 'k': 1}", "{1, 2}", "{}",
         "f(x, *a, k=1, **kw)", "x[1:2, ::3]", "lambda: 0", "lambda a, b: a.b", "not x is not y",
         "(yes,)", "()", "(a, b)", "-x ** -y", "a<b<=c", "'it\\'s'", "...", "a.b.c(d)[e]",
         "sum(i for i in r)", "0x1F + 1_000 + 2.5j", "notx and iffy"],
        ["", "x =", "1.real", "if", "a if b", "not", "lambda x", "x y", "[a for]", "a not b",
         "class", "f(x", "'a", "1if x else 2", "a.1", "x:=1", "007", "{1:2, 3}", "xor y"],
    ),
    "markdown_table": (
        ["| a | b |\n|---|:-:|\n| 1 | 2 |\n", "|a|\n|-|", "| a \\| b |\n| --- |\n|c|d|"],
        ["", "| a | b |\n|---|\n", "| a |\n", "a | b\n--|--", "| a |\n|-|-|\n", "||\n|-|"],
    ),
    "graphviz_dot": (
        ["digraph { a -> b; }", 'strict graph "G" {\n  a -- b -- c [label="x", color=red]\n}',
         "digraph g { rankdir=LR; node [shape=box]; subgraph s { x } ; a:n -> {b; c} }",
         "graph { 1; -.5; graphs; }", "graph{}"],
        ["", "digraph { a -- b; }", "graph { a -> b; }", "graph { node; }", "graph { a b; }",
         "graph", "graph { a -- ; }", "graph { a [color] }", "graphg {}"],
    ),
}  # fmt: skip


def test_every_grammar_has_examples() -> None:
    assert sorted(EXAMPLES) == list(library.names())


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_accepts_and_rejects(name: str) -> None:
    grammar = compiled(name)
    yes, no = EXAMPLES[name]
    check_means(grammar, yes, no)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_lark_reads_it_the_same_way(name: str) -> None:
    parser = Lark(library.source(name), parser="earley", lexer="dynamic_complete",
                  import_paths=[library.load])  # fmt: skip
    texts = [t for examples in EXAMPLES[name] for t in examples if len(t) < 30]
    for text in texts:
        try:
            parser.parse(text)
        except Exception:
            assert not compiled(name).matches(text.encode()), text
        else:
            assert compiled(name).matches(text.encode()), text


def read_json_lines(text: str) -> None:
    for line in re.split(r"\r?\n", text.removesuffix("\n").removesuffix("\r")):
        json.loads(line)


def read_csv(text: str) -> None:
    for _ in csv.reader(io.StringIO(text, newline=""), strict=True):
        pass


def read_date(text: str) -> None:
    if text.startswith("P"):
        assert re.fullmatch(r"P(?=.)(\d+Y)?(\d+M)?(\d+W)?(\d+D)?"
                            r"(T(?=.)(\d+H)?(\d+M)?(\d+(\.\d+)?S)?)?", text)  # fmt: skip
    elif re.match(r"\d{4}-", text):
        datetime.datetime.fromisoformat(text)
    else:
        datetime.time.fromisoformat(text)


def read_python(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as of calling a number
        ast.parse(text, mode="eval")


def read_sql(text: str) -> None:
    """Errors about what there is are fine; those of the parser come before them."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("EXPLAIN " + text)
    except sqlite3.Error as error:
        if re.search("syntax|unrecognized|incomplete|one statement", str(error)):
            raise
    finally:
        connection.close()


def read_table(text: str) -> None:
    """The head and the dashes have as many cells."""
    head, dashes, *_ = text.split("\n")
    cells = [re.findall(r"(?:[^|\\]|\\.)+", line) for line in (head, dashes)]
    assert len(cells[0]) == len(cells[1]) > 0
    assert all(re.fullmatch(" *:?-+:? *", cell) for cell in cells[1])


def read_dot(text: str) -> None:
    """Quotes closed, braces closed, and one kind of arrow."""
    rest = re.sub(r'"(?:[^"\\]|\\.)*"', "q", text, flags=re.DOTALL)
    assert rest.count("{") == rest.count("}") > 0
    assert '"' not in rest
    assert ("--" if "digraph" in rest.split("{")[0] else "->") not in rest.replace("--.", "")


READERS: dict[str, Callable[[str], object]] = {
    "json": json.loads,
    "jsonl": read_json_lines,
    "csv": read_csv,
    "iso_dates": read_date,
    "arithmetic": read_python,
    "sql_select": read_sql,
    "python_expression": read_python,
    "markdown_table": read_table,
    "graphviz_dot": read_dot,
}


@pytest.mark.parametrize("name", sorted(READERS))
def test_the_real_parser_reads_what_it_writes(name: str) -> None:
    rng = random.Random(name)
    for i in range(40):
        text = random_text(compiled(name), rng, size=10 + i).decode()
        text = text.strip() if name == "arithmetic" else text  # a program may not be indented
        READERS[name](text)


def test_markdown_reads_a_table() -> None:
    markdown = pytest.importorskip("markdown_it", reason="no parser of Markdown is installed")
    parser = markdown.MarkdownIt("commonmark").enable("table")
    rng = random.Random(0)
    for i in range(40):
        text = random_text(compiled("markdown_table"), rng, size=10 + i).decode()
        tokens = [token.type for token in parser.parse(text)]
        assert (tokens[0], tokens[-1]) == ("table_open", "table_close"), text


def test_imports_of_the_library() -> None:
    source = 'start: "<" j ">" | "[" value "]"\n%import sgen.json -> j\n%import sgen.json.value\n'
    with pytest.raises(Exception, match="two names imported as one"):
        compile_grammar(GrammarSpec("lark", source.replace("-> j", "-> value")))
    grammar = compile_grammar(GrammarSpec("lark", source))
    assert grammar.matches(b'<{"a":[1]}>')
    assert grammar.matches(b"[[1]]")
    assert not grammar.matches(b"<[>")
    assert not grammar.matches(b"[ 1]"), "imported %ignore says nothing"


def test_unknown_names() -> None:
    with pytest.raises(KeyError, match="json"):
        library.source("yaml")
    with pytest.raises(FileNotFoundError):
        library.load(None, "sgen/../secrets.lark")
