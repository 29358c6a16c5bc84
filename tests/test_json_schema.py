"""JSON Schema: what is accepted is valid by the `jsonschema` package, and (members in order) the
other way round.  Combinations of schemas are in test_json_combining.py."""

from __future__ import annotations

import datetime
import enum
import json
import random
import uuid
from itertools import islice
from typing import Annotated, Any, Literal, NamedTuple

import jsonschema
import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter

from sgen.errors import GrammarError
from sgen.grammars.compile import compile_grammar
from sgen.grammars.grammar import Grammar
from sgen.protocol import GrammarSpec
from tests.front_ends import check_means
from tests.schemas import neighbours, orders, schemas, text, values
from tests.walks import random_text


def compiled(schema: Any) -> Grammar:
    return compile_grammar(GrammarSpec("json_schema", json.dumps(schema)))


def satisfiable(schema: Any) -> Grammar | None:
    """The grammar; None if no text can satisfy the schema, or too many undeclared keys must."""
    try:
        return compiled(schema)
    except GrammarError as error:
        if error.keyword not in ("unsatisfiable", "minProperties"):
            raise
        return None


def counts_members(schema: Any) -> bool:
    """Whether some valid objects are not written: of the keys without a name, which may be one
    and the same, only one counts as the least number (or, where it is negated, the greatest)."""
    return "minProperties" in json.dumps(schema) or "maxProperties" in json.dumps(schema)


def is_valid(value: Any, schema: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))


def is_narrowed(value: Any) -> bool:
    """Whether a number is in it that is never written so: 1.0, which is valid as an integer, and
    very small ones where a range bounds the size of a number."""
    if isinstance(value, dict):
        return any(map(is_narrowed, value.values()))
    if isinstance(value, list):
        return any(map(is_narrowed, value))
    return isinstance(value, float) and (value.is_integer() or abs(value) < 1e-6)


@settings(max_examples=120, derandomize=True, deadline=None)
@given(schema=schemas(), instances=st.lists(values(), min_size=4, max_size=8))
def test_accepts_what_is_valid(schema: Any, instances: list[Any]) -> None:
    """In some order of the members, and nothing else in any."""
    grammar = satisfiable(schema)
    for instance in instances:
        accepted = [grammar is not None and grammar.matches(text(v)) for v in orders(instance)]
        if is_valid(instance, schema):
            assert any(accepted) or is_narrowed(instance), (schema, instance)
        else:
            assert not any(accepted), (schema, instance)


@settings(max_examples=120, derandomize=True, deadline=None)
@given(schema=schemas(), seed=st.integers(0, 99))
def test_whatever_it_writes_is_valid(schema: Any, seed: int) -> None:
    """And what is one change away from that is accepted just if it is valid."""
    grammar = satisfiable(schema)
    if grammar is None:
        return
    for i in range(4):
        written = random_text(grammar, random.Random(f"{seed} {i}"), size=30)
        value = json.loads(written)
        assert is_valid(value, schema), (schema, written)
        for other in islice(neighbours(value), 8):
            accepted = any(grammar.matches(text(v)) for v in islice(orders(other), 60))
            valid = is_valid(other, schema)
            assert valid or not accepted, (schema, other)
            if not counts_members(schema):
                assert accepted or not valid or is_narrowed(other), (schema, other)


ANY_YES = ['"a"', "1", "-0.5e+10", "null", "true", "[]", "{}", '[1,"a",{"b":[]}]', '{"":{"a":1}}',
           r'"\u00e9\ud83d\ude00\n\/é😀"']  # fmt: skip
