"""Lark grammars.

A text is accepted exactly when lark itself accepts it with `parser="earley"` and
`lexer="dynamic_complete"`, from the rule `start`.  So terminals are not told apart before parsing:
whatever terminal the rules allow at a place may be read there.  Priorities and aliases choose
between parses and name their parts; they say nothing about which texts there are, and neither do
the signs for trees (`?rule`, `_rule`, `!rule`).  Ignored terminals may stand before, between and
after terminals.

Left recursion and ambiguity are fine (`left_recursion`, `networks`).  Refused, with line and
column, are undefined names, rules that nothing uses, %declare, imports from anywhere but the
library of this package and lark's `common`, and terminals that look around (`lark_regex` says
which may) or that may be empty.
"""

from __future__ import annotations

from collections.abc import Mapping

from sgen.errors import GrammarError
from sgen.grammars import charset
from sgen.grammars.builder import Builder
from sgen.grammars.lark_definitions import Definitions, read
from sgen.grammars.lark_ignore import Gaps
from sgen.grammars.lark_syntax import (
    Body,
    Name,
    Options,
    Place,
    Range,
    Series,
    Text,
    Times,
    Use,
    failure,
    is_terminal,
)
from sgen.grammars.lark_terminals import Terminal, Terminals
from sgen.grammars.left_recursion import LeftCorners
from sgen.grammars.networks import lower_rules
from sgen.grammars.rules import (
    MAX_COUNT,
    MAX_RULES,
    Call,
    Choice,
    Expression,
    Join,
    Loop,
    Nets,
    Part,
)

Arguments = Mapping[str, Body]
"""What stands for the parameters of a template."""


def lower_lark(builder: Builder, source: str) -> int:
    """The node of all texts of a Lark grammar.  GrammarError with line and column."""
    return _Lowering(builder, read(source)).lower()


