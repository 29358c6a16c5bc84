"""Reads the text of a Lark grammar into statements, by the parser of the `lark` package.

This is the only file that knows how lark shows a parsed grammar.  Names keep their places, so
that errors can say line and column.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from lark import Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedInput
from lark.load_grammar import GRAMMAR_ERRORS, _get_parser

from sgen.errors import GrammarError

MAX_SOURCE = 100_000
"""Characters of a grammar."""

MAX_NESTING = 100
"""Groups inside each other."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in a grammar; `grammar` is the name of an imported one."""

    line: int
    column: int
    position: int
    grammar: str = ""


@dataclass(frozen=True, slots=True)
class Name:
    """A rule, a terminal, or a parameter of a template."""

    name: str
    place: Place = field(compare=False)


@dataclass(frozen=True, slots=True)
class Text:
    """A string or a regular expression as it is written, with its flags."""

    kind: Literal["string", "regexp"]
    text: str
    place: Place = field(compare=False)


@dataclass(frozen=True, slots=True)
class Range:
    first: Text
    last: Text


@dataclass(frozen=True, slots=True)
class Use:
    """A template with its arguments."""

    name: Name
    arguments: tuple[Body, ...]


@dataclass(frozen=True, slots=True)
class Series:
    items: tuple[Body, ...]


@dataclass(frozen=True, slots=True)
class Options:
    """Alternatives; `aliased` is the place of a first `->` among them."""

    items: tuple[Body, ...]
    aliased: Place | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Times:
    """`item` from `low` to `high` times; `sign` is how that is written."""

    item: Body
    low: int
    high: int | None
    sign: str


Body = Name | Text | Range | Use | Series | Options | Times


@dataclass(frozen=True, slots=True)
class Definition:
    """A rule or a terminal (`Name.name` in capitals); `how`: with %override or %extend."""

    name: Name
    parameters: tuple[str, ...]
    body: Options
    how: Literal["define", "override", "extend"]


@dataclass(frozen=True, slots=True)
class Ignore:
    body: Options


@dataclass(frozen=True, slots=True)
class Import:
    """Names of another grammar, and what they are called here."""

    path: tuple[str, ...]
    names: tuple[tuple[str, str], ...]
    relative: bool
    place: Place


Statement = Definition | Ignore | Import


def is_terminal(name: str) -> bool:
    """Whether a name, or its last part if it is imported, is in capital letters."""
    return next((c.isupper() for c in reversed(name) if c.isalpha()), False)


def failure(
    message: str, place: Place, *, keyword: str = "lark", hint: str = ""
) -> GrammarError:  # fmt: skip
    """The error of something at a place."""
    inside = f" of `{place.grammar}`" if place.grammar else ""
    return GrammarError(
        f"line {place.line}:{place.column}{inside}: {message}",
        keyword=keyword,
        position=None if place.grammar else place.position,
        hint=hint,
    )


def parse(source: str, grammar: str = "") -> list[Statement]:
    """The statements of a grammar, in order.  GrammarError with the place of a syntax error."""
    if len(source) > MAX_SOURCE:
        raise GrammarError(
            f"the grammar has {len(source):,} characters, more than {MAX_SOURCE:,}", keyword="size"
        )
    try:
        tree = _parser().parse(source + "\n", "start")
    except UnexpectedInput as error:
        raise _syntax_error(error, grammar) from None
    reader = _Reader(grammar)
    return [s for item in tree.children if (s := reader.statement(item)) is not None]


def _parser() -> Any:
    """Lark's parser of grammars, which it makes once."""
    return _get_parser()  # type: ignore[no-untyped-call]  # lark's own


def _syntax_error(error: UnexpectedInput, grammar: str) -> GrammarError:
    position = getattr(error, "pos_in_stream", None) or 0
    place = Place(max(error.line, 1), max(error.column, 1), position, grammar)
    if isinstance(error, UnexpectedCharacters):
        return failure("nothing of a Lark grammar begins like this", place, keyword="syntax")
    known = error.match_examples(_parser().parse, GRAMMAR_ERRORS, use_accepts=True)
    token = str(getattr(error, "token", ""))
    found = f"`{token}` cannot stand here" if token.strip() else "something is missing"
    message = f"{found}: {str(known)[0].lower()}{str(known)[1:]}" if known else found
    return failure(message, place, keyword="syntax")


