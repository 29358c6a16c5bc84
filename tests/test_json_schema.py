"""JSON Schema: what is accepted is valid by the `jsonschema` package, and (keys in order) the
other way round; what cannot be enforced is refused with keyword and pointer."""

from __future__ import annotations

import datetime
import enum
import json
import random
import time
import uuid
from pathlib import Path
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
from tests.schemas import in_order, schemas, text, values
from tests.walks import random_text


def compiled(schema: Any) -> Grammar:
    return compile_grammar(GrammarSpec("json_schema", json.dumps(schema)))


def satisfiable(schema: Any) -> Grammar | None:
    """The grammar; None if no text can satisfy the schema."""
    try:
        return compiled(schema)
    except GrammarError as error:
        if error.keyword != "unsatisfiable":
            raise
        return None


def is_valid(value: Any, schema: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))


def whole_floats(value: Any) -> bool:
    """Whether a number such as 1.0 is in it, which integers are never written as."""
    if isinstance(value, dict):
        return any(map(whole_floats, value.values()))
    if isinstance(value, list):
        return any(map(whole_floats, value))
    return isinstance(value, float) and (value.is_integer() or abs(value) < 1e-6)


@settings(max_examples=120, derandomize=True, deadline=None)
@given(schema=schemas(), instances=st.lists(values(), min_size=4, max_size=8))
def test_accepts_what_is_valid(schema: Any, instances: list[Any]) -> None:
    grammar = satisfiable(schema)
    if grammar is None:
        assert not any(is_valid(i, schema) for i in instances if not whole_floats(i))
        return
    for instance in instances:
        instance = in_order(instance, schema)
        accepted, valid = grammar.matches(text(instance)), is_valid(instance, schema)
        assert valid or not accepted, (schema, instance)
        orderless = "anyOf" not in json.dumps(schema)
        if valid and orderless and not whole_floats(instance):
            assert accepted, (schema, instance)


@settings(max_examples=120, derandomize=True, deadline=None)
@given(schema=schemas(), seed=st.integers(0, 99))
def test_whatever_it_writes_is_valid(schema: Any, seed: int) -> None:
    grammar = satisfiable(schema)
    if grammar is None:
        return
    for i in range(4):
        written = random_text(grammar, random.Random(f"{seed} {i}"), size=30)
        assert is_valid(json.loads(written), schema), (schema, written)


ANY_YES = ['"a"', "1", "-0.5e+10", "null", "true", "[]", "{}", '[1,"a",{"b":[]}]', '{"":{"a":1}}',
           r'"\u00e9\ud83d\ude00\n\/é😀"']  # fmt: skip
