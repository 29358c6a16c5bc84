"""Writes a grammar out as GBNF, Lark or a regular expression with exactly the same texts.

Two things have no place in these forms: the bound on nesting, and special tokens, which are no
text (`Written.notes` then says so).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from sgen.errors import GrammarError
from sgen.grammars.builder import Builder
from sgen.grammars.compile import lower_spec
from sgen.grammars.expressions import Expression, size
from sgen.grammars.printing import GbnfPrinter, LarkPrinter, RegexPrinter
from sgen.grammars.written_rules import Key, names_in, replaced, rules_of, too_large
from sgen.protocol import GrammarSpec

Form = Literal["gbnf", "lark", "regex"]
FORMS: tuple[Form, ...] = get_args(Form)

MAX_REGEX = 20_000
"""Parts of a regular expression."""

LONGEST = 60
"""Parts of an expression that would otherwise be several rules."""


@dataclass(frozen=True, slots=True)
class Written:
    text: str
    notes: tuple[str, ...]


def convert(spec: GrammarSpec, form: Form) -> Written:
    """The grammar in another form.

    GrammarError as compiling it, and where the form cannot hold it: a regular expression has no
    recursion, and nothing too large is written.
    """
    try:
        return _convert(spec, form)
    except RecursionError:
        raise too_large() from None


def _convert(spec: GrammarSpec, form: Form) -> Written:
    builder = Builder()
    root = lower_spec(builder, spec)
    flat = form == "regex"
    rules = rules_of(builder.nodes(), root, longest=MAX_REGEX if flat else LONGEST, flat=flat)
    notes = ("special tokens are left out: only their names as text",) if rules.has_special else ()
    if form == "gbnf":
        return Written(GbnfPrinter(rules.of).grammar(), notes)
    if form == "lark":
        return Written(LarkPrinter(rules.of).grammar(), notes)
    return Written(RegexPrinter().expression(_without_rules(rules.of, rules.root)), notes)


def _without_rules(rules: dict[Key, Expression], root: Key) -> Expression:
    """The first rule with all others written into it."""
    left = dict(rules)
    done: dict[Key, Expression] = {}
    while left:
        ready = [key for key, e in left.items() if all(name in done for name in names_in(e))]
        if not ready:
            raise GrammarError(
                "the grammar is recursive, which a regular expression cannot be",
                keyword="recursion",
                hint="convert it to gbnf or lark",
            )
        for key in ready:
            expression = done[key] = replaced(left.pop(key), done)
            if size(expression) > MAX_REGEX:
                raise too_large()
    return done[root]