ANY_NO = ["", "01", "1.", ".5", "+1", "tru", "[1,]", "{,}", '{"a"}', '"\n"', '"\\x"', "[1] ", "NaN",
          r'"\ud83d"', r'"\ude00"', r'"\ud83d\u0061"', "1e999", '{"a":1,}', "'a'"]  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "yes", "no"),
    [
        (True, ANY_YES, ANY_NO),
        ({}, ANY_YES, ANY_NO),
        ({"title": "anything", "default": 1}, ANY_YES, ANY_NO),
        ({"type": "integer"}, ["0", "-7", "123456789012345678901"], ["1.5", "00", "-", '"1"']),
        ({"type": "integer", "minimum": 3.5, "exclusiveMaximum": 20}, ["4", "19"],
         ["3", "20", "-5"]),
        ({"type": "integer", "minimum": 1, "exclusiveMinimum": True}, ["2"], ["1"]),
        ({"type": "integer", "format": "int32"}, ["2147483647", "-2147483648"], ["2147483648"]),
        ({"type": "integer", "multipleOf": 5, "minimum": 7}, ["10", "995"], ["5", "12", "-10"]),
        ({"type": "number", "multipleOf": 2}, ["4", "-2"], ["3"]),
        ({"type": "number", "minimum": 0}, ["0", "1e30", "0.001"], ["-1", "-0.001"]),
        ({"type": "number", "exclusiveMinimum": 0}, ["1e-05", "0.1", "5e+20"], ["0", "0.0", "0e5"]),
        ({"type": "number", "minimum": 0, "maximum": 1}, ["1", "1.0", "0.999"],
         ["1.1", "1.0001", "2", "1e1"]),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"éé😀"', r'"\n\u00e9"'],
         ['"a"', '"abcd"', '""']),
        ({"type": "string", "minLength": 2.0}, ['"ab"'], ['"a"']),
        ({"type": "string", "pattern": "^a+$", "maxLength": 3}, ['"a"', '"aaa"', r'"\u0061"'],
         ['"aaaa"', '""', '"b"']),
        ({"type": "string", "pattern": "a.*b|c", "minLength": 3}, ['"xab"', '"ccc"'],
         ['"ab"', '"c"']),
        ({"type": "string", "format": "uuid", "pattern": "^0"},
         ['"00000000-0000-4000-8000-000000000000"'], ['"10000000-0000-4000-8000-000000000000"']),
        ({"type": "string", "contentEncoding": "base64"}, ['"YWI="', '""'], ['"YWI"', '"a=bc"']),
        ({"enum": ["a", 1, None, 1.5, {"k": [1, "é"]}]},
         ['"a"', "1", "null", "1.5", '{"k":[1,"é"]}'],
         ["true", "2", '"b"']),
        ({"const": 2.0}, ["2.0", "2"], ["2.5"]),
        ({"enum": [1, True, "1", 2.5], "type": "integer"}, ["1"], ["true", '"1"', "2.5"]),
        ({"enum": ["a", "abc", 5], "maxLength": 2}, ['"a"', "5"], ['"abc"']),
        ({"enum": ["a", "b"], "const": "b"}, ['"b"'], ['"a"']),
        ({"enum": [[1, 2], [1, "a"], {"a": 1}, 3], "items": {"type": "integer"}},
         ["[1,2]", '{"a":1}', "3"], ['[1,"a"]', "[1]"]),
        ({"enum": [{"a": 1, "b": 2}, {"a": 1}], "required": ["b"]}, ['{"a":1,"b":2}'], ['{"a":1}']),
        ({"type": ["integer", "null"]}, ["1", "null"], ["1.5", '"a"']),
        ({"type": ["integer", "number"]}, ["1", "1.5"], ["null"]),
        ({"type": ["string", "array"], "maxLength": 1, "maxItems": 1}, ['"a"', "[5]", "[]"],
         ['"ab"', "[1,2]", "1"]),
        ({"minimum": 5}, ["5", '"a"', "[]"], ["4"]),
        ({"type": "array", "items": {"type": "null"}, "minItems": 1, "maxItems": 2},
         ["[null]", "[null,null]"], ["[]", "[null,null,null]", "[1]"]),
        ({"type": "array", "items": {"const": 0}, "minItems": 30, "maxItems": 40},
         [f"[{','.join(['0'] * n)}]" for n in (30, 40)],
         [f"[{','.join(['0'] * n)}]" for n in (29, 41)]),
        ({"type": "array", "prefixItems": [{"type": "null"}, {"const": 1}], "items": False},
         ["[]", "[null]", "[null,1]"], ["[1]", "[null,1,2]"]),
        ({"type": "array", "prefixItems": [{"const": 1}], "items": {"const": 2}, "minItems": 3,
          "maxItems": 4}, ["[1,2,2]", "[1,2,2,2]"], ["[1,2]", "[2,2,2]", "[1,2,2,2,2]"]),
        ({"type": "array", "items": [{"type": "null"}], "additionalItems": {"const": 1}},
         ["[null,1,1]"], ["[null,2]"]),
        ({"type": "array", "items": [{"type": "null"}]}, ["[]", '[null,"a"]'], ["[1]", "{}"]),
        ({"type": "array", "prefixItems": [True, False]}, ["[]", "[1]"], ["[1,2]"]),
        ({"type": "array", "uniqueItems": True, "maxItems": 1}, ["[1]"], ["[1,2]"]),
        ({"type": "array", "uniqueItems": False, "items": {"const": 1}}, ["[1,1]"], ["[2]"]),
        ({"type": "array", "uniqueItems": True, "items": {"enum": ["a", "b", 1, None]}},
         ["[]", '["b","a"]', '[null,1,"b","a"]'], ['["a","a"]', '["a","b","a"]', "[1,1.0]", "[2]"]),
        ({"type": "array", "uniqueItems": True, "items": {"type": "boolean"}, "minItems": 2},
         ["[true,false]", "[false,true]"], ["[true]", "[true,true]"]),
        ({"type": "array", "contains": {"const": 1}}, ["[1]", "[2,1,3]", "[1,1]"], ["[]", "[2]"]),
        ({"type": "array", "contains": {"const": 1}, "minContains": 2, "maxContains": 3},
         ["[1,1]", "[0,1,1,0,1]"], ["[1]", "[1,1,1,1]", "[0]"]),
        ({"contains": {"const": 1}, "minContains": 0}, ["[]", "[2]", "5"], []),
        ({"contains": {"const": 1}, "maxContains": 1, "maxItems": 2},
         ["[1]", "[1,2]", '"a"'], ["[]", "[1,1]", "[1,2,3]"]),
        ({"items": {"multipleOf": 2}, "contains": {"multipleOf": 3}}, ["[6]", "[2,6]"],
         ["[2]", "[3]", "[]"]),
        ({"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 2}},
          "required": ["b"]},
         ['{"a":1,"b":2}', '{"b":2}', '{"b":2,"c":[]}', '{"a":1,"b":2,"c":{},"d":0}'],
         ["{}", '{"a":1}', '{"b":2,"a":2}', '{"a":2,"b":2}', '{"b":2,"b":3}',
          r'{"b":2,"\u0061":2}']),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": False},
         ["{}", '{"a":1}'], ['{"b":1}', '{"a":1,"a":2}']),
        ({"type": "object", "additionalProperties": {"type": "integer"}},
         ["{}", '{"x":1,"y":2}', r'{"\"":1}'], ['{"x":"1"}']),
        ({"type": "object", "required": ["z"], "additionalProperties": {"const": 1}},
         ['{"z":1}', '{"z":1,"y":1}'], ["{}", '{"z":2}', '{"y":1}']),
        ({"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "minProperties": 2,
          "maxProperties": 2, "additionalProperties": False},
         ['{"a":1,"b":1}', '{"a":1,"c":1}', '{"b":1,"c":1}'], ['{"a":1}', '{"a":1,"b":1,"c":1}']),
        ({"type": "object", "minProperties": 1}, ['{"a":1}', '{"a":1,"b":1}'], ["{}"]),
        ({"type": "object", "properties": {"a": {}, "b": {}}, "minProperties": 3},
         ['{"a":1,"b":1,"c":2}'], ['{"a":1,"b":1}', '{"a":1,"c":2,"c":3}']),
        ({"type": "object", "properties": {"a": {}}, "minProperties": 2, "maxProperties": 3},
         ['{"a":1,"x":2}', '{"a":1,"x":2,"y":3}'], ['{"x":1,"x":2}', '{"a":1,"x":2,"y":3,"z":4}']),
        ({"type": "object", "not": {"additionalProperties": {"type": "string"}}},
         ['{"a":1}', '{"b":"x","a":1}'], ['{"a":"x"}', '{"a":1,"a":"x"}', "{}"]),
        ({"type": "object", "maxProperties": 1}, ["{}", '{"a":1}'], ['{"a":1,"b":1}']),
        ({"type": "object", "propertyNames": {"enum": ["x", "y"]},
          "additionalProperties": {"const": 1}},
         ['{"x":1,"y":1}', '{"y":1,"x":1}'], ['{"z":1}', '{"x":2}']),
        ({"type": "object", "propertyNames": {"pattern": "^[a-c]$"},
          "properties": {"a": {"const": 1}}},
         ['{"a":1,"b":5}', "{}"], ['{"a":2}', '{"d":1}', '{"b":1,"a":2}']),
        ({"type": "object", "propertyNames": {"maxLength": 0}, "properties": {"": {"const": 1}}},
         ['{"":1}', "{}"], ['{"":2}', '{"a":1}', '{"":1,"":1}']),
        ({"type": "object", "propertyNames": {"maxLength": 1}, "properties": {"ab": {}}},
         ['{"a":1}'], ['{"ab":1}']),
        ({"propertyNames": {"not": {"pattern": "^_"}}}, ['{"a":1}', "1"], ['{"_a":1}']),
        ({"propertyNames": False}, ["{}", "1"], ['{"a":1}']),
        ({"type": "object", "patternProperties": {"^x": {"const": 1}},
          "additionalProperties": False},
         ['{"x1":1,"x":1}', "{}"], ['{"x":2}', '{"y":1}']),
        ({"type": "object", "patternProperties": {"^x": {"const": 1}, "^y": {"const": 2}},
          "properties": {"a": {"const": 0}}},
         ['{"a":0,"x":1,"y2":2,"z":[]}'], ['{"x":2}', '{"y":1}', '{"z":1,"a":1}']),
        ({"type": "object", "patternProperties": {"^x": {"const": 1}}, "required": ["x1"],
          "additionalProperties": False},
         ['{"x1":1}', '{"x1":1,"x2":1}'], ["{}", '{"x2":1}', '{"x1":2}', '{"x1":1,"x1":1}']),
        ({"properties": {"xa": {"minimum": 3}}, "patternProperties": {"^x": {"maximum": 5}}},
         ['{"xa":4}', '{"xb":2}'], ['{"xa":2}', '{"xa":6}', '{"xb":6}']),
        ({"patternProperties": {"^x": {"minimum": 3}, "y$": {"maximum": 5}}},
         ['{"xy":4}', '{"x":9}', '{"y":1}'], ['{"xy":2}', '{"xy":6}', '{"x":1}', '{"y":6}']),
        ({"dependentRequired": {"a": ["b", "c"]}}, ["{}", '{"b":1}', '{"a":1,"b":1,"c":1}', "3"],
         ['{"a":1}', '{"a":1,"b":1}', '{"a":1,"c":1}']),
        ({"dependentRequired": {"a": ["b"], "b": ["a"]}, "properties": {"a": {}, "b": {}}},
         ["{}", '{"a":1,"b":1}'], ['{"a":1}', '{"b":1}']),
        ({"dependencies": {"a": ["b"], "c": {"minProperties": 2}}},
         ["{}", '{"a":1,"b":1}', '{"c":1,"d":1}'], ['{"a":1}', '{"c":1}']),
        ({"dependentSchemas": {"a": {"properties": {"b": {"type": "null"}}}}},
         ['{"a":1,"b":null}', '{"b":1}', "1"], ['{"a":1,"b":1}']),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "title": "t", "default": 5,
          "examples": [1], "$comment": "c", "x-order": 1, "type": "null"}, ["null"], ["1"]),
        ({"unevaluatedProperties": False}, ["{}", "1"], ['{"a":1}']),
        ({"properties": {"a": {}}, "anyOf": [{"properties": {"b": {"const": 1}}},
                                             {"properties": {"c": {}}}],
          "unevaluatedProperties": False},
         ['{"a":1,"b":1}', '{"b":1,"c":1}', '{"c":1}'], ['{"d":1}', '{"b":2}', '{"b":2,"d":1}']),
        ({"properties": {"a": {"const": 1}}, "if": {"required": ["a"]},
          "then": {"properties": {"b": {}}}, "unevaluatedProperties": {"type": "null"}},
         ['{"a":1,"b":1}', '{"c":null}'], ['{"b":1}', '{"a":1,"c":1}']),
        ({"prefixItems": [{"const": 1}], "contains": {"const": 2}, "unevaluatedItems": False},
         ["[1,2]", "[1,2,2]"], ["[1]", "[1,2,3]"]),
    ],
)  # fmt: skip
def test_accepts_and_rejects(schema: Any, yes: list[str], no: list[str]) -> None:
    grammar = compiled(schema)
    check_means(grammar, yes, no)


