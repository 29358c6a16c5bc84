"""Random JSON Schemas of nearly every keyword, and instances that are near what they allow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice, permutations, product
from typing import Any

from hypothesis import strategies as st

NAMES = ["a", "ab", "b", "é", 'q"', "kind"]
PATTERNS = ["^a", "b$", "^[ab]+$", "a.b", "^(ab|é)*$", '"']
CONSTANTS = [None, True, False, 0, 1, 2.5, "", "a", "ab", [], [1], {}, {"a": 1}, {"b": "a"}]


def text(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def scalars() -> st.SearchStrategy[Any]:
    bound = st.integers(-20, 120)
    integer = st.fixed_dictionaries(
        {"type": st.just("integer")},
        optional={"minimum": bound, "maximum": bound, "exclusiveMaximum": bound,
                  "multipleOf": st.integers(1, 7)},
    )  # fmt: skip
    number = st.fixed_dictionaries(
        {"type": st.just("number")},
        optional={"minimum": st.sampled_from([0, -1.5, 0.25, 10]),
                  "exclusiveMinimum": st.sampled_from([0, 0.1, -3]),
                  "maximum": st.sampled_from([1, 9.75, 100]),
                  "exclusiveMaximum": st.sampled_from([1, 0.3, 7.5])},
    )  # fmt: skip
    string = st.fixed_dictionaries(
        {"type": st.just("string")},
        optional={"minLength": st.integers(0, 3), "maxLength": st.integers(0, 5),
                  "pattern": st.sampled_from(PATTERNS)},
    )  # fmt: skip
    values = st.lists(st.sampled_from(CONSTANTS), min_size=1, max_size=4)
    fixed = st.one_of(
        values.map(lambda v: {"enum": v}),
        values.map(lambda v: {"const": v[0]}),
        values.map(lambda v: {"enum": v, "type": ["string", "number"]}),
        st.sampled_from([{"type": "null"}, {"type": "boolean"}, {}, True, False, {"minimum": 3}]),
        st.just({"type": ["string", "null"], "maxLength": 2}),
    )
    return st.one_of(integer, number, string, fixed)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Arrays and objects of the commonest keywords."""
    small = st.integers(0, 3)
    array = st.fixed_dictionaries(
        {"type": st.just("array")},
        optional={"items": inner, "prefixItems": st.lists(inner, max_size=2),
                  "minItems": small, "maxItems": small},
    )  # fmt: skip
    thing = st.fixed_dictionaries(
        {"type": st.just("object")},
        optional={
            "properties": st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
            "required": st.lists(st.sampled_from(NAMES), max_size=2, unique=True),
            "additionalProperties": st.one_of(st.booleans(), inner),
            "minProperties": small,
            "maxProperties": small,
        },
    )
    return st.one_of(array, thing)


def schemas() -> st.SearchStrategy[Any]:
    """What is lowered directly, for the most part."""

    def grow(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        union = st.lists(inner, min_size=1, max_size=3).map(lambda s: {"anyOf": s})
        return st.one_of(containers(inner), union)

    return st.recursive(scalars(), grow, max_leaves=6)


def combined_schemas() -> st.SearchStrategy[Any]:
    """Schemas of the keywords that combine others, and of the rarer ones for members and items."""

    def grow(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        few = st.lists(inner, min_size=1, max_size=3)
        some = st.dictionaries(st.sampled_from(NAMES[:3]), inner, max_size=2)
        names = st.lists(st.sampled_from(NAMES[:3]), max_size=2, unique=True)
        combining = st.fixed_dictionaries(
            {},
            optional={
                "allOf": few, "anyOf": few, "oneOf": few, "not": inner,
                "if": inner, "then": inner, "else": inner, "type": st.sampled_from(
                    ["object", "array", ["string", "object"], ["integer", "null"]]),
                "properties": some, "required": names, "enum": st.lists(
                    st.sampled_from(CONSTANTS), min_size=1, max_size=4),
            },
        )  # fmt: skip
        small = st.integers(0, 2)
        members = st.fixed_dictionaries(
            {},
            optional={
                "properties": some, "required": names, "additionalProperties": inner,
                "patternProperties": st.dictionaries(st.sampled_from(PATTERNS), inner, max_size=2),
                "propertyNames": st.sampled_from(
                    [{"maxLength": 1}, {"enum": ["a", "b"]}, {"pattern": "a"}, {"minLength": 1}]
                ),
                "dependentRequired": st.dictionaries(st.sampled_from(NAMES[:3]), names, max_size=2),
                "dependentSchemas": some, "minProperties": small, "maxProperties": small,
            },
        )  # fmt: skip
        items = st.fixed_dictionaries(
            {},
            optional={"contains": inner, "minContains": small, "maxContains": small,
                      "items": inner, "prefixItems": st.lists(inner, min_size=1, max_size=2)},
        )  # fmt: skip
        return st.one_of(combining, members, items, containers(inner))

    return st.recursive(scalars(), grow, max_leaves=6)


def values() -> st.SearchStrategy[Any]:
    leaf = st.one_of(
        st.none(), st.booleans(), st.integers(-30, 130),
         st.sampled_from([0.0, 0.3, 2.5, -1.5, 1e-7]),
        st.sampled_from(["", "a", "b", "ab", "aab", "éé", "axb", 'a"b', "a\nb", "😀"]),
    )  # fmt: skip
    return st.recursive(
        leaf,
        lambda v: st.one_of(
            st.lists(v, max_size=3), st.dictionaries(st.sampled_from(NAMES), v, max_size=3)
        ),
        max_leaves=6,
    )


def neighbours(value: Any) -> Iterator[Any]:
    """The value with one thing changed."""
    if isinstance(value, dict):
        for name in value:
            yield {n: v for n, v in value.items() if n != name}
            for other in islice(neighbours(value[name]), 3):
                yield {**value, name: other}
        yield from ({**value, name: 1} for name in ("a", "b") if name not in value)
    elif isinstance(value, list):
        yield value[1:]
        yield [*value, 1]
        for i, item in enumerate(value[:2]):
            for other in islice(neighbours(item), 2):
                yield [*value[:i], other, *value[i + 1 :]]
    elif isinstance(value, str):
        yield from (value + "a", value[1:], 1)
    elif isinstance(value, bool) or value is None:
        yield from (1, "a", {})
    else:
        yield from (value + 1, -value, "a", [value])


def orders(value: Any) -> Iterator[Any]:
    """The value with the members of its objects in every order."""
    if isinstance(value, dict):
        inner = [[(n, v) for v in orders(value[n])] for n in value]
        for members in product(*inner):
            for order in permutations(members):
                yield dict(order)
    elif isinstance(value, list):
        for items in product(*map(orders, value)):
            yield list(items)
    else:
        yield value
