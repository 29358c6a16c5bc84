r"""GBNF, the grammar format of llama.cpp.

    root ::= "1. " move ([ ] move)*   # from the rule root
    move ::= [a-h] [1-8] | "O-O" "-O"?

Rules are `name ::= alternatives`; a rule ends with its line, but not inside parentheses, behind
`::=` or behind `|`.  There are literals, classes `[a-z]` and `[^a-z]`, any character `.`, groups,
and `*`, `+`, `?`, `{m}`, `{m,}`, `{m,n}`, with the escapes \n \t \r \\ \" \[ \] \xHH \uHHHH
\UHHHHHHHH.  A text is accepted exactly when the rules derive it; left recursion and ambiguity are
fine.  A special token is written `<name>`; tokens by number, `<[1234]>`, and all tokens but one,
`!<name>`, are refused, for a grammar does not know the tokens.

https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md
"""

from __future__ import annotations

import difflib
import re

from sgen.errors import GrammarError
from sgen.grammars import charset
from sgen.grammars.builder import Builder
from sgen.grammars.charset import SCALARS, Ranges
from sgen.grammars.encoding import character
from sgen.grammars.left_recursion import LeftCorners
from sgen.grammars.networks import lower_rules
from sgen.grammars.rules import (
    MAX_COUNT,
    MAX_RULES,
    NOTHING,
    Call,
    Choice,
    Expression,
    Join,
    Loop,
    Nets,
    Part,
)

MAX_SOURCE = 500_000
"""Characters of a grammar."""

MAX_NESTING = 100
"""Groups inside each other."""

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_BOUNDS = re.compile(r"\{[ \t]*(\d{1,9})[ \t]*(?:(,)[ \t]*(\d{1,9})?[ \t]*)?\}")
_TOKEN = re.compile(r"<([^<>\[\]\s][^<>\s]*)>")
_SHORT = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "[": "[", "]": "]"}
_HEXADECIMAL = {"x": 2, "u": 4, "U": 8}


def lower_gbnf(builder: Builder, source: str) -> int:
    """The node of all texts of a GBNF grammar.  GrammarError with line and column."""
    if len(source) > MAX_SOURCE:
        raise GrammarError(
            f"the grammar has {len(source):,} characters, more than {MAX_SOURCE:,}", keyword="size"
        )
    parser = _Parser(builder, source)
    rules = parser.rules()
    parser.check_names(rules)
    return lower_rules(builder, LeftCorners(Nets(rules), builder.work), "root")