ANY_NO = ["", "01", "1.", ".5", "+1", "tru", "[1,]", "{,}", '{"a"}', '"\n"', '"\\x"', "[1] ", "NaN",
          r'"\ud83d"', r'"\ude00"', r'"\ud83d\u0061"', "1e999", '{"a":1,}', "'a'"]  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "yes", "no"),
    [
        (True, ANY_YES, ANY_NO),
        ({}, ANY_YES, ANY_NO),
        ({"type": "integer"}, ["0", "-7", "123456789012345678901"],
         ["1.0", "-0", "00", "1e3", "-"]),
        ({"type": "integer", "minimum": 3.5, "exclusiveMaximum": 20}, ["4", "19"],
         ["3", "20", "-5"]),
        ({"type": "integer", "minimum": 1, "exclusiveMinimum": True}, ["2"], ["1"]),
        ({"type": "integer", "format": "int32"}, ["2147483647", "-2147483648"], ["2147483648"]),
        ({"type": "integer", "multipleOf": 5, "minimum": 7}, ["10", "995"], ["5", "12", "-10"]),
        ({"type": "number", "multipleOf": 2}, ["4", "-2"], ["3"]),
        ({"type": "number", "minimum": 0}, ["0", "1e30", "0.001"], ["-1", "-0.001"]),
        ({"type": "number", "exclusiveMinimum": 0}, ["1e-05", "0.1", "5e+20"], ["0", "0.0", "0e5"]),
        ({"type": "number", "minimum": 0, "maximum": 1}, ["1", "1.0", "0.999", "1e-07"],
         ["1.1", "1.0001", "2", "1e1"]),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"éé😀"', r'"\n\u00e9"'],
         ['"a"', '"abcd"', '""']),
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
        ({"type": ["integer", "null"]}, ["1", "null"], ["1.5", '"a"']),
        ({"type": ["integer", "number"]}, ["1", "1.5"], ["null"]),
        ({"minimum": 5}, ["5", '"a"', "[]"], ["4"]),
        ({"type": "array", "items": {"type": "null"}, "minItems": 1, "maxItems": 2},
         ["[null]", "[null,null]"], ["[]", "[null,null,null]", "[1]"]),
        ({"type": "array", "prefixItems": [{"type": "null"}, {"const": 1}], "items": False},
         ["[]", "[null]", "[null,1]"], ["[1]", "[null,1,2]"]),
        ({"type": "array", "items": [{"type": "null"}], "additionalItems": {"const": 1}},
         ["[null,1,1]"], ["[null,2]"]),
        ({"type": "array", "prefixItems": [True, False]}, ["[]", "[1]"], ["[1,2]"]),
        ({"type": "array", "uniqueItems": True, "maxItems": 1}, ["[1]"], ["[1,2]"]),
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
        ({"type": "object", "maxProperties": 1}, ["{}", '{"a":1}'], ['{"a":1,"b":1}']),
        ({"type": "object", "propertyNames": {"enum": ["x", "y"]},
          "additionalProperties": {"const": 1}},
         ['{"x":1,"y":1}', '{"y":1}'], ['{"z":1}', '{"x":2}']),
        ({"type": "object", "propertyNames": {"pattern": "^[a-c]$"},
          "properties": {"a": {"const": 1}}},
         ['{"a":1,"b":5}', "{}"], ['{"a":2}', '{"d":1}', '{"b":1,"a":2}']),
        ({"type": "object", "propertyNames": {"maxLength": 0}, "properties": {"": {"const": 1}}},
         ['{"":1}', "{}"], ['{"":2}', '{"a":1}', '{"":1,"":1}']),
        ({"type": "object", "propertyNames": {"maxLength": 1}, "properties": {"ab": {}}},
         ['{"a":1}'], ['{"ab":1}']),
        ({"type": "object", "patternProperties": {"^x": {"const": 1}},
          "additionalProperties": False},
         ['{"x1":1,"x":1}', "{}"], ['{"x":2}', '{"y":1}']),
        ({"type": "object", "patternProperties": {"^x": {"const": 1}, "^y": {"const": 2}},
          "properties": {"a": {"const": 0}}},
         ['{"a":0,"x":1,"y2":2,"z":[]}'], ['{"x":2}', '{"y":1}', '{"z":1,"a":1}']),
        ({"type": "object", "patternProperties": {"^x": {"const": 1}}, "required": ["x1"],
          "additionalProperties": False},
         ['{"x1":1}', '{"x1":1,"x2":1}'], ["{}", '{"x2":1}', '{"x1":2}', '{"x1":1,"x1":1}']),
        ({"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 0}]}, ['"a"', "3"], ["-3"]),
        ({"type": "object", "anyOf": [{"properties": {"a": {"const": 1}}, "required": ["a"]},
                                      {"properties": {"b": {"const": 2}}, "required": ["b"]}]},
         ['{"a":1}', '{"b":2}', '{"b":2,"a":5}'], ["{}", '{"a":2}', "1"]),
        ({"oneOf": [{"type": "string"}, {"type": "null"}]}, ['"a"', "null"], ["1"]),
        ({"oneOf": [{"type": "integer", "maximum": 3}, {"type": "integer", "minimum": 4}]},
         ["3", "4"], ["3.5"]),
        ({"oneOf": [{"type": "string", "maxLength": 1}, {"type": "string", "minLength": 3}]},
         ['"a"', '"abc"'], ['"ab"']),
        ({"allOf": [{"$ref": "#/$defs/x"}], "$defs": {"x": {"const": 1}}}, ["1"], ["2"]),
        ({"$ref": "#/definitions/a~1b%25/0", "definitions": {"a/b%": [{"const": 1}]}}, ["1"],
         ["2"]),
        ({"$id": "http://x/y", "$ref": "http://x/y#/$defs/z", "$defs": {"z": {"const": 1}}},
         ["1"], ["2"]),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "title": "t", "default": 5,
          "examples": [1], "$comment": "c", "x-order": 1, "type": "null"}, ["null"], ["1"]),
        ({"type": "object", "properties": {"next": {"$ref": "#"}, "v": {"const": 1}},
          "additionalProperties": False},
         ["{}", '{"next":{"next":{},"v":1}}'], ['{"next":1}']),
    ],
)  # fmt: skip
def test_accepts_and_rejects(schema: Any, yes: list[str], no: list[str]) -> None:
    grammar = compiled(schema)
    assert [t for t in yes if not grammar.matches(t.encode())] == []
    assert [t for t in no if grammar.matches(t.encode())] == []


