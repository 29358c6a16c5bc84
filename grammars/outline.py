"""A JSON Schema in words: what a text must be, one line for each part."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

MAX_LINES = 200
MAX_DEPTH = 24
_LONGEST_VALUE = 60

_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "multipleOf": "a multiple of {}",
    "pattern": "matching /{}/",
    "format": "in the format {}",
}
_SIZES = {
    ("minLength", "maxLength"): "character",
    ("minItems", "maxItems"): "item",
    ("minProperties", "maxProperties"): "member",
    ("minContains", "maxContains"): "such item",
}
_LISTS = {"anyOf": "any of", "oneOf": "exactly one of", "allOf": "all of"}
_PARTS = {
    "contains": "contains",
    "additionalItems": "further items",
    "unevaluatedItems": "items not seen elsewhere",
    "unevaluatedProperties": "keys not seen elsewhere",
    "propertyNames": "every key",
    "not": "not",
    "if": "if",
    "then": "then",
    "else": "else",
}


def outline(schema: object) -> list[str]:
    """At most MAX_LINES lines, indented by depth; the last says so where more was left out."""
    lines: list[str] = []
    for line in _lines("", schema, 0):
        if len(lines) == MAX_LINES:
            return [*lines, "…"]
        lines.append(line)
    return lines


def _lines(label: str, schema: object, depth: int) -> Iterator[str]:
    yield "  " * depth + (f"{label}: " if label else "") + summary(schema)
    if isinstance(schema, dict):
        if depth >= MAX_DEPTH:
            yield "  " * (depth + 1) + "…"
            return
        for name, part in _parts(schema):
            yield from _lines(name, part, depth + 1)


def summary(schema: object) -> str:
    """A schema in a few words, without its parts."""
    if schema is True or schema == {}:
        return "any JSON value"
    if schema is False:
        return "not allowed"
    if not isinstance(schema, dict):
        return f"no schema: {_shown(schema)}"
    words = []
    if "$ref" in schema:
        words.append(f"as {schema['$ref']}")
    if "const" in schema:
        words.append(_shown(schema["const"]))
    if isinstance(schema.get("enum"), list):
        values = schema["enum"]
        more = f", … ({len(values):,} values)" if len(values) > 5 else ""
        words.append(f"one of {', '.join(map(_shown, values[:5]))}{more}")
    kinds = schema.get("type", [])
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if kinds:
        words.append(" or ".join(map(str, kinds)))
    words += _sizes(schema)
    words += [form.format(_plain(schema[k])) for k, form in _BOUNDS.items() if k in schema]
    if schema.get("uniqueItems") is True:
        words.append("without equal items")
    words += [form for keyword, form in _LISTS.items() if keyword in schema]
    return ", ".join(words) or _implied(schema)


def _implied(schema: dict[str, Any]) -> str:
    if any(k in schema for k in ("properties", "required", "additionalProperties")):
        return "any value; if an object, with"
    return "any value; with" if any(True for _ in _parts(schema)) else "any JSON value"


def _sizes(schema: dict[str, Any]) -> Iterator[str]:
    for (lowest, highest), thing in _SIZES.items():
        low, high = schema.get(lowest), schema.get(highest)
        if low is None and high is None:
            continue
        if low == high:
            count = f"{low}"
        elif high is None:
            count = f"at least {low}"
        else:
            count = f"at most {high}" if low is None else f"{low} to {high}"
        yield f"{count} {thing}{'' if count.split()[-1] == '1' else 's'}"


def _parts(schema: dict[str, Any]) -> Iterator[tuple[str, object]]:
    required = schema.get("required")
    names = [n for n in required if isinstance(n, str)] if isinstance(required, list) else []
    properties = schema.get("properties")
    declared = properties if isinstance(properties, dict) else {}
    for name, part in declared.items():
        yield f"{_shown(name)}{' (required)' if name in names else ''}", part
    for name in names:
        if name not in declared:
            yield f"{_shown(name)} (required)", True
    patterns = schema.get("patternProperties")
    for pattern, part in patterns.items() if isinstance(patterns, dict) else ():
        yield f"keys matching /{_plain(pattern)}/", part
    if "additionalProperties" in schema:
        yield "other keys", schema["additionalProperties"]
    prefix = schema.get("prefixItems")
    items = schema.get("items")
    first = prefix if isinstance(prefix, list) else items if isinstance(items, list) else []
    for i, part in enumerate(first):
        yield f"item {i + 1}", part
    if "items" in schema and not isinstance(items, list):
        yield ("further items" if first else "each item"), items
    for keyword, name in _PARTS.items():
        if keyword in schema:
            yield name, schema[keyword]
    for keyword in _LISTS:
        branches = schema.get(keyword)
        for i, part in enumerate(branches if isinstance(branches, list) else ()):
            yield f"{keyword} {i + 1}", part
    for keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
        found = schema.get(keyword)
        for name, part in found.items() if isinstance(found, dict) else ():
            if isinstance(part, list):
                part = {"required": part}
            yield f"with {_shown(name)}", part
    for keyword in ("$defs", "definitions"):
        found = schema.get(keyword)
        for name, part in found.items() if isinstance(found, dict) else ():
            yield f"#/{keyword}/{name}", part


def _shown(value: object) -> str:
    return _plain(json.dumps(value, ensure_ascii=False))


def _plain(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"