class _Reader:
    """From lark's trees to statements."""

    def __init__(self, grammar: str) -> None:
        self._grammar = grammar

    def _place(self, token: Token) -> Place:
        return Place(token.line or 1, token.column or 1, token.start_pos or 0, self._grammar)

    def _name(self, tree: Tree[Token] | Token) -> Name:
        token = tree if isinstance(tree, Token) else _token(tree.children[0])
        return Name(str(token), self._place(token))

    def statement(self, tree: Tree[Token] | Token) -> Statement | None:
        assert isinstance(tree, Tree), "statements are trees"
        kind, parts = str(tree.data), tree.children
        if kind == "ignore":
            return Ignore(self._options(parts[0], 0))
        if kind == "import":
            return self._import(tree)
        if kind == "declare":
            raise failure("%declare has no text to match", self._first_place(tree),
                          keyword="%declare", hint="define the terminal")  # fmt: skip
        if kind == "override":
            return self._definition(_tree(parts[0]), "override")
        if kind == "extend":
            return self._definition(_tree(parts[0]), "extend")
        return self._definition(tree, "define")

    def _first_place(self, tree: Tree[Token]) -> Place:
        return self._place(next(t for t in tree.scan_values(lambda t: isinstance(t, Token))))

    def _definition(
        self, tree: Tree[Token], how: Literal["define", "override", "extend"]
    ) -> Definition:
        if tree.data == "term":
            return Definition(
                self._name(tree.children[0]), (), self._options(tree.children[-1], 0), how
            )
        _, name, parameters, _, body = tree.children
        names = tuple(str(t) for t in _tree(parameters).children)
        return Definition(self._name(name), names, self._options(body, 0), how)

    def _import(self, tree: Tree[Token]) -> Import:
        path = _tree(tree.children[0])
        parts = [str(t) for t in path.children]
        extra = tree.children[1] if len(tree.children) > 1 else None
        if isinstance(extra, Tree):
            names = tuple((str(t), str(t)) for t in extra.children)
        else:
            name = parts.pop()
            names = ((name, str(extra) if extra is not None else name),)
        relative = path.data == "import_rel"
        return Import(tuple(parts), names, relative, self._first_place(path))

    def _options(self, tree: Tree[Token] | Token, depth: int) -> Options:
        items, aliased = [], None
        for child in _tree(tree).children:
            child = _tree(child)
            if child.data == "alias":
                aliased = aliased or self._first_place(_tree(child.children[1]))
                child = _tree(child.children[0])
            items.append(Series(tuple(self._expression(c, depth) for c in child.children)))
        return Options(tuple(items), aliased)

    def _expression(self, tree: Tree[Token] | Token, depth: int) -> Body:
        tree = _tree(tree)
        if depth > MAX_NESTING:
            raise failure(f"groups nested deeper than {MAX_NESTING}", self._first_place(tree),
                          keyword="size")  # fmt: skip
        if tree.data == "expr":
            return self._times(tree, depth)
        if tree.data == "maybe":
            return Times(self._options(tree.children[0], depth + 1), 0, 1, "?")
        if tree.data == "expansions":
            return self._options(tree, depth + 1)
        return self._value(tree)

    def _times(self, tree: Tree[Token], depth: int) -> Times:
        item = self._expression(tree.children[0], depth + 1)
        sign, *counts = (_token(t) for t in tree.children[1:])
        if sign != "~":
            low, high = {"?": (0, 1), "*": (0, None), "+": (1, None)}[str(sign)]
            return Times(item, low, high, str(sign))
        if any(len(count) > 9 for count in counts):
            raise failure("a count of more than nine digits", self._place(counts[0]),
                          keyword="size")  # fmt: skip
        low, high = int(counts[0]), int(counts[-1])
        if not 0 <= low <= high:
            raise failure(f"{low}..{high} is no range of counts", self._place(counts[0]))
        return Times(item, low, high, "~")

    def _value(self, tree: Tree[Token]) -> Body:
        """What lark calls a value: a name, a literal, a range or the use of a template."""
        item = _tree(tree.children[0])
        if item.data == "literal":
            return self._text(_token(item.children[0]))
        if item.data == "range":
            first, last = (self._text(_token(t)) for t in item.children)
            return Range(first, last)
        if item.data == "template_usage":
            name, *arguments = item.children
            return Use(self._name(name), tuple(self._value(_tree(a)) for a in arguments))
        return self._name(item)

    def _text(self, token: Token) -> Text:
        kind: Literal["string", "regexp"] = "string" if token.type == "STRING" else "regexp"
        return Text(kind, str(token), self._place(token))


def _tree(item: Tree[Token] | Token) -> Tree[Token]:
    assert isinstance(item, Tree), "lark's grammar of grammars has changed"
    return item


def _token(item: Tree[Token] | Token) -> Token:
    assert isinstance(item, Token), "lark's grammar of grammars has changed"
    return item
