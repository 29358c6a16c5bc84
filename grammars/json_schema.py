"""JSON Schema to grammar: compact JSON, with properties in the order of the schema.

Drafts 4 to 2020-12.  Everything that a keyword demands is enforced, or the schema is refused
with the keyword and its JSON pointer; only annotations, which demand nothing, are passed over.
What is accepted may be less than the schema allows (integers are not written as 1.0, for
instance), never more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from sgen.grammars.automata import run
from sgen.grammars.builder import Builder
from sgen.grammars.frames import Sequence
from sgen.grammars.json_containers import (
    ARRAY_KEYWORDS,
    OBJECT_KEYWORDS,
    lower_array,
    lower_object,
)
from sgen.grammars.json_disjoint import Disjoint, narrowed, types_of, with_tag
from sgen.grammars.json_forms import check_forms
from sgen.grammars.json_scalars import (
    NUMBER_KEYWORDS,
    STRING_KEYWORDS,
    KeyRule,
    key_rule,
    lower_number,
    lower_string,
)
from sgen.grammars.json_text import (
    TYPES,
    Schema,
    identity,
    join,
    lookup,
    read,
    refuse,
    spellings,
    type_of,
    write,
)
from sgen.grammars.pushdown import Plan, Pushdown

MAX_ENUM = 4_096
MAX_ACCEPTORS = 8

Acceptors = dict[tuple[str, bytes], Callable[[bytes], bool] | None]
"""By pointer and schema; None while it is under construction."""

ANNOTATIONS = frozenset(
    {
        "title",
        "description",
        "default",
        "examples",
        "example",
        "deprecated",
        "readOnly",
        "writeOnly",
        "$comment",
        "$defs",
        "definitions",
        "$schema",
        "$id",
        "id",
    }
)
TYPED = {
    "string": STRING_KEYWORDS,
    "number": NUMBER_KEYWORDS,
    "integer": NUMBER_KEYWORDS,
    "array": ARRAY_KEYWORDS,
    "object": OBJECT_KEYWORDS,
}
SUPPORTED = frozenset(
    {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "discriminator"}
).union(*TYPED.values())
DRAFTS = (
    "json-schema.org/schema",
    "json-schema.org/draft-04/schema",
    "json-schema.org/draft-06/schema",
    "json-schema.org/draft-07/schema",
    "json-schema.org/draft/2019-09/schema",
    "json-schema.org/draft/2020-12/schema",
)


def lower_schema(builder: Builder, source: str) -> int:
    """The node of the JSON texts that satisfy the schema in `source`."""
    root = read(source)
    return _Lowering(builder, root, {}).run()


class _Lowering:
    """One schema on its way into a builder.  References are lowered once, each after another, so
    that neither cycles nor long chains of them go deep."""

    def __init__(self, builder: Builder, root: object, acceptors: Acceptors) -> None:
        self.builder = builder
        self.root = root
        self.acceptors = acceptors
        self.disjoint = Disjoint(self.follow, builder.work)
        self._references: dict[tuple[str, str], int] = {}
        self._waiting: deque[tuple[int, object, str]] = deque()
        self._any: int | None = None
        self._has_references = _mentions(root, "$ref")

    def run(self) -> int:
        """The node of the whole schema."""
        return self.complete(self.root, "")

    def complete(self, schema: Any, pointer: str) -> int:
        """Lower a schema and all that it refers to."""
        node = self.schema(schema, pointer)
        while self._waiting:
            number, schema, pointer = self._waiting.popleft()
            self.builder.define(number, Sequence((self.schema(schema, pointer),)))
        return node

    def schema(self, schema: Any, pointer: str) -> int:
        if schema is True or schema == {}:
            return self.anything()
        if schema is False:
            return self.builder.never()
        if not isinstance(schema, dict):
            refuse("a schema must be an object or a boolean", "schema", pointer)
        self.builder.work.spend(len(schema))
        keys = self.constraints(schema, pointer)
        if not keys:
            return self.anything()
        if "$ref" in keys:
            _alone(keys, "$ref", pointer)
            return self.reference(schema["$ref"], pointer)
        if "enum" in keys or "const" in keys:
            return self.values(schema, keys, pointer)
        for keyword in ("allOf", "anyOf", "oneOf"):
            if keyword in keys:
                return self.combined(schema, keys, keyword, pointer)
        if "discriminator" in keys:
            refuse("discriminator without anyOf or oneOf", "discriminator", pointer)
        return self.typed(schema, pointer)

    def constraints(self, schema: Schema, pointer: str) -> set[str]:
        """The keywords that demand something; all others are annotations."""
        keys = set(schema) - ANNOTATIONS
        unknown = sorted(k for k in keys - SUPPORTED if not k.startswith("x-"))
        if unknown:
            refuse(f"the keyword {unknown[0]!r} is not supported", unknown[0],
                   join(pointer, unknown[0]),
                   "leave it out; a note may be named x-...")  # fmt: skip
        for keyword in ("$id", "id"):
            if isinstance(schema.get(keyword), str) and pointer and self._has_references:
                refuse(f"{keyword} inside a schema with references is not supported", keyword,
                       join(pointer, keyword))  # fmt: skip
        if "$schema" in schema and _dialect(schema["$schema"]) not in DRAFTS:
            refuse(f"the dialect {schema['$schema']!r} is not supported", "$schema",
                   join(pointer, "$schema"))  # fmt: skip
        check_forms(schema, pointer)
        return {k for k in keys if not k.startswith("x-")}

    def anything(self) -> int:
        """Any JSON value."""
        if self._any is None:
            self._any = self.builder.reserve()
            parts = [self.of_type(t, {}, "") for t in TYPES if t != "integer"]
            self.builder.define(self._any, Sequence((self.builder.alternatives(parts),)))
        return self._any

    # References.

    def follow(self, schema: Any, pointer: str) -> tuple[Any, str]:
        """What a schema that is only a reference stands for, and where that is."""
        seen = set()
        while isinstance(schema, dict) and isinstance(schema.get("$ref"), str):
            _alone(self.constraints(schema, pointer), "$ref", pointer)
            fragment = self.fragment(schema["$ref"], pointer)
            if fragment in seen:
                refuse("a $ref that leads back to itself", "$ref", pointer)
            seen.add(fragment)
            schema, pointer = lookup(self.root, fragment, join(pointer, "$ref")), fragment
        return schema, pointer

    def fragment(self, reference: str, pointer: str) -> str:
        base, _, fragment = reference.partition("#")
        here = self.root.get("$id", self.root.get("id")) if isinstance(self.root, dict) else None
        own = here.partition("#")[0] if isinstance(here, str) else ""
        if base not in ("", own) or (fragment and not fragment.startswith("/")):
            refuse(f"only references within the schema by JSON pointer are supported, not "
                   f"{reference!r}", "$ref", join(pointer, "$ref"),
                   "copy the schema into $defs; nothing is ever fetched")  # fmt: skip
        return fragment

    def reference(self, reference: object, pointer: str) -> int:
        if not isinstance(reference, str):
            refuse("$ref must be a string", "$ref", join(pointer, "$ref"))
        fragment = self.fragment(reference, pointer)
        schema = lookup(self.root, fragment, join(pointer, "$ref"))
        return self.later(schema, fragment, "")

    def later(self, schema: object, pointer: str, variant: str) -> int:
        """A node for the schema at a pointer, lowered after what is being lowered now."""
        number = self._references.get((pointer, variant))
        if number is None:
            number = self._references[pointer, variant] = self.builder.reserve()
            self._waiting.append((number, schema, pointer))
        return number

    # Values, and combinations of schemas.

    def values(self, schema: Schema, keys: set[str], pointer: str) -> int:
        found = schema.get("enum", [schema.get("const")])
        self.builder.work.spend(len(found) if isinstance(found, list) else 0)
        place = join(pointer, "enum" if "enum" in keys else "const")
        if not isinstance(found, list) or len(found) > MAX_ENUM:
            refuse(f"enum must be a list of at most {MAX_ENUM:,} values", "enum", place)
        if "enum" in keys and "const" in keys:
            found = [v for v in found if identity(v) == identity(schema["const"])]
        texts = [text for value in found for text in spellings(value)]
        rest = {k: schema[k] for k in keys - {"enum", "const"}}
        if set(rest) == {"type"}:
            types = types_of(schema, pointer)
            texts = [t for v in found if type_of(v) in types for t in spellings(v)]
        elif rest:
            accepts = self.acceptor(rest, pointer)
            texts = [text for text in texts if accepts(text)]
        return self.builder.words(dict.fromkeys(texts))

    def acceptor(self, schema: Schema, pointer: str) -> Callable[[bytes], bool]:
        """Whether a text satisfies a schema, by its own automaton."""
        key = (pointer, write(schema))
        known = self.acceptors.get(key)
        if known is not None:
            return known
        if key in self.acceptors or list(self.acceptors.values()).count(None) >= MAX_ACCEPTORS:
            refuse("values beside other keywords that lead back to them are not supported",
                   "enum", pointer)  # fmt: skip
        self.acceptors[key] = None
        work = self.builder.work
        other = _Lowering(Builder(work), self.root, self.acceptors)
        node = other.complete(schema, pointer)
        machine = Pushdown(Plan(other.builder.nodes()), node)
        accepts = self.acceptors[key] = lambda text: machine.possible and run(machine, text, work)
        return accepts

    def combined(self, schema: Schema, keys: set[str], keyword: str, pointer: str) -> int:
        branches = schema[keyword]
        place = join(pointer, keyword)
        if not isinstance(branches, list) or not branches:
            refuse(f"{keyword} must be a list of schemas", keyword, place)
        if keyword == "allOf":
            _alone(keys, "allOf", pointer)
            if len(branches) > 1:
                refuse("allOf of more than one schema is not supported", "allOf", place)
            return self.schema(branches[0], join(place, 0))
        _alone(keys - {"type", "discriminator"}, keyword, pointer)
        found = [(branch, join(place, i), "") for i, branch in enumerate(branches)]
        if "type" in keys:
            types = types_of(schema, pointer)
            found = [self.narrowed(branch, p, types) for branch, p, _ in found]
        if "discriminator" in keys:
            tag = _tag(schema, pointer)
            found = [self.tagged(*branch, tag) for branch in found]
        if keyword == "oneOf":
            self.check_disjoint([(branch, p) for branch, p, _ in found])
        return self.builder.alternatives(
            self.later(branch, p, variant) if variant else self.schema(branch, p)
            for branch, p, variant in found
        )

    def check_disjoint(self, branches: list[tuple[object, str]]) -> None:
        for i, (a, place_a) in enumerate(branches):
            for b, place_b in branches[:i]:
                if not self.disjoint(a, place_a, b, place_b):
                    refuse("oneOf whose schemas can hold for one value is not supported",
                           "oneOf", place_a, "use anyOf, or give each its own const")  # fmt: skip

    def narrowed(
        self, branch: object, pointer: str, types: frozenset[str]
    ) -> tuple[object, str, str]:
        """A branch for values of some types; a variant of what it refers to has a name."""
        target, place = self.follow(branch, pointer)
        return narrowed(target, place, types), place, "" if place == pointer else f"{sorted(types)}"

    def tagged(
        self, branch: object, pointer: str, variant: str, tag: str
    ) -> tuple[object, str, str]:
        """A branch of a union that is told apart by a property, which must then be there."""
        target, place = self.follow(branch, pointer)
        marked = with_tag(target, tag)
        if marked is None:
            return branch, pointer, variant
        return marked, place, f"{variant} with {tag}"

    # Types.

    def typed(self, schema: Schema, pointer: str) -> int:
        types = types_of(schema, pointer)
        return self.builder.alternatives(
            self.of_type(t, schema, pointer)
            for t in TYPES
            if t in types and not (t == "integer" and "number" in types)
        )

    def of_type(self, name: str, schema: Schema, pointer: str) -> int:
        if name == "null":
            return self.builder.literal(b"null")
        if name == "boolean":
            return self.builder.words([b"true", b"false"])
        if name == "string":
            return lower_string(self.builder, schema, pointer)
        if name == "array":
            return lower_array(self.builder, schema, pointer, self.schema)
        if name == "object":
            rule = self.key_rule(schema, pointer)
            return lower_object(self.builder, schema, pointer, self.schema, rule)
        return lower_number(self.builder, schema, pointer, whole=name == "integer")

    def key_rule(self, schema: Schema, pointer: str) -> KeyRule:
        place = join(pointer, "propertyNames")
        rule, place = self.follow(schema.get("propertyNames", True), place)
        if rule is True:
            return KeyRule()
        if rule is False:
            return KeyRule(names=())
        if not isinstance(rule, dict):
            refuse("a schema must be an object or a boolean", "propertyNames", place)
        keys = self.constraints(rule, place)
        if keys <= {"enum", "const", "type"} and keys & {"enum", "const"}:
            values = rule.get("enum", [rule.get("const")])
            if not isinstance(values, list) or {"enum", "const"} <= keys:
                refuse("one list of names is supported", "propertyNames", place)
            return KeyRule(names=tuple(v for v in values if isinstance(v, str)))
        if not keys <= STRING_KEYWORDS | {"type"}:
            other = min(keys - STRING_KEYWORDS - {"type"})
            refuse(f"{other} is not supported for the names of properties", other, place)
        if "string" not in types_of(rule, place):
            return KeyRule(names=())
        return key_rule(rule, place)


def _alone(keys: set[str], keyword: str, pointer: str) -> None:
    others = sorted(keys - {keyword})
    if others:
        refuse(f"{others[0]} beside {keyword} is not supported", others[0],
               join(pointer, others[0]), "put it inside")  # fmt: skip


def _tag(schema: Schema, pointer: str) -> str:
    discriminator = schema["discriminator"]
    name = discriminator.get("propertyName") if isinstance(discriminator, dict) else None
    if not isinstance(name, str):
        refuse(
            "discriminator must name a property", "discriminator", join(pointer, "discriminator")
        )
    return name


def _dialect(uri: object) -> str:
    return uri.partition("://")[2].rstrip("#/") if isinstance(uri, str) else ""


def _mentions(schema: object, keyword: str) -> bool:
    if isinstance(schema, dict):
        return keyword in schema or any(_mentions(v, keyword) for v in schema.values())
    return isinstance(schema, list) and any(_mentions(v, keyword) for v in schema)