def test_two_large_enums_in_a_union() -> None:
    defs = {"a": {"enum": list(range(3000))}, "b": {"enum": list(range(4000, 7000))},
            "c": {"anyOf": [{"$ref": "#/$defs/a"}] * 300}}  # fmt: skip
    schema = {"$defs": defs, "oneOf": [{"$ref": "#/$defs/b"}, {"$ref": "#/$defs/c"}]}
    grammar = compiled(schema)
    assert grammar.matches(b"2999")
    assert not grammar.matches(b"3500")


def test_names_are_checked_by_one_automaton() -> None:
    names = {"pattern": "^[ab0-9]*a?[ab0-9]{0,12}$", "minLength": 1, "maxLength": 100}
    grammar = compiled({"properties": {f"a{i}": True for i in range(300)}, "propertyNames": names})
    assert grammar.matches(b'{"a7":1}')
    assert not grammar.matches(b'{"c":1}')


def test_nesting_is_bounded_and_can_always_be_closed() -> None:
    """Parsers stop at some depth; so does the grammar, and what is open can still be closed."""
    grammar = compiled({})
    deepest = max(n for n in range(400) if grammar.matches(b"[" * n + b"1" + b"]" * n))
    assert deepest == 200
    state = grammar.advance(grammar.start, b"[" * 200)
    assert grammar.automaton.distance(state) == 200
    nested = compiled({"$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}},
                       "type": "array", "minItems": 1,
                       "prefixItems": [{"$ref": "#/$defs/t"}]})  # fmt: skip
    assert nested.matches(b"[" * 200 + b"]" * 200)
    assert not nested.matches(b"[" * 201 + b"]" * 201)