class _Parser:
    def __init__(self, builder: Builder, source: str) -> None:
        self._builder = builder
        self._text = source
        self._at = 0
        self._depth = 0
        self._used: dict[str, int] = {}  # rule names, and where each is used first

    def rules(self) -> dict[str, Expression]:
        found: dict[str, Expression] = {}
        self._skip(lines=True)
        while self._at < len(self._text):
            start = self._at
            name = self._name()
            if name is None:
                raise self._error("a rule must begin with its name", "syntax",
                                  hint="such as `root ::= ...`")  # fmt: skip
            if name in found:
                raise self._error(f"the rule `{name}` is defined more than once", "defined twice",
                                  at=start)  # fmt: skip
            if len(found) >= MAX_RULES:
                raise self._error(f"more than {MAX_RULES:,} rules", "size", at=start)
            self._skip()
            if not self._take("::="):
                raise self._error("`::=` is missing behind the name of a rule", "syntax")
            self._skip(lines=True)
            found[name] = self._choice()
            if self._at < len(self._text) and self._text[self._at] not in "\r\n":
                raise self._error("a rule ends with its line", "syntax",
                                  hint="long rules go on in parentheses or behind `|`")  # fmt: skip
            self._skip(lines=True)
        return found

    def check_names(self, rules: dict[str, Expression]) -> None:
        """GrammarError for a name that is used but not defined, or without a root."""
        for name, at in self._used.items():
            if name not in rules:
                raise self._error(f"the rule `{name}` is not defined", "undefined", at=at,
                                  hint=_near(name, rules))  # fmt: skip
        if "root" not in rules:
            raise GrammarError("there is no rule `root`", keyword="undefined",
                               hint=_near("root", rules))  # fmt: skip

    def _error(
        self, message: str, keyword: str, *, hint: str = "", at: int | None = None
    ) -> GrammarError:  # fmt: skip
        position = self._at if at is None else at
        line = self._text.count("\n", 0, position) + 1
        column = position - self._text.rfind("\n", 0, position)
        return GrammarError(
            f"line {line}:{column}: {message}", keyword=keyword, position=position, hint=hint
        )

    def _skip(self, *, lines: bool = False) -> None:
        space = (_SPACE_AND_LINES if lines else _SPACE).match(self._text, self._at)
        assert space is not None, "it matches the empty text"
        self._at = space.end()

    def _take(self, sign: str) -> bool:
        if self._text.startswith(sign, self._at):
            self._at += len(sign)
            return True
        return False

    def _name(self) -> str | None:
        found = _NAME.match(self._text, self._at)
        if found is None:
            return None
        self._at = found.end()
        return found.group()

    def _choice(self) -> Expression:
        items = [self._sequence()]
        while self._take("|"):
            self._skip(lines=True)
            items.append(self._sequence())
        return items[0] if len(items) == 1 else Choice(tuple(items))

    def _sequence(self) -> Expression:
        items: list[Expression] = []
        while True:
            self._skip(lines=self._depth > 0)
            item = self._item()
            if item is None:
                return items[0] if len(items) == 1 else Join(tuple(items))
            items.append(self._repeated(item))

    def _repeated(self, item: Expression) -> Expression:
        """The item with the signs of repetition behind it, each of which repeats all before."""
        while True:
            self._skip(lines=self._depth > 0)
            start = self._at
            for sign, low, high in (("*", 0, None), ("+", 1, None), ("?", 0, 1)):
                if self._take(sign):
                    item = Loop(item, low, high)
                    break
            else:
                if not self._text.startswith("{", start):
                    return item
                item = Loop(item, *self._bounds(start))

    def _bounds(self, start: int) -> tuple[int, int | None]:
        found = _BOUNDS.match(self._text, start)
        if found is None:
            raise self._error("the bounds of a repetition are `{m}`, `{m,}` or `{m,n}`",
                              "repetition")  # fmt: skip
        self._at = found.end()
        low, comma, last = found.groups()
        high = int(last) if last else None if comma else int(low)
        if max(int(low), high or 0) > MAX_COUNT:
            raise self._error(f"a count above {MAX_COUNT:,}", "repetition", at=start)
        if high is not None and high < int(low):
            raise self._error("the bounds of a repetition are the wrong way round", "repetition",
                              at=start)  # fmt: skip
        return int(low), high

    def _item(self) -> Expression | None:
        start = self._at
        char = self._text[start : start + 1]
        if char == '"':
            return self._literal()
        if char == "[":
            return self._characters(self._class())
        if self._take("."):
            return self._characters(SCALARS)
        if self._take("("):
            return self._group(start)
        if char in ("<", "!"):
            return self._token()
        name = self._name()
        if name is None:
            return None
        self._used.setdefault(name, start)
        return Call(name)

    def _group(self, start: int) -> Expression:
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise self._error(f"groups nested deeper than {MAX_NESTING}", "size", at=start)
        self._skip(lines=True)
        found = self._choice()
        self._depth -= 1
        if not self._take(")"):
            raise self._error("a `(` without its `)`", "syntax", at=start)
        return found

    def _literal(self) -> Expression:
        start = self._at
        self._at += 1
        word: list[str] = []
        while not self._take('"'):
            if self._text[self._at : self._at + 1] in ("", "\n", "\r"):
                raise self._error("a literal without its closing quote", "syntax", at=start)
            word.append(self._char())
        return Part(self._builder.literal("".join(word).encode())) if word else NOTHING

    def _characters(self, ranges: Ranges) -> Part:
        if not ranges:
            return Part(self._builder.never())
        key = ("characters", ranges)
        return Part(self._builder.lexeme(key, character(ranges, "utf8")))

    def _class(self) -> Ranges:
        start = self._at
        self._at += 1
        negated = self._take("^")
        found: list[tuple[int, int]] = []
        while not self._take("]"):
            here = self._at
            if here >= len(self._text):
                raise self._error("a `[` without its `]`", "syntax", at=start)
            first = last = ord(self._char())
            if self._text.startswith("-", self._at) and self._text[self._at + 1 :][:1] != "]":
                self._at += 1
                last = ord(self._char())
            if last < first:
                raise self._error("a range that ends before it starts", "class", at=here)
            found.append((first, last))
        ranges = charset.normal(found)
        return charset.complement(ranges) if negated else ranges

    def _char(self) -> str:
        """One character of a literal or class, possibly escaped."""
        start = self._at
        char = self._text[start : start + 1]
        self._at += 1
        if char == "\\":
            letter = self._text[self._at : self._at + 1]
            self._at += 1
            if letter in _HEXADECIMAL:
                digits = self._text[self._at : self._at + _HEXADECIMAL[letter]]
                self._at += len(digits)
                if not re.fullmatch(rf"[0-9A-Fa-f]{{{_HEXADECIMAL[letter]}}}", digits):
                    raise self._error(f"`\\{letter}` needs {_HEXADECIMAL[letter]} hexadecimal "
                                      "digits", "escape", at=start)  # fmt: skip
                if int(digits, 16) > 0x10FFFF:
                    raise self._error("not a Unicode character", "escape", at=start)
                char = chr(int(digits, 16))
            elif letter in _SHORT:
                char = _SHORT[letter]
            else:
                raise self._error(f"unknown escape `\\{letter}`", "escape", at=start)
        if not char or 0xD800 <= ord(char) <= 0xDFFF:
            raise self._error("not a Unicode character", "escape", at=start)
        return char

    def _token(self) -> Expression:
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            raise self._error(
                "tokens by number, and all tokens but one, are not supported", "token",
                hint="a grammar is about text; a special token is written `<name>`",
            )  # fmt: skip
        self._at = found.end()
        return Part(self._builder.literal(b"\xff" + found.group().encode() + b"\xfe"))


def _near(name: str, rules: dict[str, Expression]) -> str:
    close = difflib.get_close_matches(name, rules, 1)
    return f"did you mean `{close[0]}`?" if close else ""