@pytest.mark.parametrize(
    ("schema", "keyword", "pointer"),
    [
        ({"not": {}}, "not", "/not"),
        ({"properties": {"a/b": {"if": True}}}, "if", "/properties/a~1b/if"),
        ({"type": "array", "contains": {}}, "contains", "/contains"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems", "/uniqueItems"),
        ({"type": "array", "minItems": -1}, "minItems", "/minItems"),
        ({"type": "array", "maxItems": 2**64}, "maxItems", "/maxItems"),
        ({"type": "string", "minLength": "1"}, "minLength", "/minLength"),
        ({"type": "string", "format": "idn-email"}, "format", "/format"),
        ({"type": "string", "pattern": "a(?=b)"}, "look-ahead", "/pattern"),
        ({"type": "string", "pattern": 5}, "pattern", "/pattern"),
        ({"type": "number", "multipleOf": 0.1}, "multipleOf", "/multipleOf"),
        ({"type": "number", "minimum": "1"}, "minimum", "/minimum"),
        ({"type": "number", "maximum": 1e300}, "maximum", "/maximum"),
        ({"type": "tuple"}, "type", "/type"),
        ({"maxLenght": 5}, "maxLenght", "/maxLenght"),
        ({"allOf": [{}, {}]}, "allOf", "/allOf"),
        ({"allOf": [{}], "type": "string"}, "type", "/type"),
        ({"anyOf": []}, "anyOf", "/anyOf"),
        ({"anyOf": [{}], "minLength": 1}, "minLength", "/minLength"),
        ({"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 2}]}, "oneOf", "/oneOf/1"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf", "/oneOf/1"),
        ({"$ref": "http://elsewhere/x.json"}, "$ref", "/$ref"),
        ({"$ref": "#/nowhere"}, "$ref", "/$ref"),
        ({"$ref": "#anchor"}, "$ref", "/$ref"),
        ({"$ref": "#/$defs/a", "minLength": 1, "$defs": {"a": {}}}, "minLength", "/minLength"),
        ({"$ref": "#"}, "recursion", None),
        ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "recursion", None),
        ({"type": "object", "anyOf": [{"$ref": "#"}]}, "recursion", None),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "unsatisfiable",
         None),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "unsatisfiable", None),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "unsatisfiable", None),
        (False, "unsatisfiable", None),
        ({"enum": []}, "unsatisfiable", None),
        ({"enum": list(range(5000))}, "enum", "/enum"),
        ({"properties": {"xa": {}}, "patternProperties": {"^x": {}}}, "patternProperties",
         "/patternProperties/^x"),
        ({"patternProperties": {"^x": {}, "y$": {}}}, "patternProperties", "/patternProperties/y$"),
        ({"type": "object", "minProperties": 3}, "minProperties", "/minProperties"),
        ({"type": "object", "propertyNames": {"minimum": 3}}, "minimum", "/propertyNames"),
        ({"$schema": "http://example.com/mine"}, "$schema", "/$schema"),
        ({"discriminator": {"propertyName": "k"}, "type": "object"}, "discriminator", ""),
        ([], "schema", ""),
        ({"properties": {"a": 5}}, "schema", "/properties/a"),
        ({"required": True}, "required", "/required"),
        ({"type": "string", "required": True}, "required", "/required"),
        ({"type": "object", "minLength": "1"}, "minLength", "/minLength"),
        ({"type": "null", "items": 5}, "items", "/items"),
        ({"type": "string", "pattern": r"\Aa"}, "escape", "/pattern"),
        ({"type": "string", "pattern": r"a\Z"}, "escape", "/pattern"),
        ({"properties": {"xa": {}}, "required": ["xa"], "patternProperties": {"^x": {}}},
         "patternProperties", "/patternProperties/^x"),
        ({"type": "string", "pattern": "^([a-z]+ )*$", "maxLength": 60000}, "pattern", ""),
        ({"title": "x" * 70_000}, "size", ""),
    ],
)  # fmt: skip
def test_refused(schema: Any, keyword: str, pointer: str | None) -> None:
    with pytest.raises(GrammarError) as caught:
        compiled(schema)
    assert (caught.value.keyword, caught.value.pointer) == (keyword, pointer)


