"""Strings and numbers of a JSON Schema as lexemes."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from decimal import Decimal
from functools import reduce

from sgen.errors import GrammarError
from sgen.grammars import formats, numbers
from sgen.grammars.automata import (
    Automaton,
    Table,
    Without,
    Words,
    classes_of,
    product,
    run,
)
from sgen.grammars.builder import Builder
from sgen.grammars.charset import SCALARS
from sgen.grammars.encoding import Style
from sgen.grammars.json_text import Schema, count, join, refuse, write
from sgen.grammars.regex import anywhere, automaton, with_length
from sgen.grammars.regex_syntax import Chars, Many, Tree, parse
from sgen.grammars.work import Work

STRING_KEYWORDS = frozenset({"minLength", "maxLength", "pattern", "format", "contentEncoding"})
NUMBER_KEYWORDS = frozenset(
    {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "format"}
)
INTEGER_FORMATS = {
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
}
FLOAT_FORMATS = frozenset({"float", "double"})  # what a JSON number is anyway

MAX_DIVISOR = 1_000


def lower_string(builder: Builder, schema: Schema, pointer: str) -> int:
    """A string within all of its length, pattern and format."""
    low = count(schema, "minLength", pointer) or 0
    high = count(schema, "maxLength", pointer)
    trees = tuple(_trees(schema, pointer))
    key = ("string", trees, low, high)
    known = builder.find(key)
    if known is not None:
        return known
    try:
        machine = string_automaton(trees, low, high, "json", builder.work)
    except GrammarError as error:
        raise placed(error, pointer) from None
    return builder.never() if machine is None else builder.lexeme(key, machine)


def placed(error: GrammarError, pointer: str) -> GrammarError:
    """An error in a pattern, said again with the place of the pattern in the schema."""
    where = f" at character {error.position} of the pattern" if error.position is not None else ""
    message = error.message.partition(" at character ")[0] + where
    return GrammarError(message, keyword=error.keyword, pointer=pointer, hint=error.hint)


def pattern_tree(pattern: str, pointer: str, *, outer: bool = False) -> Tree:
    """The strings that hold a match of a `pattern`."""
    try:
        return anywhere(parse(pattern, outer=outer, ecma=True))
    except GrammarError as error:
        raise placed(error, pointer) from None


def _trees(schema: Schema, pointer: str) -> Iterable[Tree]:
    if "pattern" in schema:
        yield pattern_tree(schema["pattern"], join(pointer, "pattern"))
    if "format" in schema:
        name = schema["format"]
        tree = formats.tree(name)
        if tree is None:
            refuse(f"format {name!r} is not supported", "format", join(pointer, "format"),
                   f"supported: {', '.join(formats.NAMES)}")  # fmt: skip
        yield tree
    if "contentEncoding" in schema:
        if schema["contentEncoding"] != "base64":
            refuse("only the contentEncoding base64 is supported", "contentEncoding",
                   join(pointer, "contentEncoding"))  # fmt: skip
        yield formats.base64()


def string_automaton(
    trees: tuple[Tree, ...], low: int, high: int | None, style: Style, work: Work
) -> Automaton | None:
    """JSON strings, quotes and all, that every tree matches, of `low` to `high` characters.

    In `canonical` style, which keys have, every string has one spelling.
    """
    if high is not None and low > high:
        return None
    length: Tree = Many(Chars(SCALARS), low, high)
    if not trees:
        return automaton(length, style, work)
    narrowed = with_length(trees[0], low, high)
    if narrowed is None and high is not None and trees[0] == formats.tree("uri"):
        narrowed = formats.web_address(low, high)
    parts = [*trees, length] if narrowed is None else [narrowed, *trees[1:]]
    machines = [automaton(part, style, work) for part in parts]
    if any(m is None for m in machines):
        return None
    return _meet([m for m in machines if m is not None], work)


def _meet(machines: list[Automaton], work: Work) -> Automaton | None:
    if len(machines) == 1:
        return machines[0]
    met = reduce(lambda a, b: product(a, b, minus=False, work=work), machines[1:], machines[0])
    return None if isinstance(met, Table) and met.empty else met


@dataclass(frozen=True, slots=True)
class KeyRule:
    """What the keys of an object must be: some names, or strings by tree and length."""

    names: tuple[str, ...] | None = None
    trees: tuple[Tree, ...] = ()
    low: int = 0
    high: int | None = None

    def allowed(self, names: Collection[str], work: Work) -> set[str]:
        """Those of some names that the rule allows."""
        if self.names is not None:
            return set(self.names).intersection(names)
        if not self.trees and self.low == 0 and self.high is None:
            return set(names)
        machine = string_automaton(self.trees, self.low, self.high, "canonical", work)
        if machine is None:
            return set()
        return {name for name in names if run(machine, write(name), work)}


def key_rule(schema: Schema, pointer: str) -> KeyRule:
    """The rule in the string keywords of a schema."""
    low, high = count(schema, "minLength", pointer) or 0, count(schema, "maxLength", pointer)
    return KeyRule(None, tuple(_trees(schema, pointer)), low, high)


def other_keys(
    builder: Builder,
    rule: KeyRule,
    matching: tuple[Tree, ...],
    names: Iterable[str],
    excluded: tuple[Tree, ...],
    pointer: str,
) -> int:
    """Keys by `rule` that all of `matching` match, that are none of `names`, and that none of
    `excluded` matches."""
    declared = tuple(sorted(names))
    key = ("keys", rule, matching, declared, excluded)
    known = builder.find(key)
    if known is not None:
        return known
    try:
        machine = _keys(rule, matching, declared, excluded, builder.work)
    except GrammarError as error:
        raise placed(error, pointer) from None
    return builder.never() if machine is None else builder.lexeme(key, machine)


def _keys(
    rule: KeyRule,
    matching: tuple[Tree, ...],
    names: tuple[str, ...],
    excluded: tuple[Tree, ...],
    work: Work,
) -> Automaton | None:
    words = Words(write(name) for name in names) if names else None
    if rule.names is None:
        trees = (*matching, *rule.trees)
        machine = string_automaton(trees, rule.low, rule.high, "canonical", work)
        if (
            machine is not None
            and words is not None
            and not (trees or excluded)
            and (rule.high is None)
        ):
            return Without(machine, words)
    else:
        machine = Words(write(name) for name in rule.names) if rule.names else None
        if machine is not None and matching:
            among = string_automaton(matching, 0, None, "canonical", work)
            machine = None if among is None else _meet([machine, among], work)
    for tree in excluded:
        machine = _less(machine, automaton(tree, "canonical", work), work)
    return _less(machine, words, work)


def _less(machine: Automaton | None, excluded: Automaton | None, work: Work) -> Automaton | None:
    if machine is None or excluded is None:
        return machine
    table = product(machine, excluded, minus=True, work=work)
    return None if table.empty else table


def lower_number(builder: Builder, schema: Schema, pointer: str, *, whole: bool) -> int:
    """A number within its bounds, or, if `whole`, an integer."""
    low, above = _bound(schema, "minimum", "exclusiveMinimum", pointer, 1)
    high, below = _bound(schema, "maximum", "exclusiveMaximum", pointer, -1)
    divisor = _divisor(schema, pointer)
    whole = whole or divisor > 1 or "multipleOf" in schema
    name = schema.get("format")
    ranged = whole and name in INTEGER_FORMATS
    if name is not None and not ranged and name not in (*FLOAT_FORMATS, *formats.NAMES):
        refuse(f"format {name!r} is not supported for this type", "format",
               join(pointer, "format"))  # fmt: skip
    if not whole:
        return _tree_node(builder, numbers.number(low, high, above=above, below=below))
    least = None if low is None else math.floor(low) + 1 if above else math.ceil(low)
    most = None if high is None else math.ceil(high) - 1 if below else math.floor(high)
    if name is not None and ranged:
        bottom, top = INTEGER_FORMATS[name]
        least = bottom if least is None else max(bottom, least)
        most = top if most is None else min(top, most)
    unbounded = least is None and most is None
    tree = numbers.INTEGER if unbounded else numbers.integer(least, most)
    if divisor == 1:
        return _tree_node(builder, tree)
    work = builder.work
    work.spend(divisor)
    machine = automaton(tree, work=work)
    table = (
        None if machine is None else product(machine, _divisible(divisor), minus=False, work=work)
    )
    if table is None or table.empty:
        return builder.never()
    return builder.lexeme(("multiple", tree, divisor), table)


def _tree_node(builder: Builder, tree: Tree) -> int:
    known = builder.find(tree)
    if known is not None:
        return known
    machine = automaton(tree, work=builder.work)
    return builder.never() if machine is None else builder.lexeme(tree, machine)


def _bound(
    schema: Schema, inclusive: str, exclusive: str, pointer: str, sign: int
) -> tuple[Decimal | None, bool]:
    """The stricter of two bounds, and whether it is itself excluded.

    Draft 4 wrote the exclusive one as a flag beside the other.
    """
    flag = schema.get(exclusive)
    found = []
    for keyword, strict in ((inclusive, flag is True), (exclusive, True)):
        value = schema.get(keyword)
        if keyword not in schema or (keyword == exclusive and isinstance(value, bool)):
            continue
        bound = Decimal(repr(value))
        if not bound.is_finite() or len(f"{bound:f}") > numbers.MAX_DIGITS:
            refuse(f"{keyword} has more than {numbers.MAX_DIGITS} digits", keyword,
                   join(pointer, keyword), "leave it out if it is meant as no bound")  # fmt: skip
        found.append((bound, strict))
    if not found:
        return None, False
    return max(found, key=lambda b: (b[0].copy_negate() if sign < 0 else b[0], b[1]))


def _divisor(schema: Schema, pointer: str) -> int:
    value = schema.get("multipleOf", 1)
    if value != int(value) or value > MAX_DIVISOR:
        refuse(f"multipleOf is supported for whole numbers up to {MAX_DIVISOR:,}", "multipleOf",
               join(pointer, "multipleOf"))  # fmt: skip
    return int(value)


def _divisible(divisor: int) -> Table:
    """Integers that `divisor` divides.  State 0 is the start; 1 + r: the remainder so far is r."""
    digits = [(0x30 + d, d) for d in range(10)]
    rows = [classes_of([(b, b, 1 + (10 * r + d) % divisor) for b, d in digits])
            for r in range(divisor)]  # fmt: skip
    first = classes_of([*((b, b, 1 + d % divisor) for b, d in digits), (0x2D, 0x2D, 1)])
    return Table([first, *rows], [False, True, *[False] * (divisor - 1)])