class _Lowering:
    def __init__(self, builder: Builder, definitions: Definitions) -> None:
        self._builder = builder
        self._definitions = definitions
        self._terminals = Terminals(definitions.by_name)
        self._parts: dict[tuple[str | None, object], int] = {}
        self._used: dict[int, Terminal] = {}
        self._named: dict[Body, Part] = {}
        self._rules: dict[str, Expression] = {}
        self._waiting: list[tuple[str, Options, Arguments]] = []
        self._made: set[str] = set()

    def lower(self) -> int:
        self._call("start", self._definitions.by_name["start"].body, {})
        while self._waiting:
            rule, body, arguments = self._waiting.pop()
            self._rules[rule] = self._expression(body, arguments)
        ignored = [
            self._terminals.terminal(_only(body), "after %ignore", _place(body))
            for body in self._definitions.ignored
        ]
        corners = LeftCorners(Nets(self._rules), self._builder.work)
        if any(terminal.pattern.closed for terminal in self._used.values()):
            self._check_what_follows(corners, ignored)
        gaps = Gaps(self._builder, list(self._used.values()), ignored)
        for number, terminal in self._used.items():
            gaps.define(number, terminal)
        return gaps.around(lower_rules(self._builder, corners, "start"))

    def _call(self, rule: str, body: Options, arguments: Arguments) -> Call:
        if rule not in self._made:
            if len(self._made) >= MAX_RULES:
                raise GrammarError(
                    f"the grammar has more than {MAX_RULES:,} rules",
                    keyword="size",
                    hint="a template may be calling itself with ever longer arguments",
                )
            self._made.add(rule)
            self._waiting.append((rule, body, arguments))
        return Call(rule)

    def _expression(self, body: Body, arguments: Arguments) -> Expression:
        self._builder.work.spend(1)
        if isinstance(body, Series):
            return Join(tuple(self._expression(item, arguments) for item in body.items))
        if isinstance(body, Options):
            return Choice(tuple(self._expression(item, arguments) for item in body.items))
        if isinstance(body, Times):
            if max(body.low, body.high or 0) > MAX_COUNT:
                raise GrammarError(f"a count above {MAX_COUNT:,}", keyword="size")
            return Loop(self._expression(body.item, arguments), body.low, body.high)
        if isinstance(body, Use):
            return self._use(body, arguments)
        if isinstance(body, Name):
            if body.name in arguments:
                return self._expression(arguments[body.name], {})
            if not is_terminal(body.name):
                one = self._definitions.by_name[body.name]
                if one.parameters:
                    raise failure(f"the template `{body.name}` needs arguments", body.place,
                                  keyword="template")  # fmt: skip
                return self._call(body.name, one.body, {})
        return self._part(body)

    def _use(self, body: Use, arguments: Arguments) -> Expression:
        """A template becomes one rule for each list of arguments."""
        name = body.name
        if name.name in arguments:
            actual = arguments[name.name]
            if not isinstance(actual, Name):
                raise failure(f"`{name.name}` is not a template here", name.place,
                              keyword="template")  # fmt: skip
            name = actual
        one = self._definitions.by_name[name.name]
        if len(one.parameters) != len(body.arguments):
            raise failure(
                f"`{name.name}` takes {len(one.parameters)} arguments, not {len(body.arguments)}",
                body.name.place,
                keyword="template",
            )
        closed = tuple(_substituted(a, arguments) for a in body.arguments)
        rule = f"{name.name}{{{','.join(map(_spelled, closed))}}}"
        if len(rule) > 300:
            raise failure("arguments of templates that grow too long", body.name.place,
                          keyword="size")  # fmt: skip
        return self._call(rule, one.body, dict(zip(one.parameters, closed, strict=True)))

    def _part(self, body: Body) -> Part:
        """The node of a terminal; equal terminals are one."""
        part = self._named.get(body)
        if part is None:
            terminal = self._terminals.terminal(body, f"`{_spelled(body)}`", _place(body))
            key = (terminal.word, terminal.pattern)
            if key not in self._parts:
                self._parts[key] = self._builder.reserve()
                self._used[self._parts[key]] = terminal
            part = self._named[body] = Part(self._parts[key])
        return part

    def _check_what_follows(self, corners: LeftCorners, ignored: list[Terminal]) -> None:
        """GrammarError if a character can follow a terminal that looks whether it does."""
        following = corners.following("start")
        for number, terminal in self._used.items():
            closed = terminal.pattern.closed
            others = list(ignored)
            if closed:
                others += [t for n, t in self._used.items() if following.get(number, 0) >> n & 1]
            for other in others:
                if charset.intersection(other.first, closed):
                    raise failure(
                        f"{other.label} can directly follow {terminal.label}, which looks at "
                        "what follows",
                        terminal.place,
                        keyword="regexp",
                        hint="let white space or a sign come between them in the rules",
                    )


def _only(body: Body) -> Body:
    """The one item of nested groups, if there is one: a name keeps its meaning."""
    while isinstance(body, Options | Series) and len(body.items) == 1:
        body = body.items[0]
    return body


def _place(body: Body) -> Place:
    while not isinstance(body, Name | Text):
        if isinstance(body, Range):
            body = body.first
        elif isinstance(body, Times):
            body = body.item
        elif isinstance(body, Use):
            body = body.name
        elif body.items:
            body = body.items[0]
        else:
            return Place(1, 1, 0)
    return body.place


def _spelled(body: Body) -> str:
    if isinstance(body, Name):
        return body.name
    if isinstance(body, Text):
        return body.text
    if isinstance(body, Range):
        return f"{body.first.text}..{body.last.text}"
    assert isinstance(body, Use), "arguments are names, texts, ranges and templates"
    return f"{body.name.name}{{{','.join(map(_spelled, body.arguments))}}}"


def _substituted(body: Body, arguments: Arguments) -> Body:
    if isinstance(body, Name):
        return arguments.get(body.name, body)
    if isinstance(body, Use):
        name = arguments.get(body.name.name, body.name)
        inner = tuple(_substituted(a, arguments) for a in body.arguments)
        return Use(name if isinstance(name, Name) else body.name, inner)
    return body