@pytest.mark.parametrize(
    ("source", "keyword"),
    [
        ("[" * 100_000, "size"),
        ("[" * 60_000, "depth"),
        ('{"items":' * 100 + "{}" + "}" * 100, "depth"),
        ("{", "json"),
        ("", "json"),
        ('{"type":"string","type":"null"}', "json"),
        ('{"const":NaN}', "json"),
        ('{"minimum":' + "9" * 5000 + "}", "json"),
        (r'{"const":"\ud800"}', "json"),
        (r'{"properties":{"\ud800":{}}}', "json"),
        (r'{"required":["\ud800"]}', "json"),
        (r'{"\ud800":1}', "json"),
        ('{"type":"number","multipleOf":1e400}', "json"),
        ('{"anyOf":[{"$ref":"#/anyOf/%s"}]}' % ("9" * 5000), "$ref"),
        ('{"$defs":{"a":{"enum":[1],"anyOf":[{"$ref":"#/$defs/a"}]}},"$ref":"#/$defs/a"}', "enum"),
        ('{"type":"object","enum":[{}],"properties":{"a":{"$ref":"#"}}}', "enum"),
    ],
)
def test_refused_sources(source: str, keyword: str) -> None:
    with pytest.raises(GrammarError) as caught:
        compile_grammar(GrammarSpec("json_schema", source))
    assert caught.value.keyword == keyword
    str(caught.value).encode()


def heavy_schemas() -> dict[str, Any]:
    """Below 64 KB, and each a long time's work if it were done in full."""
    numbers = {"a": {"enum": list(range(3000))}, "b": {"enum": list(range(4000, 7000))}}
    twice = {f"{k}{i}": {"anyOf": [{"$ref": f"#/$defs/{k}{i - 1}"}] * 60}
             for k in "a" for i in range(1, 4)}  # fmt: skip
    return {
        "patterns": {"patternProperties": {f"^a{i}$": {} for i in range(2500)}},
        "values": {"$defs": {"a0": numbers["a"], "b": numbers["b"], **twice},
                   "oneOf": [{"$ref": "#/$defs/b"}, {"$ref": "#/$defs/a3"}]},
        "products": {"anyOf": [{"type": "string", "pattern": f"a.{{{i}}}b", "format": "hostname"}
                               for i in range(5, 200)]},
        "overlaps": {"patternProperties": {f"^{c}[ab]*a[ab]{{{i}}}$": {} for i in range(9, 20)
                                           for c in "ab"}},
        "sets": {"anyOf": [{"type": "string", "pattern": f"[\\p{{L}}{chr(0x2600 + i)}]"}
                           for i in range(600)]},
    }  # fmt: skip


