"""Schemas as text: reading them within limits, pointers into them, and values as they are written.

Text is what `json.dumps(value, ensure_ascii=False, separators=(",", ":"))` writes.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from sgen.errors import GrammarError

Schema = dict[str, Any]

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 256
MAX_COUNT = 2**31 - 1

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")


def refuse(message: str, keyword: str, pointer: str, hint: str = "") -> NoReturn:
    raise GrammarError(message, keyword=keyword, pointer=pointer, hint=hint)


def join(pointer: str, *steps: str | int) -> str:
    """The JSON pointer (RFC 6901) of something further down."""
    escaped = (str(s).replace("~", "~0").replace("/", "~1") for s in steps)
    return pointer + "".join(f"/{s}" for s in escaped)


def read(source: str, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> object:
    """The schema in a text.  GrammarError if it is no JSON, too large, too deep, or has a key
    twice in one object."""
    size = len(source.encode("utf-8", "surrogatepass"))
    if size > max_bytes:
        refuse(f"the schema has {size:,} bytes, more than {max_bytes:,}", "size", "")
    try:
        schema = _decoder.decode(source)
        again = write(schema)
    except GrammarError:
        raise
    except RecursionError:
        refuse(f"the schema is nested deeper than {max_depth}", "depth", "")
    except UnicodeError:
        refuse("half a surrogate pair, which no text can hold", "json", "")
    except ValueError as error:
        reason = "a number beyond the range of a double" if "float" in str(error) else str(error)
        refuse(f"the schema is not JSON: {reason}", "json", "")
    # A key that stood twice is gone when written again, and its colon with it.
    if source.count(":") != again.count(b":") or "u003a" in source or "u003A" in source:
        _strict_decoder.decode(source)
    if source.count("{") + source.count("[") > max_depth:
        _check_depth(schema, max_depth)
    return schema


def _object(pairs: list[tuple[str, Any]]) -> Schema:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        refuse(f"the key {twice!r} stands twice in one object", "json", "")
    return found


def _no_constant(name: str) -> NoReturn:
    refuse(f"{name} is not JSON", "json", "")


_decoder = json.JSONDecoder(parse_constant=_no_constant)
_strict_decoder = json.JSONDecoder(object_pairs_hook=_object)
_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _check_depth(schema: object, max_depth: int) -> None:
    level: list[object] = [schema]
    for _ in range(max_depth):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    refuse(f"the schema is nested deeper than {max_depth}", "depth", "")


def count(schema: Schema, keyword: str, pointer: str) -> int | None:
    """A keyword whose value is a number of things."""
    value = schema.get(keyword)
    if value is None and keyword not in schema:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        refuse(f"{keyword} must be a whole number, 0 or more", keyword, join(pointer, keyword))
    if value > MAX_COUNT:
        refuse(f"{keyword} is above {MAX_COUNT:,}", keyword, join(pointer, keyword),
               "leave it out")  # fmt: skip
    return value


def type_of(value: object) -> str:
    """A value's narrowest JSON type; 1.0 is an integer."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    if isinstance(value, dict):
        return "object"
    if isinstance(value, list):
        return "array"
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return "integer" if whole else "number"


def write(value: object) -> bytes:
    """A value as text.  ValueError for what no text can hold."""
    return _encoder.encode(value).encode()


def spellings(value: object) -> list[bytes]:
    """The texts of a value: a whole number is also written without its fraction."""
    texts = [write(value)]
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e16:
        texts.append(write(int(value)))
    return texts


def identity(value: object) -> str:
    """Equal for values that JSON Schema calls equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, dict):
        members = sorted(f"{json.dumps(k)}:{identity(v)}" for k, v in value.items())
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(identity, value)) + "]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value)