def test_schemas_deep_inside_each_other() -> None:
    schema: Any = {"const": 1}
    for _ in range(120):
        schema = {"type": "array", "items": schema}
    grammar = compiled(schema)
    assert grammar.matches(b"[" * 120 + b"1" + b"]" * 120)
    assert not grammar.matches(b"[" * 119 + b"1" + b"]" * 119)


def test_web_addresses_of_pydantic() -> None:
    for kind in (pydantic.HttpUrl, pydantic.AnyUrl, pydantic.AnyHttpUrl):
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        grammar = compiled(adapter.json_schema())
        assert grammar.matches(b'"http://example.org/a?b=c"')
        assert not grammar.matches(b'"http//example.org"')
    limited = compiled({"type": "string", "format": "uri", "maxLength": 300})
    assert limited.matches(b'"http://example.org/%b"' % (b"a" * 50))
    assert not limited.matches(b'"http://example.org/%b"' % (b"a" * 290))


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: Annotated[int, Field(ge=0, le=9)]


class Dog(BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    kind: Literal["dog"]
    weight: Annotated[float, Field(gt=0, lt=100)] | None = None


class Tree(BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    value: int
    children: list[Tree] = []


class Point(NamedTuple):
    x: int
    y: float


class Circle(msgspec.Struct, tag="circle"):
    radius: float
    name: str = "c"


class Square(msgspec.Struct, tag="square", forbid_unknown_fields=True):
    side: Annotated[int, msgspec.Meta(ge=1, multiple_of=2)]
    inner: list[Square] = []


TYPES: list[Any] = [
    int, float, str, bool, None, bytes, list[int], tuple[int, str], tuple[bool, ...],
    dict[str, float], dict[Literal["a", "b"], int], int | str | None, Literal[1, "a", None],
    Color, Cat, Dog, Tree, Point, uuid.UUID, datetime.date, datetime.datetime, datetime.time,
    datetime.timedelta, Any, Annotated[Cat | Dog, Field(discriminator="kind")],
    Annotated[str, Field(min_length=2, max_length=9, pattern="^[a-z]")],
    list[Annotated[Cat | Dog, Field()]],
    Annotated[list[bool], Field(min_length=1, max_length=3)], Annotated[int, Field(gt=3, lt=900)],
]  # fmt: skip


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_pydantic_types(kind: Any) -> None:
    """Whatever is written for a type becomes a value of it."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    grammar = compiled(adapter.json_schema())
    written = {random_text(grammar, random.Random(i), size=40) for i in range(20)}
    assert len(written) > 1 or kind is None
    for one in written:
        adapter.validate_json(one)


@pytest.mark.parametrize(
    "kind",
    [int, float, str, bool, bytes, list[int], tuple[int, str], dict[str, bool], int | None,
     Literal[1, "a"], Color, Circle | Square, Square, Point, uuid.UUID, datetime.date, Any],
    ids=str,
)  # fmt: skip
def test_msgspec_types(kind: Any) -> None:
    grammar = compiled(msgspec.json.schema(kind))
    for i in range(20):
        msgspec.json.decode(random_text(grammar, random.Random(i), size=40), type=kind)


FORMATS = {
    "date": datetime.date.fromisoformat,
    "date-time": datetime.datetime.fromisoformat,
    "time": datetime.time.fromisoformat,
    "uuid": uuid.UUID,
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_by_their_parsers(name: str) -> None:
    grammar = compiled({"type": "string", "format": name})
    for i in range(60):
        # Python 3.11 reads neither a lower-case t or z nor more than six digits of a second.
        written = json.loads(random_text(grammar, random.Random(i))).upper()
        head, dot, tail = written.partition(".")
        digits = tail[: len(tail) - len(tail.lstrip("0123456789"))]
        FORMATS[name](head + dot + digits[:6].ljust(6, "0") * bool(dot) + tail[len(digits) :])
