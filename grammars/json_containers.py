"""Arrays and objects of a JSON Schema as frames."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import combinations, groupby
from typing import Any

from sgen.errors import GrammarError
from sgen.grammars.automata import product, run
from sgen.grammars.builder import Builder
from sgen.grammars.frames import Array, Object, Property
from sgen.grammars.json_scalars import KeyRule, other_keys, pattern_tree, placed
from sgen.grammars.json_text import Schema, count, join, refuse, write
from sgen.grammars.regex import automaton
from sgen.grammars.regex_syntax import Tree
from sgen.grammars.work import Work

ARRAY_KEYWORDS = frozenset(
    {"items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems"}
)
OBJECT_KEYWORDS = frozenset(
    {
        "properties",
        "required",
        "additionalProperties",
        "propertyNames",
        "patternProperties",
        "minProperties",
        "maxProperties",
    }
)

MAX_PATTERNS = 64
MAX_OPTIONAL = 1_900

Lower = Callable[[Any, str], int]
"""Lowers the schema at a pointer to a node."""


def lower_array(builder: Builder, schema: Schema, pointer: str, lower: Lower) -> int:
    low, high = count(schema, "minItems", pointer) or 0, count(schema, "maxItems", pointer)
    if schema.get("uniqueItems", False) is not False and (high is None or high > 1):
        refuse("uniqueItems is not supported", "uniqueItems", join(pointer, "uniqueItems"),
               "leave it out, or check the items afterwards")  # fmt: skip
    prefix, keyword, first = schema.get("prefixItems", []), "items", "prefixItems"
    if isinstance(schema.get("items"), list):  # as drafts 4 to 2019-09 wrote it
        if "prefixItems" in schema:
            refuse("a list of items beside prefixItems", "items", join(pointer, "items"))
        prefix, keyword, first = schema["items"], "additionalItems", "items"
    return builder.frame(
        Array(
            prefix=tuple(lower(s, join(pointer, first, i)) for i, s in enumerate(prefix)),
            items=lower(schema.get(keyword, True), join(pointer, keyword)),
            low=low,
            high=high,
            open=builder.literal(b"["),
            comma=builder.literal(b","),
            close=builder.literal(b"]"),
            empty=builder.literal(b"[]"),
        )
    )


def lower_object(
    builder: Builder, schema: Schema, pointer: str, lower: Lower, rule: KeyRule
) -> int:
    """Declared properties in their order, then those required without being declared, then
    others; all keys by `rule`, which is what propertyNames says."""
    declared, required = schema.get("properties", {}), set(schema.get("required", []))
    place = join(pointer, "properties")
    values = {name: (value, join(place, name)) for name, value in declared.items()}
    _add_required(builder.work, schema, pointer, values)
    extras = _extras(builder, schema, pointer, lower, rule, values)
    try:
        allowed = rule.allowed(values, builder.work)
    except GrammarError as error:
        raise placed(error, join(pointer, "propertyNames")) from None
    if not allowed.issuperset(required):
        return builder.never()
    properties = [
        _property(builder, name, lower(*value), name in required)
        for name, value in values.items()
        if name in allowed
    ]
    runs = [len(list(run)) for must, run in groupby(p.required for p in properties) if not must]
    if max(runs, default=0) > MAX_OPTIONAL:
        refuse(f"more than {MAX_OPTIONAL:,} optional properties in a row", "properties", place,
               "require some of them")  # fmt: skip
    low, high = _counts(schema, pointer, len(properties), len(required), bool(extras))
    return builder.frame(
        Object(
            properties=tuple(properties),
            extras=extras,
            low=low,
            high=high,
            open=builder.literal(b"{"),
            comma=builder.literal(b","),
            colon=builder.literal(b":"),
            close=builder.literal(b"}"),
            empty=builder.literal(b"{}"),
        )
    )


def _add_required(
    work: Work, schema: Schema, pointer: str, values: dict[str, tuple[Any, str]]
) -> None:
    """Those required without being declared: by the one pattern that matches, or as others."""
    missing = [name for name in schema.get("required", []) if name not in values]
    keyed = schema.get("patternProperties", {}) if missing else {}
    place = join(pointer, "patternProperties")
    _check_patterns(keyed, place)
    rest = (schema.get("additionalProperties", True), join(pointer, "additionalProperties"))
    machines = {p: automaton(pattern_tree(p, join(place, p)), "canonical", work) for p in keyed}
    for name in missing:
        text = write(name)
        found = [p for p, m in machines.items() if m is not None and run(m, text, work)]
        values[name] = (keyed[found[0]], join(place, found[0])) if len(found) == 1 else rest


def _check_patterns(keyed: Collection[str], place: str) -> None:
    if len(keyed) > MAX_PATTERNS:
        refuse(f"more than {MAX_PATTERNS} patterns", "patternProperties", place)


def _property(builder: Builder, name: str, value: int, required: bool) -> Property:
    key = write(name) + b":"
    return Property(builder.literal(b"{" + key), builder.literal(b"," + key), value, required)


def _extras(
    builder: Builder,
    schema: Schema,
    pointer: str,
    lower: Lower,
    rule: KeyRule,
    values: dict[str, tuple[Any, str]],
) -> tuple[tuple[int, int], ...]:
    """(key, value) nodes for keys by a pattern, and for all others.

    A key that two patterns match, or a declared one that a pattern matches, would have to satisfy
    both schemas: that is refused.
    """
    keyed = schema.get("patternProperties", {})
    place = join(pointer, "patternProperties")
    _check_patterns(keyed, place)
    outer = {p: pattern_tree(p, join(place, p), outer=True) for p in keyed}
    _refuse_shared(builder.work, outer, values, place)
    extras = []
    for pattern, value in keyed.items():
        inner = pattern_tree(pattern, join(place, pattern))
        key = other_keys(
            builder, rule, (inner,), _under(values, join(place, pattern)), (), join(place, pattern)
        )
        extras.append((key, lower(value, join(place, pattern))))
    rest = schema.get("additionalProperties", True)
    if rest is not False:
        key = other_keys(builder, rule, (), values, tuple(outer.values()), pointer)
        extras.append((key, lower(rest, join(pointer, "additionalProperties"))))
    return tuple(extras)


def _under(values: dict[str, tuple[Any, str]], place: str) -> list[str]:
    """The names whose values have the schema at a place."""
    return [name for name, (_, where) in values.items() if where == place]


def _refuse_shared(
    work: Work, outer: dict[str, Tree], values: dict[str, tuple[Any, str]], place: str
) -> None:
    machines = {p: automaton(tree, "canonical", work) for p, tree in outer.items()}
    for pattern, machine in machines.items():
        for name, (_, where) in values.items():
            if where == join(place, pattern) or machine is None:
                continue
            if run(machine, write(name), work):
                refuse(f"a pattern that also matches the declared property {name!r}",
                       "patternProperties", join(place, pattern))  # fmt: skip
    for (_, a), (pattern, b) in combinations(machines.items(), 2):
        if a is not None and b is not None and not product(a, b, minus=False, work=work).empty:
            refuse("two patterns that can match one key", "patternProperties", join(place, pattern))


def _counts(
    schema: Schema, pointer: str, declared: int, required: int, extras: bool
) -> tuple[int, int | None]:
    """The bounds on the number of members.

    Other keys can repeat each other, which makes them one member: `Object` counts one of them
    towards the least number, and all towards the greatest.
    """
    low = count(schema, "minProperties", pointer) or 0
    high = count(schema, "maxProperties", pointer)
    if low <= required:
        low = 0
    if not extras and high is not None and high >= declared:
        high = None
    if extras and low > 1 and (high is not None or low > declared + 1):
        refuse("minProperties above 1 is not supported for undeclared keys", "minProperties",
               join(pointer, "minProperties"), "declare the properties")  # fmt: skip
    return low, high
