"""Which keywords of a schema demand something, and what becomes of those that no draft defines."""

from __future__ import annotations

from typing import Any, Literal

from sgen.errors import GrammarError
from sgen.grammars import formats
from sgen.grammars.json_document import Document, Where, placed, pointer_of
from sgen.grammars.json_forms import FORMAT, KIND_OF, REFERENCE, check_forms, meant
from sgen.grammars.json_numbers import FLOAT_FORMATS, INTEGER_FORMATS
from sgen.grammars.json_text import TYPES, Schema, join, refuse

Unknown = Literal["refuse", "note"]

STANDARD_FORMATS = frozenset({
    "date-time", "date", "time", "duration", "email", "idn-email", "hostname", "idn-hostname",
    "ipv4", "ipv6", "uri", "uri-reference", "iri", "iri-reference", "uuid", "uri-template",
    "json-pointer", "relative-json-pointer", "regex",
})  # fmt: skip
KNOWN_FORMATS = frozenset(formats.NAMES) | INTEGER_FORMATS.keys() | FLOAT_FORMATS
MAX_NOTES = 100

_EVERY_TYPE = frozenset(TYPES)


class Vocabulary:
    """The keywords of one document.

    `notes` are sentences about what stands in the schema without being enforced: what is no
    keyword of JSON Schema, and what the dialect that the schema declares says is an annotation.
    """

    def __init__(self, document: Document, unknown: Unknown) -> None:
        self.document = document
        self.notes: list[str] = []
        self._strict = unknown == "refuse"
        # From 2019-09 on the standard dialects define `format` to be an annotation.
        self.formats_hold = self._strict or not document.declared or document.draft <= 7
        self._scanned: dict[int, tuple[int, Schema]] = {}

    def scan(self, schema: Any, where: Where) -> tuple[int, Schema]:
        """The kinds of keywords in a schema, and the schema with only those that hold.

        GrammarError for unknown ones, if these are refused, and for malformed ones.
        """
        known = self._scanned.get(id(schema))
        if known is None:
            if not isinstance(schema, dict):
                refuse("a schema must be an object or a boolean", "schema", pointer_of(where))
            known = self._scanned[id(schema)] = self._scan(schema, where)
        return known

    def _scan(self, schema: Schema, where: Where) -> tuple[int, Schema]:
        if "$ref" in schema and self.document.draft <= 7:
            self._check_siblings(schema, where)
            schema = {"$ref": schema["$ref"]}
        kinds, left_out = 0, []
        for keyword, value in schema.items():
            kind = KIND_OF.get(keyword)
            if kind is None or (keyword == "required" and isinstance(value, bool)):
                self._unknown(keyword, where)
                left_out.append(keyword)
            elif kind == FORMAT and not self._holds(value, where):
                left_out.append(keyword)
            elif not self._strict and self._is_annotation(keyword):
                self._note(f"{keyword} demands nothing in this dialect", keyword, where)
                left_out.append(keyword)
            else:
                kinds |= kind
        if left_out:
            schema = {k: v for k, v in schema.items() if k not in left_out}
        try:
            check_forms(schema)
        except GrammarError as error:
            raise placed(error, where) from None
        if "$schema" in schema and where is None and not self.document.declared:
            self._dialect(schema["$schema"])
        return kinds, schema

    def _is_annotation(self, keyword: str) -> bool:
        """Whether a keyword that we would enforce is none in the dialect of the document."""
        if keyword == "dependencies":  # two others have taken its place
            return self.document.draft >= 2019
        if keyword == "contentEncoding":
            return not self.formats_hold
        return keyword == "discriminator"  # OpenAPI's

    def _unknown(self, keyword: str, where: Where) -> None:
        if keyword.startswith("x-"):
            return
        if keyword == "required":
            if self._strict:
                refuse("required must be a list of names", keyword,
                       join(pointer_of(where), keyword))  # fmt: skip
            self._note("required is no list of names and demands nothing", keyword, where)
            return
        if self._strict:
            refuse(f"the keyword {keyword!r} is not known", keyword,
                   join(pointer_of(where), keyword), meant(keyword))  # fmt: skip
        self._note(f"{keyword!r} is no keyword of JSON Schema and demands nothing", keyword, where)

    def _check_siblings(self, schema: Schema, where: Where) -> None:
        if not isinstance(schema["$ref"], str):
            refuse("$ref must be a string", "$ref", join(pointer_of(where), "$ref"))
        for keyword in schema:
            if keyword != "$ref" and KIND_OF.get(keyword) != 0:
                self._note(f"{keyword!r} beside $ref demands nothing in this draft", keyword, where)

    def _holds(self, name: object, where: Where) -> bool:
        """Whether a `format` is enforced."""
        if not isinstance(name, str):
            return True  # its form is checked with all others
        if not self.formats_hold:
            self._note("format is an annotation in this dialect", "format", where)
            return False
        if name in KNOWN_FORMATS:
            return True
        if self._strict or name in STANDARD_FORMATS:
            refuse(f"format {name!r} is not supported", "format",
                   join(pointer_of(where), "format"),
                   f"supported: {', '.join(sorted(KNOWN_FORMATS))}")  # fmt: skip
        self._note(f"{name!r} is no format of JSON Schema and demands nothing", "format", where)
        return False

    def _dialect(self, uri: object) -> None:
        if self._strict:
            refuse(f"the dialect {uri!r} is not supported", "$schema", "/$schema")
        self._note(f"the dialect {uri!r} is not known, and read as 2020-12", "$schema", None)

    def _note(self, text: str, keyword: str, where: Where) -> None:
        if len(self.notes) < MAX_NOTES:
            self.notes.append(f"{join(pointer_of(where), keyword)}: {text}")

    def types(self, schema: Schema, where: Where) -> frozenset[str]:
        """The JSON types that `type` allows; every number type includes integers."""
        found = schema.get("type")
        if found is None and "type" not in schema:
            return _EVERY_TYPE
        names = [found] if isinstance(found, str) else found
        if names == ["any"] and not self._strict:
            self._note("'any' is a type of draft 3 and demands nothing", "type", where)
            return _EVERY_TYPE
        if not isinstance(names, list) or not all(n in TYPES for n in names):
            refuse(f"type must be one or several of {', '.join(TYPES)}", "type",
                   join(pointer_of(where), "type"))  # fmt: skip
        return frozenset([*names, "integer"] if "number" in names else names)


def kinds_of(schema: Schema) -> int | None:
    """The kinds of keywords in a schema, if all are known and there is nothing to look into."""
    kinds = 0
    for keyword in schema:
        kind = KIND_OF.get(keyword)
        if kind is None:
            return None
        kinds |= kind
    return None if kinds & (FORMAT | REFERENCE) else kinds
