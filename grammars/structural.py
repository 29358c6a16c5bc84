"""Structural tags: free text in which a trigger leads to a grammar and back.

Two forms, as vLLM, SGLang and xgrammar read them.  `{"structures": [{"begin", "schema", "end"}],
"triggers": [...]}` is the older one; `{"format": {"type": ...}}` builds the text from formats:
https://github.com/mlc-ai/xgrammar/blob/main/docs/tutorials/structural_tag.md.  What cannot be
enforced is refused by its name.  An `end` is met where it first occurs.  A format of our own is
`{"type": "grammar_spec", "spec": {...}}`: a whole GrammarSpec, so that each part has its options.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec

from sgen.errors import GrammarError
from sgen.grammars.builder import Builder
from sgen.grammars.frames import Repeat
from sgen.grammars.json_text import MAX_COUNT, Schema, join, read, refuse
from sgen.grammars.tags import Mark, Tag, TaggedText
from sgen.protocol import GrammarSpec

Lower = Callable[[Builder, GrammarSpec], int]

Closers = tuple[Mark, ...]
"""What ends the text of a format; none: the format ends by itself."""

MAX_ITEMS = 1_024

_ABOUT_TOKENS = "the format {!r} is about tokens, and a grammar is about text"
REFUSED = {
    "exclude_token": _ABOUT_TOKENS,
    "any_tokens": _ABOUT_TOKENS,
    "qwen_xml_parameter": "the format {!r} is not supported",
}
"""Formats of xgrammar that are refused, and why."""

_TAG_OPTIONS = frozenset({"at_least_one", "stop_after_first"})


def lower_structural_tag(builder: Builder, spec: GrammarSpec, lower: Lower) -> int:
    """The node of the texts of a structural tag; `lower` does the grammars inside it.

    GrammarError names the format and the JSON pointer of what is malformed or not supported.
    """
    root = read(spec.source)
    formats = _Formats(builder, spec, lower)
    if isinstance(root, dict) and "structures" in root:
        return formats.structures(root)
    members = _members(root, "structural_tag", "", {"format"})
    return formats.lower(members["format"], "/format", ())


class _Formats:
    """Each format is lowered together with what ends it, since free text must know its end."""

    def __init__(self, builder: Builder, spec: GrammarSpec, lower: Lower) -> None:
        self._builder = builder
        self._spec = spec
        self._lower = lower
        self._specs: dict[tuple[GrammarSpec, str], int] = {}  # grammars by their places
        self._kinds: dict[str, Callable[[Any, str, Closers], int]] = {
            "const_string": self.const_string,
            "json_schema": self.json_schema,
            "grammar_spec": self.grammar_spec,
            "regex": self.source,
            "grammar": self.source,
            "lark": self.source,
            "token": self.token,
            "tag": self.whole_tag,
            "sequence": self.sequence,
            "or": self.any_of,
            "optional": self.repeated,
            "plus": self.repeated,
            "star": self.repeated,
            "repeat": self.repeated,
            "tags_with_separator": self.tags_with_separator,
            "any_text": self.any_text,
            "triggered_tags": self.triggered_tags,
            "token_triggered_tags": self.triggered_tags,
            "dispatch": self.dispatch,
            "token_dispatch": self.dispatch,
        }

    def lower(self, value: object, pointer: str, closers: Closers) -> int:
        """A format followed by one of `closers`."""
        self._builder.work.spend(1)
        kind = value.get("type") if isinstance(value, dict) else None
        if not isinstance(kind, str):
            refuse("a format is an object with a type", "type", pointer)
        place = join(pointer, "type")
        if kind in REFUSED:
            refuse(REFUSED[kind].format(kind), kind, place)
        if kind not in self._kinds:
            refuse(f"there is no format {kind[:80]!r}", "type", place,
                   f"formats: {', '.join(self._kinds)}")  # fmt: skip
        return self._kinds[kind](value, pointer, closers)

    def closed(self, node: int, closers: Closers) -> int:
        """A node that ends by itself, and one of the closers."""
        if not closers:
            return node
        ends = self._builder.alternatives([mark.lower(self._builder) for mark in closers])
        return self._builder.sequence([node, ends])

    def grammar(self, kind: str, source: str, pointer: str) -> int:
        """The node of a grammar inside, with the options of the whole."""
        return self.inner(msgspec.structs.replace(self._spec, kind=kind, source=source), pointer)

    def inner(self, spec: GrammarSpec, pointer: str) -> int:
        """The node of a grammar inside; what is refused or noted gets its place in the whole."""
        notes = self._builder.notes
        before = len(notes)
        try:
            node = self._lower(self._builder, spec)
            notes[before:] = [f"{pointer}{note}" for note in notes[before:]]
            return node
        except GrammarError as error:
            inner = error.pointer or ""
            message = error.message.removesuffix(f" at {inner or '/'}")
            raise GrammarError(
                message, keyword=error.keyword, pointer=pointer + inner, hint=error.hint
            ) from error

    def structures(self, root: Schema) -> int:
        """The older form: JSON by a schema in each tag."""
        fields = _members(root, "structural_tag", "", {"structures", "triggers"})
        tags = []
        for item, place in _items(fields, "structures", ""):
            entry = _members(item, "structures", place, {"begin", "schema", "end"})
            begin = _mark(entry["begin"], "begin", join(place, "begin"))
            end = Mark(_text(entry["end"], "end", join(place, "end")))
            schema = entry["schema"]
            source = schema if isinstance(schema, str) else json.dumps(schema)
            content = self.grammar("json_schema", source, join(place, "schema"))
            tags.append(Tag(begin, self.closed(content, (end,)), place))
        triggers = _marks(fields, "triggers", "")
        return TaggedText(tags=tags, triggers=triggers, pointer="").lower(self._builder)

    # What ends by itself.

    def const_string(self, value: Schema, pointer: str, closers: Closers) -> int:
        fields = _members(value, "const_string", pointer, {"value"})
        text = _text(fields["value"], "value", join(pointer, "value"))
        return self.closed(Mark(text).lower(self._builder), closers)

    def json_schema(self, value: Schema, pointer: str, closers: Closers) -> int:
        options = {"style", "any_order", "max_whitespace_cnt", "excludes"}
        fields = _members(value, "json_schema", pointer, {"json_schema"}, options)
        if fields.get("style", "json") != "json":
            refuse(f"the style {fields['style']!r} is not supported, only 'json'", "style",
                   join(pointer, "style"))  # fmt: skip
        for name in ("any_order", "max_whitespace_cnt", "excludes"):
            if fields.get(name) not in (None, False, []):
                refuse(f"{name} is not supported", name, join(pointer, name),
                       "order and white space are options of the whole grammar")  # fmt: skip
        source = json.dumps(fields["json_schema"])
        place = join(pointer, "json_schema")
        return self.closed(self.grammar("json_schema", source, place), closers)

    def grammar_spec(self, value: Schema, pointer: str, closers: Closers) -> int:
        """Any grammar with its own options; errors in it are told of `place`."""
        fields = _members(value, "grammar_spec", pointer, {"spec"}, {"place"})
        try:
            spec = msgspec.convert(fields["spec"], GrammarSpec)
        except msgspec.ValidationError as error:
            refuse(f"spec is no grammar: {error}", "spec", join(pointer, "spec"))
        if self._spec.unknown == "note":
            spec = msgspec.structs.replace(spec, unknown="note")
        if closers and spec.kind == "structural_tag":
            refuse(
                "free text of another grammar cannot know its end", "spec", join(pointer, "spec")
            )
        place = _text(fields.get("place", join(pointer, "spec")), "place", join(pointer, "place"))
        node = self._specs.get((spec, place))
        if node is None:
            node = self._specs[spec, place] = self.inner(spec, place)
        return self.closed(node, closers)

    def source(self, value: Schema, pointer: str, closers: Closers) -> int:
        kind: str = value["type"]
        name = "pattern" if kind == "regex" else "grammar"
        fields, place = _members(value, kind, pointer, {name}), join(pointer, name)
        text = _text(fields[name], name, place)
        front_end = "gbnf" if kind == "grammar" else kind
        return self.closed(self.grammar(front_end, text, place), closers)

    def token(self, value: Schema, pointer: str, closers: Closers) -> int:
        return self.closed(_mark(value, "token", pointer).lower(self._builder), closers)

    def whole_tag(self, value: Schema, pointer: str, closers: Closers) -> int:
        return self.closed(self._both(self.tag(value, pointer)), closers)

    def _both(self, tag: Tag) -> int:
        return self._builder.sequence([tag.begin.lower(self._builder), tag.body])

    def tag(self, value: object, pointer: str) -> Tag:
        fields = _members(value, "tag", pointer, {"begin", "content", "end"})
        begin, end = join(pointer, "begin"), fields["end"]
        places = [(end, join(pointer, "end"))]
        if isinstance(end, list):
            places = _items(fields, "end", pointer)
        ends = tuple(
            Mark("") if item == "" else _mark(item, "end", place) for item, place in places
        )
        body = self.body(fields["content"], join(pointer, "content"), ends)
        text = Mark("") if fields["begin"] == "" else _mark(fields["begin"], "begin", begin)
        return Tag(text, body, pointer)

    def body(self, content: object, pointer: str, ends: Closers) -> int:
        if not any(end.text for end in ends) and _is_open(content):
            refuse("free text without an end", "end", pointer, "give it a text that ends it")
        return self.lower(content, pointer, ends)

    # Formats of formats.

    def sequence(self, value: Schema, pointer: str, closers: Closers) -> int:
        fields = _members(value, "sequence", pointer, {"elements"})
        *before, (last, place) = _items(fields, "elements", pointer)
        nodes = [self.lower(item, p, ()) for item, p in before]
        return self._builder.sequence([*nodes, self.lower(last, place, closers)])

    def any_of(self, value: Schema, pointer: str, closers: Closers) -> int:
        fields = _members(value, "or", pointer, {"elements"})
        found = _items(fields, "elements", pointer)
        return self._builder.alternatives([self.lower(item, p, closers) for item, p in found])

    def repeated(self, value: Schema, pointer: str, closers: Closers) -> int:
        kind: str = value["type"]
        needed = {"content", "min", "max"} if kind == "repeat" else {"content"}
        fields = _members(value, kind, pointer, needed)
        low: int = _count(fields, "min", pointer, 0) if kind == "repeat" else int(kind == "plus")
        high: int | None = 1 if kind == "optional" else None
        if kind == "repeat" and fields["max"] != -1:
            high = _count(fields, "max", pointer, low)
        place = join(pointer, "content")
        if _is_open(fields["content"]):
            refuse("free text that is repeated", kind, place, "leave the repetition out")
        item = self.lower(fields["content"], place, ())
        return self.closed(self._builder.frame(Repeat(item, low, high)), closers)

    def tags_with_separator(self, value: Schema, pointer: str, closers: Closers) -> int:
        builder, name = self._builder, "tags_with_separator"
        fields = _members(value, name, pointer, {"tags", "separator"}, _TAG_OPTIONS)
        tags = [self.tag(item, place) for item, place in _items(fields, "tags", pointer)]
        found = builder.alternatives([self._both(tag) for tag in tags])
        text = _text(fields["separator"], "separator", join(pointer, "separator"))
        if not _flag(fields, "stop_after_first", pointer):
            more = builder.sequence([Mark(text).lower(builder), found])
            found = builder.sequence([found, builder.frame(Repeat(more, 0, None))])
        if not _flag(fields, "at_least_one", pointer):
            found = builder.frame(Repeat(found, 0, 1))
        return self.closed(found, closers)

    # Free text.

    def any_text(self, value: Schema, pointer: str, closers: Closers) -> int:
        options = {"excludes", "max_tokens", "max_chars"}
        fields = _members(value, "any_text", pointer, set(), options)
        for name in ("max_tokens", "max_chars"):
            if fields.get(name) is not None:
                refuse(f"{name} of free text is not supported", name, join(pointer, name),
                       r"take a regex such as [\s\S]{0,200}")  # fmt: skip
        text = TaggedText(
            excludes=_marks(fields, "excludes", pointer), closers=closers, pointer=pointer
        )
        return text.lower(self._builder)

    def triggered_tags(self, value: Schema, pointer: str, closers: Closers) -> int:
        kind: str = value["type"]
        token = kind == "token_triggered_tags"
        name = "trigger_tokens" if token else "triggers"
        options = _TAG_OPTIONS | {"exclude_tokens" if token else "excludes"}
        fields = _members(value, kind, pointer, {name, "tags"}, options)
        _no_excluded_tokens(fields, pointer)
        tags = [self.tag(item, place) for item, place in _items(fields, "tags", pointer)]
        text = TaggedText(
            tags=tags,
            triggers=_marks(fields, name, pointer, token=token),
            excludes=_marks(fields, "excludes", pointer),
            closers=closers,
            first=_flag(fields, "at_least_one", pointer),
            once=_flag(fields, "stop_after_first", pointer),
            pointer=pointer,
        )
        return text.lower(self._builder)

    def dispatch(self, value: Schema, pointer: str, closers: Closers) -> int:
        """Tags that are all trigger, and have no end."""
        kind: str = value["type"]
        token = kind == "token_dispatch"
        options = {"loop", "exclude_tokens" if token else "excludes"}
        fields = _members(value, kind, pointer, {"rules"}, options)
        _no_excluded_tokens(fields, pointer)
        tags = []
        for rule, place in _items(fields, "rules", pointer):
            if not isinstance(rule, list) or len(rule) != 2:
                refuse("a rule is a list of a text and a format", "rules", place)
            begin = Mark(_mark(rule[0], "rules", join(place, 0)).text, token)
            tags.append(Tag(begin, self.body(rule[1], join(place, 1), ()), place))
        text = TaggedText(
            tags=tags,
            triggers=tuple(dict.fromkeys(tag.begin for tag in tags)),
            excludes=_marks(fields, "excludes", pointer),
            closers=closers,
            once=not _flag(fields, "loop", pointer, default=True),
            pointer=pointer,
        )
        return text.lower(self._builder)


def _is_open(content: object) -> bool:
    """Whether a format ends in free text."""
    if not isinstance(content, dict):
        return False
    kind, elements = content.get("type"), content.get("elements")
    if kind in ("any_text", "dispatch", "token_dispatch"):
        return True
    if kind == "grammar_spec":
        spec = content.get("spec")
        return isinstance(spec, dict) and spec.get("kind") == "structural_tag"
    if kind in ("triggered_tags", "token_triggered_tags"):
        return not all(content.get(name) is True for name in _TAG_OPTIONS)
    if kind in ("optional", "plus", "star", "repeat"):
        return _is_open(content.get("content"))
    if isinstance(elements, list) and elements:
        if kind == "sequence":
            return _is_open(elements[-1])
        return kind == "or" and any(map(_is_open, elements))
    return False


def _members(
    value: object,
    kind: str,
    pointer: str,
    needed: set[str],
    optional: set[str] | frozenset[str] = frozenset(),
) -> Schema:
    """An object of this kind, all its members known."""
    if not isinstance(value, dict):
        refuse(f"{kind} must be an object", kind, pointer)
    if value.get("type", kind) != kind:
        refuse(f"the type must be {kind!r} here, not {value['type']!r}", "type",
               join(pointer, "type"))  # fmt: skip
    missing = sorted(needed - value.keys())
    if missing:
        refuse(f"{kind} needs {missing[0]!r}", missing[0], pointer)
    unknown = sorted(value.keys() - needed - optional - {"type"})
    if unknown:
        refuse(f"{kind} has no member {unknown[0]!r}", unknown[0], join(pointer, unknown[0]))
    return value


def _items(fields: Schema, name: str, pointer: str) -> list[tuple[Any, str]]:
    """The members of a list that is not empty, and their places."""
    place, found = join(pointer, name), fields[name]
    if not isinstance(found, list) or not 0 < len(found) <= MAX_ITEMS:
        refuse(f"{name} must be a list of 1 to {MAX_ITEMS:,} items", name, place)
    return [(item, join(place, i)) for i, item in enumerate(found)]


def _text(value: object, name: str, pointer: str) -> str:
    if not isinstance(value, str):
        refuse(f"{name} must be a text", name, pointer)
    return value


def _mark(value: object, name: str, pointer: str, *, token: bool = False) -> Mark:
    """A text, or a special token as `{"type": "token", "token": name}`."""
    if isinstance(value, dict):
        value, token = _members(value, "token", pointer, {"token"})["token"], True
        pointer = join(pointer, "token")
    if token and isinstance(value, int):
        refuse("a token is named by its text, not by its number", name, pointer)
    text = _text(value, name, pointer)
    if not text:
        refuse(f"{name} must not be empty", name, pointer)
    return Mark(text, token)


def _marks(fields: Schema, name: str, pointer: str, *, token: bool = False) -> tuple[Mark, ...]:
    if not fields.get(name):
        return ()
    marks = [_mark(item, name, place, token=token) for item, place in _items(fields, name, pointer)]
    return tuple(dict.fromkeys(marks))


def _flag(fields: Schema, name: str, pointer: str, *, default: bool = False) -> bool:
    value = fields.get(name, default)
    if not isinstance(value, bool):
        refuse(f"{name} must be true or false", name, join(pointer, name))
    return value


def _count(fields: Schema, name: str, pointer: str, least: int) -> int:
    value = fields[name]
    if type(value) is not int or not least <= value <= MAX_COUNT:
        refuse(f"{name} must be a whole number from {least} to {MAX_COUNT:,}", name,
               join(pointer, name))  # fmt: skip
    return value


def _no_excluded_tokens(fields: Schema, pointer: str) -> None:
    if fields.get("exclude_tokens"):
        refuse("exclude_tokens is not supported: a grammar is about text", "exclude_tokens",
               join(pointer, "exclude_tokens"))  # fmt: skip
