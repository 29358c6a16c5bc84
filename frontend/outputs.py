"""Python types as outputs: what the text must be, and how it becomes a value of the type.

`str` is free text; `bool`, `Literal` and `Enum` are one of a few texts, without quotes where they
are strings; everything else is JSON by the type's JSON Schema, made and read by pydantic, or by
msgspec for the types that only msgspec knows (its Structs).  Objects are closed: a type's text has
the type's fields and no others.
"""

from __future__ import annotations

import enum
import json
import re
import types
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, get_args, get_origin

import msgspec
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from sgen.errors import ProgramError
from sgen.frontend.specs import FREE, Spec, choices_grammar, schema_grammar

_NOTES = frozenset({"title", "description", "default", "examples", "deprecated", "discriminator"})
_SCHEMAS = frozenset({"items", "additionalProperties", "contains", "not", "propertyNames"})
_LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_BOUNDS = ("gt", "ge", "lt", "le")
_DECIMAL = r"^-?[0-9]{1,20}(\.[0-9]{1,20})?$"
_MAPS = frozenset({"properties", "$defs", "definitions", "patternProperties"})
_TIME_SPAN = "[0-9]{1,3}H(?:[0-9]{1,4}M(?:[0-9]{1,5}S)?)?|[0-9]{1,4}M(?:[0-9]{1,5}S)?|[0-9]{1,5}S"
_DURATION = f"^P(?:[0-9]{{1,6}}D(?:T(?:{_TIME_SPAN}))?|T(?:{_TIME_SPAN}))$"
_HOST = "(?:[0-9A-Za-z](?:-?[0-9A-Za-z])*[.])*[A-Za-z]{1,24}(?::[0-9]{1,4})?"
_PATH = "[0-9A-Za-z._~!$&'()*+,;=:@/?-]*"


def spec_of(kind: object) -> Spec[Any]:
    """The spec of a type, or the spec itself.  ProgramError names a type that has none."""
    if kind is None or kind is str:
        return FREE
    if isinstance(kind, Spec):
        return kind
    if not _is_type(kind):
        raise ProgramError(
            f"cannot generate a {kind!r}: neither a type nor a spec",
            hint="give a type, sgen.regex(...), sgen.json_schema(...) or sgen.choices(...); "
            "a variable's name is given as name=...",
        )
    try:
        return _spec_of_type(kind)
    except TypeError as error:
        if "unhashable" not in str(error):
            raise
        return _spec_of_type.__wrapped__(kind)


def type_name(kind: object) -> str:
    """How the type is written in a program."""
    return kind.__name__ if isinstance(kind, type) else repr(kind).replace("typing.", "")


def _is_type(kind: object) -> bool:
    return (
        isinstance(kind, (type, types.UnionType, types.GenericAlias))
        or get_origin(kind) is not None
        or kind is Any
        or type(kind).__name__ in ("TypeAliasType", "NewType")
    )


@lru_cache(maxsize=256)
def _spec_of_type(kind: Any) -> Spec[Any]:
    label = type_name(kind)
    if kind is bool:
        return _one_of((True, False), label)
    if get_origin(kind) is Literal:
        return _one_of(_literal_values(kind), label)
    if isinstance(kind, enum.EnumMeta):
        return _enum(kind, label)
    if kind is int:
        return Spec(schema_grammar({"type": "integer"}), _whole, "json")
    if kind is float:
        return Spec(schema_grammar({"type": "number"}), _number, "json")
    return _json(kind, label)


def _literal_values(kind: Any) -> tuple[object, ...]:
    values: list[object] = []
    for value in get_args(kind):
        if get_origin(value) is Literal:
            values.extend(_literal_values(value))
        elif value is None or isinstance(value, (str, int, enum.Enum)):
            values.append(value)
        else:
            raise ProgramError(f"cannot generate {kind!r}: {value!r} has no JSON form")
    return tuple(values)


def _enum(kind: enum.EnumMeta, label: str) -> Spec[Any]:
    members: tuple[object, ...] = tuple(kind)
    if not members:
        raise ProgramError(f"cannot generate {label}: an Enum without members")
    return _one_of(members, label)


def _one_of(values: Sequence[object], label: str) -> Spec[Any]:
    """One of the values: strings as they stand, others as JSON, enum members by their value.

    Where two would read the same, all are written as JSON; where a member's value is nothing that
    JSON has, all members go by their names.
    """
    plain = [v.value if isinstance(v, enum.Enum) else v for v in values]
    if all(v is None or isinstance(v, (str, int, float)) for v in plain):
        as_json = [json.dumps(v, ensure_ascii=False) for v in plain]
        texts = [v if isinstance(v, str) and v else j for v, j in zip(plain, as_json, strict=True)]
        if len(set(texts)) < len(texts):
            texts = as_json
    else:
        as_json = []
        texts = [v.name if isinstance(v, enum.Enum) else str(v) for v in values]
    table = dict(zip(texts, values, strict=True))
    is_text = all(type(v) is str and v == t for t, v in table.items())
    value: Literal["text", "json"] = "json" if texts == as_json else "text"
    return Spec(choices_grammar(texts), _lookup(table, label), value, is_text)


def _lookup(table: dict[str, object], label: str) -> Callable[[str], object]:
    def decode(text: str) -> object:
        if text not in table:
            raise ValueError(f"{text!r} is no {label}")
        return table[text]

    return decode


def _whole(text: str) -> int:
    value = json.loads(text)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise ValueError(f"{text!r} is not a whole number")
    return value


def _number(text: str) -> float:
    value = json.loads(text)
    if type(value) not in (int, float):
        raise ValueError(f"{text!r} is not a number")
    return float(value)


