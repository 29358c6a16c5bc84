"""Random JSON Schemas of what the grammars support, and instances of them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

NAMES = ["a", "ab", "b", "é", 'q"', "kind"]


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
                  "pattern": st.sampled_from(["^a", "b$", "^[ab]+$", "a.b", "^(ab|é)*$", '"'])},
    )  # fmt: skip
    values = st.lists(
        st.sampled_from([None, True, 1, 2.5, "a", "ab", [1], {"a": 1}]), min_size=1, max_size=4
    )
    fixed = st.one_of(
        values.map(lambda v: {"enum": v}),
        values.map(lambda v: {"const": v[0]}),
        values.map(lambda v: {"enum": v, "type": ["string", "number"]}),
        st.sampled_from([{"type": "null"}, {"type": "boolean"}, {}, True, {"minimum": 3}]),
        st.just({"type": ["string", "null"], "maxLength": 2}),
    )
    return st.one_of(integer, number, string, fixed)


def schemas() -> st.SearchStrategy[Any]:
    def grow(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
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
                "minProperties": st.integers(0, 1),
                "maxProperties": small,
            },
        )
        union = st.lists(inner, min_size=1, max_size=3).map(lambda s: {"anyOf": s})
        return st.one_of(array, thing, union)

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


def in_order(value: Any, schema: Any) -> Any:
    """The value with the keys of its objects as the schema orders them, as far as that is one
    order; unions are left as they are."""
    if not isinstance(schema, dict):
        return value
    if isinstance(value, dict):
        declared = schema.get("properties", {})
        order = dict.fromkeys([*declared, *schema.get("required", []), *value])
        rest = schema.get("additionalProperties", True)
        return {n: in_order(value[n], declared.get(n, rest)) for n in order if n in value}
    if isinstance(value, list):
        prefix = schema.get("prefixItems", [])
        items = [*prefix, *[schema.get("items", True)] * len(value)]
        return [in_order(v, s) for v, s in zip(value, items, strict=False)]
    return value
