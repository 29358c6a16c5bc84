"""What each keyword of a JSON Schema is: the part of the lowering that reads it, and its form.

A keyword that no draft from 4 on defines is unknown: see `JsonSchema.scan`.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from sgen.grammars.json_text import Schema, count, join, refuse

TYPE, VALUES, STRING, NUMBER, FORMAT, ARRAY, OBJECT, REFERENCE, ANY_OF, MORE = (
    1 << i for i in range(10)
)
"""Kinds of keywords, as bits.  MORE: those that need the algebra of schemas."""

_ANNOTATIONS = (
    "title description default examples example deprecated readOnly writeOnly $comment $defs "
    "definitions $schema $id id $anchor $dynamicAnchor $recursiveAnchor $vocabulary "
    "contentMediaType contentSchema"
)
_KINDS = {
    0: _ANNOTATIONS,
    TYPE: "type",
    VALUES: "enum const",
    STRING: "minLength maxLength pattern contentEncoding",
    NUMBER: "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf",
    FORMAT: "format",
    ARRAY: "items minItems maxItems",
    OBJECT: "properties required additionalProperties",
    REFERENCE: "$ref",
    ANY_OF: "anyOf",
    MORE: (
        "allOf oneOf not if then else discriminator $dynamicRef $recursiveRef "
        "prefixItems additionalItems contains minContains maxContains uniqueItems "
        "unevaluatedItems patternProperties propertyNames minProperties maxProperties "
        "dependentRequired dependentSchemas dependencies unevaluatedProperties"
    ),
}
KIND_OF: dict[str, int] = {word: kind for kind, words in _KINDS.items() for word in words.split()}

SUBSCHEMAS = frozenset({
    "not", "if", "then", "else", "items", "additionalItems", "contains", "unevaluatedItems",
    "additionalProperties", "propertyNames", "unevaluatedProperties", "contentSchema",
})  # fmt: skip
"""Keywords with a schema."""
SCHEMA_LISTS = frozenset({
    "allOf", "anyOf", "oneOf", "prefixItems", "items",
})  # fmt: skip
SCHEMA_MAPS = frozenset({
    "properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies",
})  # fmt: skip

_COUNTS = frozenset({
    "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties",
    "minContains", "maxContains",
})  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_limit(value: Any) -> bool:
    return isinstance(value, int | float)  # draft 4 wrote the exclusive ones as flags


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict | bool)


def _is_schemas(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0


def _is_map(value: Any) -> bool:
    return isinstance(value, dict)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(n, str) for n in value)


_SCHEMA = (_is_schema, "a schema")
_SCHEMAS = (_is_schemas, "a list of schemas")
_LIMIT = (_is_limit, "a number")
_TEXT = (_is_string, "a string")
_MAP = (_is_map, "an object")
_FORMS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "minimum": (_is_number, "a number"),
    "maximum": (_is_number, "a number"),
    "exclusiveMinimum": _LIMIT,
    "exclusiveMaximum": _LIMIT,
    "multipleOf": (lambda v: _is_number(v) and v > 0, "a number above 0"),
    "pattern": _TEXT,
    "format": _TEXT,
    "contentEncoding": _TEXT,
    "$ref": _TEXT,
    "$dynamicRef": _TEXT,
    "$recursiveRef": _TEXT,
    "uniqueItems": (lambda v: isinstance(v, bool), "true or false"),
    "items": (lambda v: isinstance(v, dict | bool | list), "a schema"),
    "prefixItems": (lambda v: isinstance(v, list), "a list of schemas"),
    "required": (_is_names, "a list of names"),
    "dependentRequired": (
        lambda v: isinstance(v, dict) and all(map(_is_names, v.values())),
        "an object of lists of names",
    ),
    "dependencies": (
        lambda v: isinstance(v, dict) and all(_is_schema(d) or _is_names(d) for d in v.values()),
        "an object of schemas and lists of names",
    ),
    **dict.fromkeys(SUBSCHEMAS - {"items", "contentSchema"}, _SCHEMA),
    **dict.fromkeys(("allOf", "anyOf", "oneOf"), _SCHEMAS),
    **dict.fromkeys(SCHEMA_MAPS - {"$defs", "definitions", "dependencies"}, _MAP),
}


def check_forms(schema: Schema) -> None:
    """GrammarError, with its place in the schema, for a keyword whose value is of no use to any
    type."""
    for keyword in schema:
        if keyword in _COUNTS:
            count(schema, keyword, "")
        elif keyword in _FORMS:
            fits, form = _FORMS[keyword]
            if not fits(schema[keyword]):
                refuse(f"{keyword} must be {form}", keyword, join("", keyword))


def meant(keyword: str) -> str:
    """A hint for an unknown keyword: the known one that it may be meant to be."""
    if keyword == "nullable":
        return 'JSON Schema says it as "type": [..., "null"]'
    near = get_close_matches(keyword, KIND_OF, n=1, cutoff=0.8)
    return f"did you mean {near[0]}?" if near else "leave it out; a note may be named x-..."
