"""Proofs that no value satisfies two schemas, which is what `oneOf` needs.

A proof is by type, by the values of enum and const, by a property that both declare and one
requires, or by bounds.  No proof does not mean that a common value exists.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sgen.grammars.json_text import TYPES, Schema, identity, join, refuse, type_of
from sgen.grammars.work import Work

Follow = Callable[[Any, str], tuple[Any, str]]

MAX_DEPTH = 8
MAX_STEPS = 20_000
_RANGES = {
    "integer": ("minimum", "maximum"),
    "number": ("minimum", "maximum"),
    "string": ("minLength", "maxLength"),
    "array": ("minItems", "maxItems"),
    "object": ("minProperties", "maxProperties"),
}


def types_of(schema: Any, pointer: str) -> frozenset[str]:
    """The JSON types that a schema's `type` allows; every number type includes integers."""
    found = schema.get("type", list(TYPES)) if isinstance(schema, dict) else list(TYPES)
    names = [found] if isinstance(found, str) else found
    if not isinstance(names, list) or not all(n in TYPES for n in names):
        refuse(f"type must be one or several of {', '.join(TYPES)}", "type", join(pointer, "type"))
    return frozenset([*names, "integer"] if "number" in names else names)


def narrowed(schema: Any, pointer: str, types: frozenset[str]) -> Any:
    """The schema, for values of some types only."""
    if not isinstance(schema, dict):
        return {"type": sorted(types)} if schema is True else schema
    return {**schema, "type": sorted(types_of(schema, pointer) & types)}


def with_tag(schema: Any, tag: str) -> Schema | None:
    """The schema of an object with its declared property `tag` required; None: not declared."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or tag not in properties:
        return None
    required = schema.get("required", [])
    if not isinstance(required, list):
        return None
    return {**schema, "required": [*required, *([] if tag in required else [tag])]}


class Disjoint:
    """Proves within a number of steps; `follow` resolves references."""

    def __init__(self, follow: Follow, work: Work) -> None:
        self._follow = follow
        self._work = work
        # By the list of the values, which the schema keeps alive.
        self._known: dict[int, tuple[frozenset[str], frozenset[str]]] = {}
        self._steps_left = MAX_STEPS

    def __call__(self, a: Any, place_a: str, b: Any, place_b: str, depth: int = 0) -> bool:
        self._steps_left -= 1
        self._work.spend(1)
        if self._steps_left < 0:
            return False
        a, place_a = self._follow(a, place_a)
        b, place_b = self._follow(b, place_b)
        if a is False or b is False:
            return True
        if not isinstance(a, dict) or not isinstance(b, dict) or depth > MAX_DEPTH:
            return False
        if self._by_parts(a, place_a, b, place_b, depth):
            return True
        if self._by_parts(b, place_b, a, place_a, depth):
            return True
        values_a, values_b = _values(a), _values(b)
        if values_a is not None and values_b is not None:
            one, other = self._facts(values_a)[0], self._facts(values_b)[0]
            self._work.spend(1 + min(len(one), len(other)) // 64)
            return one.isdisjoint(other)
        shared = self._kinds(a, place_a) & self._kinds(b, place_b)
        return all(
            _apart(a, b, kind)
            or (kind == "object" and self._by_property(a, place_a, b, place_b, depth))
            for kind in shared
        )

    def _facts(self, values: list[Any]) -> tuple[frozenset[str], frozenset[str]]:
        """What the values are, and their types."""
        known = self._known.get(id(values))
        if known is None:
            self._work.spend(len(values) // 4)
            known = frozenset(map(identity, values)), frozenset(map(type_of, values))
            self._known[id(values)] = known
        return known

    def _kinds(self, schema: Schema, pointer: str) -> frozenset[str]:
        values = _values(schema)
        declared = types_of(schema, pointer)
        return declared if values is None else declared & self._facts(values)[1]

    def _by_parts(self, a: Schema, place_a: str, b: Schema, place_b: str, depth: int) -> bool:
        """By the schemas that `a` is combined of."""
        for keyword, enough in (("anyOf", all), ("oneOf", all), ("allOf", any)):
            parts = a.get(keyword)
            if isinstance(parts, list) and enough(
                self(part, join(place_a, keyword, i), b, place_b, depth + 1)
                for i, part in enumerate(parts)
            ):
                return True
        return False

    def _by_property(self, a: Schema, place_a: str, b: Schema, place_b: str, depth: int) -> bool:
        """By a property that one of them requires, and for which the other has no such value."""
        for one, place, other, other_place in ((a, place_a, b, place_b), (b, place_b, a, place_a)):
            mine, theirs = one.get("properties", {}), other.get("properties", {})
            required = one.get("required", [])
            if not isinstance(mine, dict) or not isinstance(theirs, dict):
                return False
            for name in required if isinstance(required, list) else ():
                if name in theirs:
                    if name in mine and self(
                        mine[name], join(place, "properties", name),
                        theirs[name], join(other_place, "properties", name), depth + 1,
                    ):  # fmt: skip
                        return True
                elif other.get("additionalProperties") is False and not other.get(
                    "patternProperties"
                ):
                    return True
        return False


def _values(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None


def _apart(a: Schema, b: Schema, kind: str) -> bool:
    """Whether the bounds of one end before those of the other begin."""
    if kind not in _RANGES:
        return False
    low, high = _RANGES[kind]
    return any(
        _is_number(x.get(high)) and _is_number(y.get(low)) and x[high] < y[low]
        for x, y in ((a, b), (b, a))
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
