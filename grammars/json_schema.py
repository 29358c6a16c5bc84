"""JSON Schema to grammar: the JSON texts that a schema allows, members in the order of the schema.

Drafts 4 to 2020-12.  Everything that a keyword demands is enforced, or the schema is refused with
the keyword and its JSON pointer.  What is accepted may be less than the schema allows (integers
are not written as 1.0, for instance), never more; a text in which one object has a key twice is
outside of JSON Schema, and is only excluded for keys that the schema names.

Most schemas are lowered directly, keyword by keyword.  Where keywords have to be combined
(`json_forms.MORE`), the schema is read as a formula and brought into a normal form first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

from sgen.errors import GrammarError
from sgen.grammars.builder import Builder
from sgen.grammars.frames import Sequence
from sgen.grammars.json_array_frames import plain_array
from sgen.grammars.json_document import Document, Where, placed, pointer_of
from sgen.grammars.json_forms import (
    ANY_OF,
    ARRAY,
    FORMAT,
    MORE,
    NUMBER,
    OBJECT,
    REFERENCE,
    STRING,
    TYPE,
    VALUES,
)
from sgen.grammars.json_formula import FALSE, TRUE
from sgen.grammars.json_layout import Layout, Whitespace
from sgen.grammars.json_numbers import NUMBER_KEYWORDS, Numbers
from sgen.grammars.json_object_frames import (
    Declared,
    Order,
    keeps_order,
    plain_object,
    unordered_object,
)
from sgen.grammars.json_proofs import CycleError
from sgen.grammars.json_reader import MAX_ENUM, Reader
from sgen.grammars.json_sets import SetFrames
from sgen.grammars.json_strings import STRING_KEYWORDS, Strings
from sgen.grammars.json_text import TYPES, Schema, count, read, refuse, type_of, write
from sgen.grammars.json_vocabulary import Unknown, Vocabulary, kinds_of

MAX_INLINE = 40
"""Schemas inside each other that are lowered at once; deeper ones wait for their turn."""

_KINDS = {
    "null": 0,
    "boolean": 0,
    "integer": NUMBER | FORMAT,
    "number": NUMBER | FORMAT,
    "string": STRING | FORMAT,
    "array": ARRAY,
    "object": OBJECT,
}
_NO_PROPERTIES: Schema = {}
_OPEN = -1
"""In place of a node: the schema is being lowered."""


def lower_schema(
    builder: Builder,
    source: str,
    *,
    whitespace: Whitespace = "compact",
    order: Order = "schema",
    unknown: Unknown = "refuse",
) -> int:
    """The node of the JSON texts that satisfy the schema in `source`.

    What stands in the schema without being enforced is added to the builder's notes.
    """
    root = read(source)
    document = Document(root, source)
    vocabulary = Vocabulary(document, unknown)
    # That 1.0 is an integer is what drafts say since 6; readers of schemas that name none disagree.
    declared = unknown == "note" and document.declared and document.draft >= 6
    layout = Layout(builder, whitespace, point_zero=declared)
    tracks = '"unevaluated' in source
    lowering = _Lowering(builder, vocabulary, layout, order, tracks=tracks)
    node = lowering.run(root)
    builder.notes += vocabulary.notes
    return node


class _Lowering:
    """One schema on its way into a builder."""

    def __init__(
        self,
        builder: Builder,
        vocabulary: Vocabulary,
        layout: Layout,
        order: Order,
        *,
        tracks: bool,
    ) -> None:
        self.builder = builder
        self.vocabulary = vocabulary
        self.layout = layout
        self.order = order
        self._tracks = tracks
        self._places: dict[int, int] = {}  # by schema
        self._formulas: dict[int, int] = {}
        self._waiting: deque[tuple[int, Callable[[], int]]] = deque()
        self._depth = 0
        self._any: int | None = None
        self._plain: dict[str, int] = {}  # by type
        self._other_names: dict[tuple[str, ...], int] = {}
        self._of_type: dict[str, Callable[[Schema, Where], int]] = {
            "null": lambda schema, where: builder.literal(b"null"),
            "boolean": lambda schema, where: builder.words((b"true", b"false")),
            "integer": self._integer,
            "number": self._number,
            "string": self._string,
            "array": self._array,
            "object": self._object,
        }

    @cached_property
    def reader(self) -> Reader:
        return Reader(self.vocabulary, self.builder.work, tracks=self._tracks)

    @cached_property
    def sets(self) -> SetFrames:
        return SetFrames(self.builder, self.layout, self.reader.algebra, self.node, self.order)

    def run(self, root: Any) -> int:
        try:
            node = self.schema(root, None)
            while self._waiting:
                number, make = self._waiting.popleft()
                self.builder.define(number, Sequence((make(),)))
        except CycleError:
            refuse("a schema that is defined by itself", "recursion", "",
                   "something must come between it and the reference to it")  # fmt: skip
        return node

    def schema(self, schema: Any, where: Where) -> int:
        """The node of a schema at a place."""
        if schema is True:
            return self.anything()
        if schema is False:
            return self.builder.never()
        known = self._places.get(id(schema))
        if known is not None and known != _OPEN:
            return known
        return self._once(self._places, id(schema), partial(self._make, schema, where))

    def node(self, formula: int) -> int:
        """The node of a formula of the reader."""
        if formula == TRUE:
            return self.anything()
        if formula == FALSE:
            return self.builder.never()
        if self.reader.formulas.kind(formula) == "leaf":
            place = self.reader.place(formula)
            if place is not None:
                return self.schema(*place)
        known = self._formulas.get(formula)
        if known is not None and known != _OPEN:
            return known
        return self._once(self._formulas, formula, partial(self._make_formula, formula))

    def _once(self, table: dict[int, int], key: int, make: Callable[[], int]) -> int:
        """What `make` makes.  Where that is under way, or too far inside, a node that stands for
        it until it is there."""
        known = table.get(key)
        if known is None and self._depth < MAX_INLINE:
            table[key] = _OPEN
            self._depth += 1
            node = make()
            self._depth -= 1
            if table[key] != _OPEN:
                self.builder.define(table[key], Sequence((node,)))
            table[key] = node
            return node
        number = table[key] = self.builder.reserve()
        if known is None:
            self._waiting.append((number, make))
        return number

    def anything(self) -> int:
        """Any JSON value."""
        if self._any is None:
            number = self._any = self.builder.reserve()
            parts = [self._of_type[t]({}, None) for t in TYPES if t != "integer"]
            self.builder.define(number, Sequence((self.builder.alternatives(parts),)))
        return self._any

    def _make(self, schema: Any, where: Where) -> int:
        self.builder.work.spend(1)
        kinds = kinds_of(schema) if isinstance(schema, dict) and where is not None else None
        held = schema
        if kinds is None:
            kinds, held = self.vocabulary.scan(schema, where)
        if not kinds:
            return self.anything()
        if kinds == REFERENCE:
            return self.schema(*self.vocabulary.document.resolve(schema, where))
        if not kinds & (MORE | REFERENCE | ANY_OF):
            if not kinds & VALUES:
                return self._typed(schema, held, where, kinds)
            if not kinds & ~(VALUES | TYPE):
                node = self._listed(held, where)
                if node is not None:
                    return node
        elif kinds == ANY_OF and isinstance(held["anyOf"], list) and held["anyOf"]:
            here = (where, "anyOf")
            return self.builder.alternatives(
                [self.schema(s, (here, i)) for i, s in enumerate(held["anyOf"])]
            )
        return self._combined(schema, where)

    # Schemas of which each keyword is lowered by itself.

    def _typed(self, schema: Schema, held: Schema, where: Where, kinds: int) -> int:
        name = held.get("type")
        if not isinstance(name, str) or name not in _KINDS:
            types = self.vocabulary.types(held, where)
        elif not kinds & ~(TYPE | _KINDS[name]):
            return self._of_type[name](held, where)
        else:
            types = frozenset([name])
        self.vocabulary.scan(schema, where)  # for the form of keywords of other types
        return self.builder.alternatives(
            self._of_type[t](held, where)
            for t in TYPES
            if t in types and not (t == "integer" and "number" in types)
        )

    def _string(self, schema: Schema, where: Where) -> int:
        if STRING_KEYWORDS.isdisjoint(schema):
            return self._scalar("string", Strings.everything())
        try:
            return Strings.of(schema, "").lower(self.builder)
        except GrammarError as error:
            raise placed(error, where) from None

    def _integer(self, schema: Schema, where: Where) -> int:
        if NUMBER_KEYWORDS.isdisjoint(schema):
            return self._scalar("integer", Numbers.integers())
        try:
            return self._number_node(Numbers.of(schema, "", integer=True))
        except GrammarError as error:
            raise placed(error, where) from None

    def _number(self, schema: Schema, where: Where) -> int:
        if NUMBER_KEYWORDS.isdisjoint(schema):
            return self._scalar("number", Numbers.everything())
        try:
            return self._number_node(Numbers.of(schema, ""))
        except GrammarError as error:
            raise placed(error, where) from None

    def _scalar(self, name: str, values: Numbers | Strings) -> int:
        """The node of all values of a type."""
        known = self._plain.get(name)
        if known is None:
            if isinstance(values, Numbers):
                known = self._number_node(values)
            else:
                known = values.lower(self.builder)
            self._plain[name] = known
        return known

    def _number_node(self, values: Numbers) -> int:
        return values.lower(self.builder, point_zero=self.layout.point_zero)

    def _array(self, schema: Schema, where: Where) -> int:
        items = schema.get("items", True)
        if isinstance(items, list):
            spec = self.reader.arrays(schema, where)
            return self.builder.never() if spec is None else self.sets.array(spec)
        try:
            low, high = count(schema, "minItems", "") or 0, count(schema, "maxItems", "")
        except GrammarError as error:
            raise placed(error, where) from None
        rest = None if items is False else self.schema(items, (where, "items"))
        return plain_array(self.builder, self.layout, [], rest, low, high)

    def _object(self, schema: Schema, where: Where) -> int:
        properties, required = schema.get("properties", _NO_PROPERTIES), schema.get("required", ())
        additional = schema.get("additionalProperties", True)
        if not isinstance(properties, dict) or not isinstance(required, list | tuple):
            schema = self.vocabulary.scan(schema, where)[1]
            required = schema.get("required", ())
        here = (where, "properties")
        members = [
            Declared(name, self.schema(value, (here, name)), name in required)
            for name, value in properties.items()
        ]
        rest = (where, "additionalProperties")
        for name in required:
            if name not in properties:
                if not isinstance(name, str):
                    self.vocabulary.scan(schema, where)
                if additional is False:
                    return self.builder.never()
                members.append(Declared(name, self.schema(additional, rest), True))
        others = []
        if additional is not False:
            if where is None and self.order == "relaxed" and "$schema" not in properties:
                # By convention a document may name its schema, and does so first.
                members.insert(0, Declared("$schema", self.schema(additional, rest), False))
            others.append((self._other_key(members), self.schema(additional, rest)))
        if keeps_order(self.order, members, others):
            try:
                return plain_object(self.builder, self.layout, members, others, empty=True)
            except GrammarError as error:
                raise placed(error, where) from None
        leading = required if self.order == "relaxed" else ()
        return unordered_object(
            self.builder, self.layout, members, others, 0, None, pointer_of(where), leading
        )

    def _other_key(self, members: list[Declared]) -> int:
        """The keys of members that have no name."""
        names = tuple([m.name for m in members])
        known = self._other_names.get(names)
        if known is None:
            keys = Strings.values(list(names)).complement()
            known = self._other_names[names] = keys.lower_key(self.builder)
        return known

    def _listed(self, schema: Schema, where: Where) -> int | None:
        """enum and const beside nothing but a type; None if they take a network."""
        values = schema.get("enum", [schema.get("const")])
        if len(schema.keys() & {"enum", "const"}) > 1 or not isinstance(values, list):
            return None
        if len(values) > MAX_ENUM:
            return None  # the reader refuses it
        self.builder.work.spend(len(values) // 8)
        if "type" in schema:
            types = self.vocabulary.types(schema, where)
            values = [v for v in values if type_of(v) in types]
        if not (self.layout.compact and self.order == "schema") and any(
            isinstance(v, dict | list) and v for v in values
        ):
            return None
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        if not numbers:
            return self.builder.words(dict.fromkeys(map(write, values)))
        found = [self._number_node(Numbers.values(numbers))]
        others = [v for v in values if not isinstance(v, int | float) or isinstance(v, bool)]
        if others:
            found.append(self.builder.words(dict.fromkeys(map(write, others))))
        return self.builder.alternatives(found)

    # Schemas that have to be read as formulas.

    def _combined(self, schema: Schema, where: Where) -> int:
        try:
            return self._of_formula(schema, where)
        except GrammarError as error:
            raise error if error.pointer else placed(error, where) from None

    def _of_formula(self, schema: Schema, where: Where) -> int:
        formula = self.reader.formula(schema, where)
        kind = self.reader.formulas.kind(formula)
        if kind == "leaf":
            place = self.reader.place(formula)
            if place is None or place[0] is not schema:
                return self.node(formula)
        elif kind in ("true", "false", "or", "one"):
            return self.node(formula)
        return self.sets.normal(self.reader.algebra.normal(formula), where)

    def _make_formula(self, formula: int) -> int:
        algebra, formulas = self.reader.algebra, self.reader.formulas
        kind, parts = formulas.kind(formula), formulas.parts(formula)
        if kind in ("or", "one"):
            if kind == "one":
                parts = tuple(algebra.exclusive(parts))
            return self.builder.alternatives(map(self.node, parts))
        return self.sets.normal(algebra.normal(formula), None)
