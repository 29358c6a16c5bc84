"""Python types as outputs: their grammar, and the value that a text of it becomes."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired, Optional

import jsonschema
import msgspec
import pydantic
import pytest
from annotated_types import Ge
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from sgen.errors import ProgramError
from sgen.frontend import choices, grammar, json_schema, regex, structural_tag
from sgen.frontend.fake import least_text
from sgen.frontend.outputs import spec_of
from sgen.frontend.specs import FREE
from sgen.grammars.compile import compile_grammar
from sgen.protocol import GrammarSpec


class City(BaseModel):
    name: str
    population: int = Field(0, description="people")


class Tree(BaseModel):
    value: int
    children: list[Tree] = []


class Point(msgspec.Struct):
    x: int
    label: str = "p"


class Node(msgspec.Struct):
    point: Point
    next: Node | None = None


@dataclass
class Book:
    title: str
    pages: int


class Row(TypedDict):
    id: int
    note: NotRequired[str]


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mixed(enum.Enum):
    ONE = 1
    HALF = 0.5
    TEXT = "text"
    NONE = None


class Shape(enum.Enum):
    SQUARE = (1, 1)
    WIDE = (2, 1)


class Tone(enum.StrEnum):
    CALM = "calm"


CHOICES: list[tuple[Any, dict[str, object]]] = [
    (bool, {"true": True, "false": False}),
    (Literal["pos", "neg"], {"pos": "pos", "neg": "neg"}),
    (Literal[1, 2], {"1": 1, "2": 2}),
    (Literal["a", 3, None, False], {"a": "a", "3": 3, "null": None, "false": False}),
    (Literal["3", 3], {'"3"': "3", "3": 3}),
    (Literal["x", "y"], {"x": "x", "y": "y"}),
    (Mood, {"good": Mood.GOOD, "bad": Mood.BAD}),
    (Level, {"1": Level.LOW, "2": Level.HIGH}),
    (Tone, {"calm": Tone.CALM}),
    (
        Mixed,
        {"1": Mixed.ONE, "0.5": Mixed.HALF, "text": Mixed.TEXT, "null": Mixed.NONE},
    ),
    (Shape, {"SQUARE": Shape.SQUARE, "WIDE": Shape.WIDE}),
    (Literal[Mood.GOOD, "x"], {"good": Mood.GOOD, "x": "x"}),
]


@pytest.mark.parametrize(("kind", "values"), CHOICES, ids=lambda x: str(x)[:30])
def test_a_few_values_are_choices_without_quotes(kind: Any, values: dict[str, object]) -> None:
    spec = spec_of(kind)
    assert spec.grammar is not None
    assert spec.grammar.kind == "choices"
    assert json.loads(spec.grammar.source) == list(values)
    for text, value in values.items():
        decoded = spec.decode(text)
        assert decoded == value
        assert type(decoded) is type(value)
    with pytest.raises(ValueError, match="is no"):
        spec.decode("no such text")


JSON: list[tuple[Any, str, object]] = [
    (int, "12", 12),
    (float, "1.5", 1.5),
    (float, "2", 2.0),
    (City, '{"name": "Paris", "population": 2}', City(name="Paris", population=2)),
    (Tree, '{"value": 1, "children": [{"value": 2}]}', Tree(value=1, children=[Tree(value=2)])),
    (Point, '{"x": 1}', Point(1)),
    (Node, '{"point": {"x": 1}, "next": null}', Node(Point(1))),
    (Book, '{"title": "T", "pages": 3}', Book("T", 3)),
    (Row, '{"id": 1}', {"id": 1}),
    (list[City], '[{"name": "P"}]', [City(name="P")]),
    (list[Point], '[{"x": 2}]', [Point(2)]),
    (Point | None, "null", None),
    (Optional[int], "3", 3),  # noqa: UP045
    (int | str, '"a"', "a"),
    (list[str], '["a"]', ["a"]),
    (dict[str, int], '{"a": 1}', {"a": 1}),
    (dict[str, list[Point]], '{"a": [{"x": 1}]}', {"a": [Point(1)]}),
    (tuple[int, str], '[1, "a"]', (1, "a")),
    (list[Literal["a", "b"]], '["b"]', ["b"]),
    (list[Mood], '["bad"]', [Mood.BAD]),
    (Literal["a"] | None, "null", None),
    (Annotated[int, Ge(3)], "3", 3),
    (Pet, '{"kind": "dog", "name": "Rex"}', Dog(kind="dog", name="Rex")),
    (type(None), "null", None),
    (Any, '{"a": [1]}', {"a": [1]}),
]


@pytest.mark.parametrize(("kind", "text", "value"), JSON, ids=lambda x: str(x)[:30])
def test_other_types_are_json_by_their_schema(kind: Any, text: str, value: object) -> None:
    spec = spec_of(kind)
    assert spec.grammar is not None
    assert (spec.grammar.kind, spec.value) == ("json_schema", "json")
    schema = json.loads(spec.grammar.source)
    jsonschema.validate(json.loads(text), schema)
    decoded = spec.decode(text)
    assert decoded == value
    assert type(decoded) is type(value)


@pytest.mark.parametrize(("kind", "text", "value"), JSON, ids=lambda x: str(x)[:30])
def test_the_least_text_of_a_type_is_a_value_of_it(kind: Any, text: str, value: object) -> None:
    spec = spec_of(kind)
    assert spec.grammar is not None
    least = least_text(spec.grammar)
    jsonschema.validate(json.loads(least), json.loads(spec.grammar.source))
    spec.decode(least)


@pytest.mark.parametrize("kind", [City, Point, Book, Row, Node, Tree, list[City], Pet])
def test_objects_are_closed(kind: Any) -> None:
    spec = spec_of(kind)
    assert spec.grammar is not None
    value = json.loads(least_text(spec.grammar))
    schema = json.loads(spec.grammar.source)
    target = value[0] if isinstance(value, list) and value else value
    if isinstance(target, dict):
        target["surprise"] = 1
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(value, schema)
    assert "surprise" not in spec.grammar.source


def test_schemas_keep_properties_that_are_called_like_annotations() -> None:
    class Page(BaseModel):
        title: str
        description: Annotated[str, Field(title="D", examples=["x"])]
        default: int = 3

    spec = spec_of(Page)
    assert spec.grammar is not None
    schema = json.loads(spec.grammar.source)
    assert schema == {
        "type": "object",
        "properties": {
            "title": {"type": "string"},
            "description": {"type": "string"},
            "default": {"type": "integer"},
        },
        "required": ["title", "description"],
        "additionalProperties": False,
    }


def test_values_that_a_default_holds_are_no_schemas() -> None:
    class Holder(BaseModel):
        kind: Literal["a"] = "a"
        extra: dict[str, Any] = {"properties": {"title": 1}}

    spec = spec_of(Holder)
    assert spec.grammar is not None
    properties = json.loads(spec.grammar.source)["properties"]
    assert properties["extra"] == {"type": "object", "additionalProperties": True}
    assert properties["kind"] == {"type": "string", "const": "a"}


def test_whole_numbers() -> None:
    spec = spec_of(int)
    assert spec.decode("-0") == 0
    assert spec.decode("1e2") == 100
    assert type(spec.decode("1e2")) is int
    for bad in ("1.5", "true", '"1"', "", "9" * 5000):
        with pytest.raises(ValueError):  # noqa: PT011
            spec.decode(bad)


def test_text_is_free() -> None:
    assert spec_of(str) is FREE
    assert spec_of(None) is FREE
    assert FREE.grammar is None


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Callable[[int], int], "Callable"),
        (complex, "complex"),
        (list[complex], "complex"),
        (dict[int, str], "keys"),
        (list[dict[int, str]], "keys"),
        (object(), "neither a type nor a spec"),
        ("name", r"name=\.\.\."),
        (3, "neither a type"),
        (Literal[b"x"], "b'x'"),
        (enum.Enum("Empty", []), "without members"),
        (type("Plain", (), {}), "Plain"),
    ],
)
def test_what_cannot_be_generated_is_named(kind: Any, words: str) -> None:
    with pytest.raises(ProgramError, match=words):
        spec_of(kind)


def test_specs_of_the_same_type_are_made_once() -> None:
    assert spec_of(list[City]) is spec_of(list[City])
    assert spec_of(regex("a+")).grammar == regex("a+").grammar


def test_specs_by_hand() -> None:
    assert json_schema({"type": "integer"}).decode("3") == 3
    assert choices(["a", "b"]).decode("b") == "b"
    assert grammar("start: 'a'").grammar is not None
    pretty = json_schema({}, whitespace="pretty", order="any", unknown="note").grammar
    assert pretty is not None
    assert (pretty.whitespace, pretty.order, pretty.unknown) == ("pretty", "any", "note")
    tag = {"type": "structural_tag", "format": {"type": "any_text"}}
    assert structural_tag(tag).grammar == GrammarSpec("structural_tag", json.dumps(tag))
    for bad in (
        lambda: regex(""),
        lambda: regex(3),  # type: ignore[arg-type]
        lambda: choices([]),
        lambda: choices("ab"),
        lambda: choices(["a", "a"]),
        lambda: choices(["a", ""]),
        lambda: choices([1]),  # type: ignore[list-item]
        lambda: json_schema("{}"),  # type: ignore[arg-type]
        lambda: json_schema({"const": {1, 2}}),
        lambda: json_schema({"const": float("nan")}),
        lambda: json_schema({}, order="sorted"),  # type: ignore[arg-type]
        lambda: structural_tag("{}"),  # type: ignore[arg-type]
        lambda: grammar("x", syntax="peg"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ProgramError):
            bad()


class Dated(BaseModel):
    when: pydantic.PastDate


@pytest.mark.parametrize(
    "kind",
    [
        pydantic.NaiveDatetime,
        pydantic.PastDate,
        pydantic.FutureDate,
        pydantic.PastDatetime,
        pydantic.FutureDatetime,
        pydantic.ByteSize,
        Annotated[decimal.Decimal, Field(max_digits=5, decimal_places=2)],
        Annotated[decimal.Decimal, Field(gt=3)],
        Annotated[datetime.date, Field(gt=datetime.date(2020, 1, 1))],
        list[pydantic.PastDate],
        Dated,
    ],
)
def test_types_that_a_schema_cannot_say_are_refused_by_name(kind: Any) -> None:
    with pytest.raises(ProgramError, match=r"cannot generate .*cannot say what"):
        spec_of(kind)


class Price(msgspec.Struct):
    amount: decimal.Decimal


def test_decimals_are_digits() -> None:
    spec = spec_of(decimal.Decimal)
    assert spec.grammar is not None
    assert spec.decode(least_text(spec.grammar)) == 0
    grammar = compile_grammar(spec.grammar)
    assert grammar.matches(b'"-12.50"')
    for text in (b'"x"', b'""', b'"1."', b"1e9", b'"NaN"'):
        assert not grammar.matches(text)
    priced = spec_of(Price)
    assert priced.grammar is not None
    assert isinstance(priced.decode(least_text(priced.grammar)), Price)