@pytest.mark.parametrize("name", heavy_schemas())
def test_work_is_bounded(name: str) -> None:
    start = time.process_time()
    with pytest.raises(GrammarError) as caught:
        compiled(heavy_schemas()[name])
    assert caught.value.keyword in ("work", "patternProperties", "pattern")
    assert time.process_time() - start < 6  # seconds; about 1 where nothing else runs


def test_names_are_checked_by_one_automaton() -> None:
    names = {"pattern": "^[ab0-9]*a?[ab0-9]{0,12}$", "minLength": 1, "maxLength": 100}
    start = time.process_time()
    grammar = compiled({"properties": {f"a{i}": True for i in range(1800)}, "propertyNames": names})
    assert time.process_time() - start < 6  # seconds; about 1 where nothing else runs
    assert grammar.matches(b'{"a7":1}')


def test_two_large_enums_in_a_union() -> None:
    defs = {"a": {"enum": list(range(3000))}, "b": {"enum": list(range(4000, 7000))},
            "c": {"anyOf": [{"$ref": "#/$defs/a"}] * 300}}  # fmt: skip
    schema = {"$defs": defs, "oneOf": [{"$ref": "#/$defs/b"}, {"$ref": "#/$defs/c"}]}
    grammar = compiled(schema)
    assert grammar.matches(b"2999")
    assert not grammar.matches(b"3500")


def test_too_many_optional_properties_are_named_as_the_cause() -> None:
    with pytest.raises(GrammarError, match="optional properties") as caught:
        compiled({"properties": {f"p{i}": {} for i in range(2500)}})
    assert caught.value.keyword == "properties"


def test_web_addresses_of_pydantic() -> None:
    for kind in (pydantic.HttpUrl, pydantic.AnyUrl, pydantic.AnyHttpUrl):
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        grammar = compiled(adapter.json_schema())
        assert grammar.matches(b'"http://example.org/a?b=c"')
        assert not grammar.matches(b'"http:///a"')
    limited = compiled({"type": "string", "format": "uri", "maxLength": 300})
    assert limited.matches(b'"http://example.org/%b"' % (b"a" * 50))
    assert not limited.matches(b'"http://example.org/%b"' % (b"a" * 290))
    adapter = TypeAdapter(pydantic.HttpUrl)
    grammar = compiled(adapter.json_schema())
    for i in range(20):
        adapter.validate_json(random_text(grammar, random.Random(i), size=60))


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
     Literal[1, "a"], Color, Circle | Square, Square, Point, uuid.UUID, datetime.date,
     datetime.timedelta, Any],
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


def test_long_chains_of_references_do_not_recurse() -> None:
    size = 1_500
    defs: dict[str, Any] = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(size)}
    defs[f"d{size}"] = {"const": 1}
    assert compiled({"$ref": "#/$defs/d0", "$defs": defs}).matches(b"1")


@pytest.mark.parametrize("name", ["jsonschema_dev.jsonl", "suite_dev.jsonl"])
def test_nothing_invalid_is_accepted(shared: Path, name: str) -> None:
    """Half of the real schemas with instances: refused or enforced; of the first set, every valid
    instance is accepted too."""
    wrong: list[str] = []
    compiled_schemas = 0
    for line in (shared / "grammar" / name).read_text().splitlines()[::2]:
        record = json.loads(line)
        try:
            grammar = compiled(record["schema"])
        except GrammarError:
            continue
        compiled_schemas += 1
        for test in record["tests"]:
            accepted = grammar.matches(text(test["data"]))
            if accepted and not test["valid"]:
                wrong.append(f"{record['id']} accepts {test['data']}")
            if test["valid"] and not accepted and name.startswith("jsonschema"):
                wrong.append(f"{record['id']} rejects {test['data']}")
    assert wrong == []
    assert compiled_schemas > 25
