"""The form of every known keyword of a JSON Schema, whatever types the schema is for."""

from __future__ import annotations

from typing import Any

from sgen.grammars.json_text import Schema, count, join, refuse

_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_limit(value: Any) -> bool:
    return isinstance(value, int | float)  # draft 4 wrote the exclusive ones as flags


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict | bool)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(n, str) for n in value)


_FORMS = {
    "minimum": (_is_number, "a number"),
    "maximum": (_is_number, "a number"),
    "exclusiveMinimum": (_is_limit, "a number"),
    "exclusiveMaximum": (_is_limit, "a number"),
    "multipleOf": (lambda v: _is_number(v) and v > 0, "a number above 0"),
    "pattern": (_is_string, "a string"),
    "format": (_is_string, "a string"),
    "contentEncoding": (_is_string, "a string"),
    "uniqueItems": (lambda v: isinstance(v, bool), "true or false"),
    "items": (lambda v: isinstance(v, dict | bool | list), "a schema"),
    "additionalItems": (_is_schema, "a schema"),
    "prefixItems": (lambda v: isinstance(v, list), "a list of schemas"),
    "properties": (lambda v: isinstance(v, dict), "an object"),
    "patternProperties": (lambda v: isinstance(v, dict), "an object"),
    "additionalProperties": (_is_schema, "a schema"),
    "propertyNames": (_is_schema, "a schema"),
    "required": (_is_names, "a list of names"),
}


def check_forms(schema: Schema, pointer: str) -> None:
    """GrammarError for a keyword whose value is of no use to any type."""
    for keyword in _COUNTS:
        count(schema, keyword, pointer)
    for keyword in schema.keys() & _FORMS.keys():
        fits, form = _FORMS[keyword]
        if not fits(schema[keyword]):
            refuse(f"{keyword} must be {form}", keyword, join(pointer, keyword))
