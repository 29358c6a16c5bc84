"""A JSON Schema document: its dialect, the schemas inside it that have names, and references.

Nothing is ever fetched: a reference leads to a place in the document, or is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urljoin

from sgen.errors import GrammarError
from sgen.grammars.json_forms import SCHEMA_LISTS, SCHEMA_MAPS, SUBSCHEMAS
from sgen.grammars.json_text import Schema, join, refuse

Where = tuple[Any, str | int] | None
"""A place in the document: what it is in, and the step from there; None: the root."""

_DRAFTS = {
    "json-schema.org/draft-04/schema": 4,
    "json-schema.org/draft-06/schema": 6,
    "json-schema.org/draft-07/schema": 7,
    "json-schema.org/draft/2019-09/schema": 2019,
    "json-schema.org/draft/2020-12/schema": 2020,
    "json-schema.org/schema": 2020,
}
LATEST = 2020


def pointer_of(where: Where) -> str:
    """The JSON pointer of a place."""
    steps = []
    while where is not None:
        where, step = where
        steps.append(step)
    return join("", *reversed(steps))


def placed(error: GrammarError, where: Where) -> GrammarError:
    """An error whose pointer, if it has one, begins at a place, said for the whole document."""
    return GrammarError(
        error.message.removesuffix(f" at {error.pointer or '/'}"),
        keyword=error.keyword,
        pointer=pointer_of(where) + (error.pointer or ""),
        hint=error.hint,
    )


def draft_of(uri: object) -> int | None:
    """The draft that `$schema` names; None if it is none of ours."""
    return _DRAFTS.get(uri.partition("://")[2].rstrip("#/")) if isinstance(uri, str) else None


@dataclass(slots=True)
class Resource:
    """A schema with a URI of its own, and the anchors in it."""

    uri: str
    schema: Any
    where: Where
    anchors: dict[str, tuple[Schema, Where]] = field(default_factory=dict)
    dynamic: set[str] = field(default_factory=set)
    """Those of `anchors` that are dynamic; "" for `$recursiveAnchor`."""


class Document:
    """References resolved within one document."""

    def __init__(self, root: Any, source: str) -> None:
        declared = draft_of(root.get("$schema")) if isinstance(root, dict) else None
        self.root = root
        self.declared = declared is not None
        self.draft = declared or LATEST
        # Draft 4 wrote `id`, and so do many schemas that do not say what they are.
        self._id_words = ("$id", "id") if declared in (None, 4) else ("$id",)
        self._resources: dict[str, Resource] = {}
        self._resource_of: dict[int, Resource] = {}
        self._known: dict[tuple[str, str], tuple[Any, Where]] = {}
        self._main = Resource(self._identifier(root) or "", root, None)
        self._indexed = False
        words = [f'"{word}"' for word in self._id_words]
        spelled = sum(map(source.count, words)) + source.count("\\u")  # which may spell one
        self._simple = spelled <= (self._main.uri != "")

    def _identifier(self, schema: Any) -> str | None:
        if not isinstance(schema, dict) or (self.draft <= 7 and "$ref" in schema):
            return None
        found = (schema[word] for word in self._id_words if isinstance(schema.get(word), str))
        return next(found, None)

    def resource_of(self, schema: Schema) -> Resource:
        """The resource that a schema is part of."""
        if self._simple:
            return self._main
        self._index()
        return self._resource_of.get(id(schema), self._main)

    def resolve(self, schema: Schema, where: Where, keyword: str = "$ref") -> tuple[Any, Where]:
        """What a reference in a schema stands for, and where that is."""
        resource = self.resource_of(schema)
        key = resource.uri, schema[keyword]
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._resolve(resource, key[1], keyword, where)
        return found

    def _resolve(
        self, resource: Resource, reference: str, keyword: str, where: Where
    ) -> tuple[Any, Where]:
        base, _, fragment = reference.partition("#")
        if base:
            resource = self._find(urljoin(resource.uri, base), reference, keyword, where)
        if not fragment:
            return resource.schema, resource.where
        if not fragment.startswith("/"):
            self._index()
            anchor = resource.anchors.get(unquote(fragment))
            if anchor is None:
                refuse(f"there is no anchor {fragment!r} in the schema", keyword,
                       join(pointer_of(where), keyword))  # fmt: skip
            return anchor
        found = _lookup(resource.schema, resource.where, fragment)
        if found is None and resource is not self._main:
            # Written as if the whole document were one resource, as many generators do.
            found = _lookup(self.root, None, fragment)
        if found is None:
            refuse(f"{keyword} to #{fragment}, which is not in the schema", keyword,
                   join(pointer_of(where), keyword))  # fmt: skip
        return found

    def _find(self, uri: str, reference: str, keyword: str, where: Where) -> Resource:
        if uri == self._main.uri.partition("#")[0]:
            return self._main
        self._index()
        found = self._resources.get(uri)
        if found is None:
            refuse(f"only references within the schema are supported, not {reference!r}", keyword,
                   join(pointer_of(where), keyword),
                   "copy the schema into $defs; nothing is ever fetched")  # fmt: skip
        return found

    def dynamic(self, schema: Schema, where: Where, keyword: str) -> tuple[Any, Where]:
        """The same for `$dynamicRef` and `$recursiveRef`, where these are plain references: no
        second schema has the anchor, so that no way through the document leads elsewhere."""
        found = self.resolve(schema, where, keyword)
        self._index()
        fragment = unquote(schema[keyword].partition("#")[2])
        name = "" if keyword == "$recursiveRef" else fragment
        target = self.resource_of(found[0]) if isinstance(found[0], dict) else self._main
        others = [r for r in self._all() if name in r.dynamic]
        if name in target.dynamic and len(others) > 1:
            refuse(f"{keyword} to one of {len(others)} dynamic anchors is not supported", keyword,
                   join(pointer_of(where), keyword), "use $ref")  # fmt: skip
        return found

    def _all(self) -> list[Resource]:
        return [self._main, *(r for r in self._resources.values() if r is not self._main)]

    def _index(self) -> None:
        """Find all resources and anchors, once."""
        if self._indexed:
            return
        self._indexed = True
        self._resources[self._main.uri.partition("#")[0]] = self._main
        stack: list[tuple[Any, Where, Resource]] = [(self.root, None, self._main)]
        while stack:
            schema, where, resource = stack.pop()
            if not isinstance(schema, dict):
                continue
            resource = self._enter(schema, where, resource)
            self._resource_of[id(schema)] = resource
            stack.extend((s, w, resource) for s, w in _subschemas(schema, where))

    def _enter(self, schema: Schema, where: Where, resource: Resource) -> Resource:
        """The resource that a schema is part of, which may begin with it; its anchors."""
        name = self._identifier(schema)
        if name is not None and where is not None:
            if name.startswith("#"):
                resource.anchors.setdefault(name[1:], (schema, where))
            else:
                uri = urljoin(resource.uri, name).partition("#")[0]
                resource = self._resources.setdefault(uri, Resource(uri, schema, where))
        for keyword in ("$anchor", "$dynamicAnchor"):
            anchor = schema.get(keyword)
            if isinstance(anchor, str):
                resource.anchors.setdefault(anchor, (schema, where))
                if keyword == "$dynamicAnchor":
                    resource.dynamic.add(anchor)
        if schema.get("$recursiveAnchor") is True and schema is resource.schema:
            resource.dynamic.add("")
        return resource


def _subschemas(schema: Schema, where: Where) -> Iterator[tuple[Any, Where]]:
    for keyword, value in schema.items():
        here = (where, keyword)
        if isinstance(value, dict):
            if keyword in SUBSCHEMAS:
                yield value, here
            elif keyword in SCHEMA_MAPS:
                for name, inner in value.items():
                    yield inner, (here, name)
        elif isinstance(value, list) and keyword in SCHEMA_LISTS:
            for i, inner in enumerate(value):
                yield inner, (here, i)


def _lookup(schema: Any, where: Where, fragment: str) -> tuple[Any, Where] | None:
    """What a JSON pointer leads to from a place; None if nothing is there."""
    if "%" in fragment:
        fragment = unquote(fragment)
    for step in fragment.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~") if "~" in step else step
        if isinstance(schema, dict) and name in schema:
            schema, where = schema[name], (where, name)
        elif isinstance(schema, list) and _is_index(name, len(schema)):
            schema, where = schema[int(name)], (where, int(name))
        else:
            return None
    return schema, where


def _is_index(step: str, size: int) -> bool:
    return step.isascii() and step.isdecimal() and len(step) < 10 and int(step) < size
