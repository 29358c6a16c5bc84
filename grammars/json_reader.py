"""Schemas read as sets of values: every keyword becomes part of a normal form or of a formula."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from sgen.errors import GrammarError
from sgen.grammars.json_algebra import Algebra
from sgen.grammars.json_arrays import Among, Arrays, SeenItems
from sgen.grammars.json_arrays import unseen as unseen_items
from sgen.grammars.json_document import Where, placed, pointer_of
from sgen.grammars.json_forms import KIND_OF, REFERENCE, VALUES
from sgen.grammars.json_formula import FALSE, TRUE, Formulas
from sgen.grammars.json_normal import EVERYTHING, Normal
from sgen.grammars.json_numbers import Numbers
from sgen.grammars.json_objects import Clause, Objects, Seen, every, only, unseen
from sgen.grammars.json_proofs import CycleError
from sgen.grammars.json_strings import Strings
from sgen.grammars.json_text import Schema, count, identity, join, refuse
from sgen.grammars.json_vocabulary import Vocabulary
from sgen.grammars.work import Work

MAX_ENUM = 4_096

COMBINING = frozenset({
    "allOf", "anyOf", "oneOf", "discriminator", "$ref", "$dynamicRef", "$recursiveRef", "not",
    "if", "then", "else", "dependentSchemas", "dependencies", "unevaluatedProperties",
    "unevaluatedItems",
})  # fmt: skip
"""Keywords that combine schemas for one value."""
_BOTH = frozenset({"dependencies"})  # lists of names, and schemas
_NO_OBJECTS = replace(EVERYTHING, objects=())


class _Typed(NamedTuple):
    """A leaf: what the keywords for single types, enum and const say."""

    schema: Schema
    where: Where


class _Whole(NamedTuple):
    """A leaf: a schema with all that it combines, where it matters what it has looked at."""

    schema: Schema
    where: Where


class _Later(NamedTuple):
    """A leaf: a schema whose formula is being made."""

    schema: Schema
    where: Where


class Reader:
    """The schemas of one document as formulas."""

    def __init__(self, vocabulary: Vocabulary, work: Work, *, tracks: bool) -> None:
        """`tracks`: unevaluatedProperties or unevaluatedItems stands somewhere."""
        self.vocabulary = vocabulary
        self.document = vocabulary.document
        self.formulas = Formulas(work)
        self.algebra = Algebra(self.formulas, self._read, work, tracks=tracks)
        self._work = work
        self._tracks = tracks
        self._places: dict[int, int] = {}  # by schema
        self._open: set[int] = set()
        self._constants: dict[str, int] = {}

    def formula(self, schema: Any, where: Where) -> int:
        """The formula of a schema at a place; a reference alone is what it leads to."""
        passed: list[int] = []
        while schema is not True and schema is not False:
            known = self._places.get(id(schema))
            if known is not None:
                break
            if id(schema) in self._open:
                known = self.formulas.leaf(_Later(schema, where))
                break
            kinds = self.vocabulary.scan(schema, where)[0]
            if kinds != REFERENCE:
                known = self._own(schema, where)
                self._places[id(schema)] = known
                break
            if id(schema) in passed:
                raise CycleError
            passed.append(id(schema))
            self._work.spend(1)
            schema, where = self.document.resolve(schema, where)
        else:
            known = TRUE if schema else FALSE
        self._places |= dict.fromkeys(passed, known)
        return known

    def _own(self, schema: Schema, where: Where) -> int:
        """The formula of a schema that is more than a reference."""
        held = self.vocabulary.scan(schema, where)[1]
        combining = held.keys() & COMBINING
        if self._tracks and combining:
            return self.formulas.leaf(_Whole(schema, where))
        asserting = any(KIND_OF[k] for k in held.keys() - COMBINING | held.keys() & _BOTH)
        own = self.formulas.leaf(_Typed(schema, where)) if asserting else TRUE
        if not combining:
            return own
        self._open.add(id(schema))
        try:
            parts = list(self._combined(schema, held, where))
        finally:
            self._open.discard(id(schema))
        return self.formulas.and_([own, *parts])

    def place(self, formula: int) -> tuple[Schema, Where] | None:
        """The schema whose formula is just this leaf; None if there is none."""
        content = self.formulas.content(formula)
        if isinstance(content, Normal):
            return None
        if isinstance(content, _Later) or self._places.get(id(content.schema)) == formula:
            return content.schema, content.where
        return None

    def _read(self, content: Any) -> Normal | int:
        """The normal form of a leaf."""
        if isinstance(content, Normal):
            return content
        schema, where = content
        if isinstance(content, _Later):
            return self.formula(schema, where)
        self._work.spend(1 + len(schema) // 2)
        kinds, held = self.vocabulary.scan(schema, where)
        found = self._typed(held, where)
        if kinds & VALUES:
            found = self.algebra.meet(self._listed(held, where), found)
        if isinstance(content, _Whole):
            for formula in self._combined(schema, held, where):
                found = self.algebra.meet(found, self.algebra.normal(formula))
            found = self._unevaluated(found, held, where)
        return found

    # Combinations.

    def _combined(self, schema: Schema, held: Schema, where: Where) -> Iterator[int]:
        """The formulas of all that a schema combines; `held` are its keywords that hold."""
        if "$ref" in held:
            yield self.formula(*self.document.resolve(schema, where))
        for keyword in ("$dynamicRef", "$recursiveRef"):
            if keyword in held:
                yield self.formula(*self.document.dynamic(schema, where, keyword))
        yield from self._branches(held, "allOf", where)
        for keyword, union in (("anyOf", self.formulas.or_), ("oneOf", self.formulas.one)):
            if keyword in held:
                branches = self._branches(held, keyword, where)
                if "discriminator" in held:
                    tag = self._tag(held, where)
                    branches = (self._tagged(branch, tag) for branch in branches)
                yield union(branches)
        if "discriminator" in held and not {"anyOf", "oneOf"} & held.keys():
            self._tag({}, where)
        if "not" in held:
            yield self.formulas.not_(self._inside(held, "not", where))
        yield from self._conditional(held, where)

    def _branches(self, schema: Schema, keyword: str, where: Where) -> Iterator[int]:
        here = (where, keyword)
        return (self.formula(s, (here, i)) for i, s in enumerate(schema.get(keyword, ())))

    def _inside(self, schema: Schema, keyword: str, where: Where) -> int:
        """The formula of a keyword's schema; TRUE without it."""
        return self.formula(schema[keyword], (where, keyword)) if keyword in schema else TRUE

    def _tag(self, schema: Schema, where: Where) -> str:
        found = schema.get("discriminator")
        name = found.get("propertyName") if isinstance(found, dict) else None
        if not isinstance(name, str):
            refuse("discriminator must name a property, beside anyOf or oneOf", "discriminator",
                   join(pointer_of(where), "discriminator"))  # fmt: skip
        return name

    def _tagged(self, branch: int, tag: str) -> int:
        """A branch of a union that is told apart by a property (OpenAPI): it must be there, if
        the branch declares it."""
        if not any(tag in o.names for o in self.algebra.normal(branch).objects):
            return branch
        there = Objects(required={tag: None})
        return self.formulas.and_((branch, self.set_of(replace(EVERYTHING, objects=(there,)))))

    def set_of(self, normal: Normal) -> int:
        """The formula of a set; equal sets have equal ones."""
        key = repr(normal)
        known = self._constants.get(key)
        if known is None:
            known = self._constants[key] = self.formulas.leaf(normal)
        return known

    def _conditional(self, schema: Schema, where: Where) -> Iterator[int]:
        """if, and schemas that hold where a member is there: unions whose parts exclude each
        other."""
        formulas = self.formulas
        if "if" in schema and (self._tracks or {"then", "else"} & schema.keys()):
            condition = self._inside(schema, "if", where)
            yes = formulas.and_((condition, self._inside(schema, "then", where)))
            no = formulas.and_((formulas.not_(condition), self._inside(schema, "else", where)))
            yield self._either(yes, no)
        for keyword in ("dependentSchemas", "dependencies"):
            for name, value in schema.get(keyword, {}).items():
                if isinstance(value, list) or value is True:
                    continue
                inner = self.formula(value, ((where, keyword), name))
                there = self.set_of(Normal(objects=(Objects({name: TRUE}, {name: None}),)))
                absent = self.set_of(replace(_NO_OBJECTS, objects=(Objects({name: FALSE}),)))
                yield self._either(absent, formulas.and_((there, inner)))

    def _either(self, a: int, b: int) -> int:
        """A union of two formulas that exclude each other."""
        if not self._tracks:
            return self.formulas.or_((a, b))
        # What a value was looked at by differs between them, even where they are all there is.
        return self.formulas.leaf(
            self.algebra.join((self.algebra.normal(a), self.algebra.normal(b)))
        )

    def _unevaluated(self, normal: Normal, schema: Schema, where: Where) -> Normal:
        """The set once the members and items that nothing has looked at are checked."""
        formulas, work = self.formulas, self._work
        if "unevaluatedProperties" in schema:
            rest = self._inside(schema, "unevaluatedProperties", where)
            objects = [o.meet(unseen(o, rest), formulas, work) for o in normal.objects]
            left = [replace(o, seen=Seen(all=True)) for o in objects if o is not None]
            normal = replace(normal, objects=tuple(left))
        if "unevaluatedItems" in schema:
            rest = self._inside(schema, "unevaluatedItems", where)
            arrays = [a.meet(unseen_items(a, rest, formulas), formulas, work)
                      for a in normal.arrays]  # fmt: skip
            kept = [replace(a, seen=SeenItems(all=True)) for a in arrays if a is not None]
            normal = replace(normal, arrays=tuple(kept))
        return normal

    # Values.

    def _listed(self, schema: Schema, where: Where) -> Normal:
        found = EVERYTHING
        if "enum" in schema:
            values = schema["enum"]
            place = join(pointer_of(where), "enum")
            if not isinstance(values, list) or len(values) > MAX_ENUM:
                refuse(f"enum must be a list of at most {MAX_ENUM:,} values", "enum", place)
            found = self.values(values)
        if "const" in schema:
            found = self.algebra.meet(found, self.values([schema["const"]]))
        return found

    def values(self, values: list[Any]) -> Normal:
        """Just these values."""
        self._work.spend(1 + len(values) // 64)
        numbers, strings = Numbers.values(values), Strings.values(values)
        return Normal(
            any(v is None for v in values),
            frozenset(v for v in values if isinstance(v, bool)),
            (numbers,) if numbers.finite else (),
            (strings,) if strings.finite else (),
            tuple(self._array(v) for v in values if isinstance(v, list)),
            tuple(self._object(v) for v in values if isinstance(v, dict)),
        )

    def _array(self, value: list[Any]) -> Arrays:
        return Arrays(tuple(map(self.constant, value)), FALSE, len(value), len(value))

    def _object(self, value: Schema) -> Objects:
        names = {name: self.constant(inner) for name, inner in value.items()}
        return Objects(names, dict.fromkeys(names), rest=FALSE)

    def constant(self, value: Any) -> int:
        """The formula of one value; equal values have equal ones."""
        key = identity(value)
        known = self._constants.get(key)
        if known is None:
            known = self._constants[key] = self.formulas.leaf(self.values([value]))
        return known

    # Types.

    def _typed(self, schema: Schema, where: Where) -> Normal:
        """What the keywords for each type demand."""
        types = self.vocabulary.types(schema, where)
        numbers: tuple[Numbers, ...] = ()
        strings: tuple[Strings, ...] = ()
        try:
            if "integer" in types:
                numbers = (Numbers.of(schema, "", integer="number" not in types),)
            if "string" in types:
                strings = (Strings.of(schema, ""),)
        except GrammarError as error:
            raise placed(error, where) from None
        arrays = self.arrays(schema, where) if "array" in types else None
        objects = self._objects(schema, where) if "object" in types else None
        return Normal(
            "null" in types,
            frozenset((False, True)) if "boolean" in types else frozenset(),
            numbers,
            strings,
            () if arrays is None else (arrays,),
            () if objects is None else (objects,),
        )

    def arrays(self, schema: Schema, where: Where) -> Arrays | None:
        """What the keywords for arrays demand; None if no array can satisfy them."""
        prefix, keyword, first = schema.get("prefixItems", []), "items", "prefixItems"
        if isinstance(schema.get("items"), list):  # as drafts 4 to 2019-09 wrote it
            if "prefixItems" in schema:
                refuse("a list of items beside prefixItems", "items",
                       join(pointer_of(where), "items"))  # fmt: skip
            prefix, keyword, first = schema["items"], "additionalItems", "items"
        low, high = count(schema, "minItems", "") or 0, count(schema, "maxItems", "")
        among: tuple[Among, ...] = ()
        if "contains" in schema:
            inside = self._inside(schema, "contains", where)
            least = count(schema, "minContains", "")
            most = count(schema, "maxContains", "")
            among = (Among(0, inside, 1 if least is None else least, most),)
        unique = schema.get("uniqueItems") is True and (high is None or high > 1)
        seen = SeenItems()
        if self._tracks:
            seen = SeenItems(len(prefix), keyword in schema, tuple(a.formula for a in among))
        here = (where, first)
        found = Arrays(
            tuple(self.formula(s, (here, i)) for i, s in enumerate(prefix)),
            self._inside(schema, keyword, where),
            low,
            high,
            among,
            (where,) if unique else None,
            seen,
        )
        return None if found.impossible() else found

    def _objects(self, schema: Schema, where: Where) -> Objects | None:
        found = Objects()
        here = (where, "patternProperties")
        patterns = schema.get("patternProperties", {})
        for pattern, value in patterns.items():
            keys = Strings.matching(pattern, pointer_of((here, pattern)))
            met = found.meet(every(keys, self.formula(value, (here, pattern))), self.formulas,
                             self._work)  # fmt: skip
            found = met or found
        here = (where, "properties")
        names = {
            name: self.formulas.and_((self.formula(value, (here, name)), found.value(name)))
            for name, value in schema.get("properties", {}).items()
        }
        rest = self._inside(schema, "additionalProperties", where)
        found = replace(found, names=names, rest=rest)
        seen = Seen()
        if self._tracks:
            keys_seen = frozenset(Strings.matching(p, "") for p in patterns)
            everything = "additionalProperties" in schema
            seen = Seen(frozenset(schema.get("properties", ())), keys_seen, everything)
        found = replace(
            found,
            required=dict.fromkeys(schema.get("required", ())),
            low=count(schema, "minProperties", "") or 0,
            high=count(schema, "maxProperties", ""),
            clauses=frozenset(_clauses(schema)),
            seen=seen,
        )
        if "propertyNames" in schema:
            formula = self._inside(schema, "propertyNames", where)
            allowed = only(self.algebra.normal(formula).strings)
            return found.meet(allowed, self.formulas, self._work)
        return None if found.impossible() else found


def _clauses(schema: Schema) -> Iterator[Clause]:
    """Of dependentRequired and its older name: the first is absent, or the second present."""
    for keyword in ("dependentRequired", "dependencies"):
        for name, needed in schema.get(keyword, {}).items():
            if isinstance(needed, list):
                for other in needed:
                    if other != name:
                        yield frozenset([name]), frozenset([other])
