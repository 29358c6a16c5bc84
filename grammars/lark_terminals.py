"""The terminals of a Lark grammar, put together as lark does it: into one pattern each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lark.exceptions import GrammarError as LarkGrammarError
from lark.load_grammar import eval_escaping

from sgen.errors import GrammarError
from sgen.grammars import charset, lark_regex
from sgen.grammars.automata import Automaton
from sgen.grammars.charset import Ranges
from sgen.grammars.lark_lexeme import Table, lexeme, table
from sgen.grammars.lark_regex import Pattern
from sgen.grammars.lark_syntax import (
    Body,
    Definition,
    Name,
    Options,
    Place,
    Range,
    Series,
    Text,
    Times,
    failure,
    is_terminal,
)
from sgen.grammars.regex_syntax import Chars
from sgen.grammars.work import Work

MAX_PATTERN = 20_000
"""Characters of the pattern of a terminal, with those of all terminals in it."""


@dataclass(frozen=True, slots=True)
class Written:
    """A pattern as lark keeps it: text and flags; `plain` if it is no regular expression."""

    text: str
    flags: str = ""
    plain: bool = False

    def regexp(self) -> str:
        found = re.escape(self.text) if self.plain else self.text
        for flag in dict.fromkeys(self.flags):
            found = f"(?{flag}:{found})"
        return found

    def widths(self) -> tuple[int, int]:
        """The least and the greatest length, by which lark orders alternatives."""
        if self.plain:
            return len(self.text), len(self.text)
        tree: Any = re._parser.parse(self.regexp())
        low, high = tree.getwidth()
        return int(low), int(high)


@dataclass(frozen=True, slots=True)
class Terminal:
    """What one terminal reads: a word, or a pattern.  `label` is for messages."""

    label: str
    place: Place
    word: str | None
    pattern: Pattern
    first: Ranges

    def automaton(self, work: Work) -> Automaton:
        """GrammarError, with the place, where preference would need too many states."""
        with self._placed():
            return lexeme(self.pattern, work)

    def table(self, work: Work, apart: Iterable[Ranges] = ()) -> Table:
        """As `lark_lexeme.table`.  GrammarError, with the place, if there are too many states."""
        with self._placed():
            return table(self.pattern, work, apart)

    @contextmanager
    def _placed(self) -> Iterator[None]:
        try:
            yield
        except GrammarError as error:
            raise failure(
                error.message, self.place, keyword=error.keyword, hint=error.hint
            ) from None


class Terminals:
    """Patterns by terminal; each is made once."""

    def __init__(self, definitions: Mapping[str, Definition]) -> None:
        self._definitions = definitions
        self._patterns: dict[str, Written | None] = {}

    def terminal(self, body: Body, label: str, place: Place) -> Terminal:
        """GrammarError, with the place, if no automaton can read it or it may be empty."""
        written = self._pattern(body, place)
        if written.plain and not written.flags:
            word = written.text
            if any(0xD800 <= ord(c) <= 0xDFFF for c in word):
                raise failure("half a surrogate pair, which no text can hold", place)
            return Terminal(label, place, word, Pattern(_word(word)), charset.single(word[0]))
        try:
            pattern = lark_regex.read(written.regexp())
        except GrammarError as error:
            raise failure(error.message, place, keyword=error.keyword, hint=error.hint) from None
        ranges, empty = lark_regex.edge(pattern.regex)
        if empty:
            raise failure(f"the terminal {label} may be empty, which is an endless loop to a lexer",
                          place, keyword="empty terminal",
                          hint="make it optional where it is used")  # fmt: skip
        return Terminal(label, place, None, pattern, ranges)

    def written(self, name: str, place: Place) -> Written:
        """The pattern of a terminal by its name."""
        if name in self._patterns:
            known = self._patterns[name]
            if known is None:
                raise failure(f"the terminal `{name}` contains itself", place, keyword="recursion",
                              hint="only rules may be recursive")  # fmt: skip
            return known
        self._patterns[name] = None
        one = self._definitions[name]
        found = self._patterns[name] = self._pattern(one.body, one.name.place)
        return found

    def _pattern(self, body: Body, place: Place) -> Written:
        found = self._written(body, place)
        if len(found.text) > MAX_PATTERN:
            raise failure(f"a terminal of more than {MAX_PATTERN:,} characters", place,
                          keyword="size")  # fmt: skip
        if not found.text:
            raise failure("a terminal cannot be empty", place, keyword="empty terminal")
        return found

    def _written(self, body: Body, place: Place) -> Written:
        if isinstance(body, Text):
            return literal(body)
        if isinstance(body, Range):
            return _range(body)
        if isinstance(body, Name):
            if not is_terminal(body.name):
                raise failure(
                    f"the rule `{body.name}` inside a terminal",
                    body.place,
                    keyword="terminal",
                    hint="terminals are made of terminals",
                )
            return self.written(body.name, body.place)
        if isinstance(body, Series):
            items = [self._written(item, place) for item in body.items]
            if len(items) == 1:
                return items[0]
            return self._short("".join(item.regexp() for item in items), place)
        if isinstance(body, Options):
            return self._options(body, place)
        if isinstance(body, Times):
            item = self._written(body.item, place)
            bounds = body.sign if body.sign != "~" else f"{{{body.low},{body.high}}}"
            if body.sign == "~" and body.low == body.high:
                bounds = f"{{{body.low}}}"
            found = self._short(f"(?:{item.regexp()}){bounds}", place)
            return Written(found.text, item.flags)
        raise failure("a template inside a terminal", body.name.place, keyword="terminal")

    def _options(self, body: Options, place: Place) -> Written:
        if body.aliased is not None:
            raise failure("an alias inside a terminal", body.aliased, keyword="terminal",
                          hint="`->` belongs to alternatives of rules")  # fmt: skip
        items = [self._written(item, place) for item in body.items]
        if len(items) == 1:
            return items[0]
        try:
            order = {item: item.widths() for item in items}
        except (re.error, OverflowError) as error:
            raise failure(f"an alternative is no regular expression: {error}", place,
                          keyword="regexp") from None  # fmt: skip
        items.sort(key=lambda item: (-order[item][1], -order[item][0], -len(item.text)))
        return self._short(f"(?:{'|'.join(item.regexp() for item in items)})", place)

    def _short(self, text: str, place: Place) -> Written:
        if len(text) > MAX_PATTERN:
            raise failure(f"a terminal of more than {MAX_PATTERN:,} characters", place,
                          keyword="size")  # fmt: skip
        return Written(text)


def _word(word: str) -> lark_regex.Regex:
    return lark_regex.Series(tuple(Chars(charset.single(c)) for c in word))


def _unescaped(text: str, place: Place) -> str:
    try:
        return str(eval_escaping(text))  # type: ignore[no-untyped-call]  # lark's own
    except (LarkGrammarError, SyntaxError, ValueError):
        raise failure(f"`{text[:60]}` has an escape that means nothing", place,
                      keyword="escape") from None  # fmt: skip


def literal(text: Text) -> Written:
    """A string or a regular expression with the meaning that lark gives its escapes."""
    sign = '"' if text.kind == "string" else "/"
    inside, _, flags = text.text[1:].rpartition(sign)
    if text.kind == "regexp" and "\n" in inside and "x" not in flags:
        raise failure("a line end inside a regular expression without the flag `x`", text.place,
                      keyword="regexp")  # fmt: skip
    if "l" in flags:
        raise failure("the flag `l` depends on more than the text", text.place,
                      keyword="regexp")  # fmt: skip
    found = _unescaped(inside, text.place)
    if not found:
        raise failure("a terminal cannot be empty", text.place, keyword="empty terminal",
                      hint="leave it out, or write `[...]` around what is optional")  # fmt: skip
    if text.kind == "string":
        return Written(found.replace("\\\\", "\\"), flags, plain=True)
    return Written(found, flags)


def _range(body: Range) -> Written:
    ends = []
    for end in (body.first, body.last):
        raw = end.text[1:-1]
        if end.text.endswith("i") or len(_unescaped(raw, end.place)) != 1:
            raise failure(f"`{end.text}` is not one character", end.place, keyword="range",
                          hint='a range is written "a".."z"')  # fmt: skip
        ends.append(raw)
    return Written(f"[{ends[0]}-{ends[1]}]")