def _json(kind: Any, label: str) -> Spec[Any]:
    """JSON by the schema that pydantic, else msgspec, makes of the type."""
    _refuse(kind, label)
    reasons: list[str] = []
    for make in (_by_pydantic, _by_msgspec):
        try:
            schema, decode = make(kind)
        except ProgramError as error:
            raise ProgramError(f"cannot generate {label}: {error.args[0]}") from None
        except Exception as error:  # each library has its own, and passes on others'
            reasons.append(_first_line(error))
            continue
        return Spec(schema_grammar(_tidy(schema)), decode, "json")
    raise ProgramError(
        f"cannot generate {label}: pydantic says {reasons[0]}; msgspec says {reasons[1]}",
        hint="types with a JSON form work: pydantic models, msgspec Structs, dataclasses, "
        "TypedDict, Literal, Enum, list, dict, tuple, int, float, bool, str and unions of them",
    )


def _refuse(kind: Any, label: str) -> None:
    """Types whose JSON Schema says less than what their values must be."""
    if kind is complex:
        raise ProgramError(f"cannot generate {label}: complex numbers have no JSON form")
    arguments = get_args(kind)
    if get_origin(kind) is dict and _plain_key(arguments[0]):
        raise ProgramError(
            f"cannot generate {label}: keys of a JSON object are text",
            hint="take dict[str, ...], or a list of pairs",
        )
    if get_origin(kind) is not Literal:
        for argument in arguments:
            _refuse(argument, label)


def _plain_key(kind: Any) -> bool:
    return kind is Any or (isinstance(kind, type) and not issubclass(kind, str))


class _Exact(GenerateJsonSchema):
    """Refuses types whose JSON Schema would allow texts that pydantic does not."""

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> dict[str, Any]:
        """Digits in a string, so that none is lost."""
        bounds = (*_BOUNDS, "multiple_of", "max_digits", "decimal_places")
        _refuse_bounds("Decimal", schema, bounds)
        return {"type": "string", "pattern": _DECIMAL}

    def date_schema(self, schema: core_schema.DateSchema) -> dict[str, Any]:
        """Any date."""
        _refuse_bounds("date", schema, (*_BOUNDS, "now_op"))
        return super().date_schema(schema)

    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> dict[str, Any]:
        """Any date and time with its offset."""
        _refuse_bounds("datetime", schema, (*_BOUNDS, "now_op"))
        if schema.get("tz_constraint", "aware") != "aware":
            raise _loose("datetime", "tz_constraint")
        return super().datetime_schema(schema)

    def time_schema(self, schema: core_schema.TimeSchema) -> dict[str, Any]:
        """Any time of a day."""
        _refuse_bounds("time", schema, _BOUNDS)
        return super().time_schema(schema)

    def timedelta_schema(self, schema: core_schema.TimedeltaSchema) -> dict[str, Any]:
        """Any duration."""
        _refuse_bounds("timedelta", schema, _BOUNDS)
        return super().timedelta_schema(schema)

    def url_schema(self, schema: core_schema.UrlSchema) -> dict[str, Any]:
        """An address with a host name, or of a file, which is less than a URI may be."""
        schemes = sorted(schema.get("allowed_schemes") or ("http", "https"))
        names = "|".join(map(re.escape, schemes))
        rest = f"/{_PATH}" if "file" in schemes else f"{_HOST}(?:[/?]{_PATH})?"
        found: dict[str, Any] = {"type": "string", "pattern": f"^(?:{names})://{rest}$"}
        longest = schema.get("max_length")
        return found if longest is None else {**found, "maxLength": longest}

    def union_schema(self, schema: core_schema.UnionSchema) -> dict[str, Any]:
        """Any union but that of ByteSize, whose pattern has no units."""
        if schema.get("custom_error_type") == "byte_size":
            raise _loose("int", "unit (ByteSize)")
        return super().union_schema(schema)


def _refuse_bounds(kind: str, schema: Mapping[str, Any], bounds: Sequence[str]) -> None:
    for bound in bounds:
        if schema.get(bound) is not None:
            raise _loose(kind, bound)


def _loose(kind: str, bound: str) -> ProgramError:
    return ProgramError(
        f"a JSON Schema cannot say what a {kind} with {bound} must be",
        hint=f"take a plain {kind}, and check its value",
    )


def _by_pydantic(kind: Any) -> tuple[dict[str, Any], Callable[[str], Any]]:
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    return adapter.json_schema(schema_generator=_Exact), adapter.validate_json


def _by_msgspec(kind: Any) -> tuple[dict[str, Any], Callable[[str], Any]]:
    decoder = msgspec.json.Decoder(kind)
    return msgspec.json.schema(kind), decoder.decode


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}" if str(error) else ""


def _tidy(schema: Any) -> Any:
    """The schema without annotations, with closed objects, and `oneOf` that a tag decides as
    `anyOf` (which then accepts the same texts)."""
    if not isinstance(schema, dict):
        return schema
    tagged = "discriminator" in schema
    out: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _NOTES:
            continue
        if key in _SCHEMAS:
            out[key] = _tidy(value)
        elif key in _LISTS:
            out["anyOf" if tagged and key == "oneOf" else key] = [_tidy(x) for x in value]
        elif key in _MAPS:
            out[key] = {name: _tidy(x) for name, x in value.items()}
        else:
            out[key] = value
    if out.get("format") == "decimal":  # msgspec's
        out = {"type": "string", "pattern": _DECIMAL}
    if out.get("format") == "duration":  # msgspec has no years, months and weeks
        out = {"type": "string", "pattern": _DURATION}
    if "properties" in out:
        out.setdefault("additionalProperties", False)
    return out
