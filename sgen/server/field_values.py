"""What a field of a wire type may be, for the message that refuses another value."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from msgspec import inspect

_INDEX = re.compile(r"\[[^\]]*\]")


def allowed_values(kind: Any, place: str) -> list[str]:
    """The values of the enumeration at a place such as "tools[0].type"; none if there is none."""
    types = [_type(kind)]
    for name in _INDEX.sub("", place).split("."):
        fields = [field for one in _plain(types) for field in getattr(one, "fields", ())]
        types = [field.type for field in fields if field.encode_name == name]
    literals = [one for one in _plain(types) if isinstance(one, inspect.LiteralType)]
    return list(dict.fromkeys(str(value) for one in literals for value in one.values))


@cache
def _type(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


def _plain(types: list[inspect.Type]) -> Iterator[inspect.Type]:
    """Those that a value may have: of unions each, of arrays their items'."""
    for one in types:
        if isinstance(one, inspect.UnionType):
            yield from _plain(list(one.types))
        elif isinstance(one, inspect.CollectionType):
            yield from _plain([one.item_type])
        else:
            yield one
