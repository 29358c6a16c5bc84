"""Files of grammars: which kind they are, and where in them an error stands."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, get_args, get_type_hints

from sgen.errors import GrammarError
from sgen.protocol import GrammarSpec

KINDS: tuple[str, ...] = get_args(get_type_hints(GrammarSpec)["kind"])
SUFFIXES = {".json": "json_schema", ".lark": "lark", ".gbnf": "gbnf", ".ebnf": "gbnf",
            ".regex": "regex"}  # fmt: skip

MAX_BYTES = 16 << 20
MAX_COLUMNS = 100
"""Of a line that is shown."""

_SPACE = re.compile(r"[ \t\n\r]*")
_decoder = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class GrammarFile:
    name: str
    spec: GrammarSpec


def read_text(name: str) -> str:
    """A file, or stdin for `-`.  GrammarError if there is none, or it is no text."""
    shown = "stdin" if name == "-" else name
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise GrammarError(f"{shown} cannot be read: {reason}", keyword="file") from error
    if len(data) > MAX_BYTES:
        raise GrammarError(f"{shown} has more than {MAX_BYTES >> 20} MiB", keyword="file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise GrammarError(
            f"{shown} is not text: byte {error.start} is no UTF-8",
            keyword="file",
            hint="grammars and texts are UTF-8",
        ) from error


def read_grammar(name: str, kind: str | None, options: Mapping[str, Any]) -> GrammarFile:
    """The grammar in a file.  `kind`: else by the file's suffix, and JSON by what it holds."""
    source = read_text(name)
    shown = "stdin" if name == "-" else name
    if not source.strip("\r\n" if kind == "regex" else None):
        raise GrammarError(f"{shown} is empty", keyword="file")
    if "\0" in source:
        raise GrammarError(f"{shown} is not text: it holds a zero byte", keyword="file")
    if kind is None:
        kind = SUFFIXES.get(PurePath(name).suffix.lower())
        if kind is None:
            raise GrammarError(
                f"the kind of {shown} is not known",
                keyword="kind",
                hint=f"give --kind, one of {', '.join(KINDS)}; or name it "
                + ", ".join(f"*{suffix}" for suffix in SUFFIXES),
            )
        if kind == "json_schema":
            kind = _kind_of_json(source)
    if kind == "regex":
        source = source.removesuffix("\n").removesuffix("\r")
    spec = GrammarSpec(kind, source, **options)  # type: ignore[arg-type]
    return GrammarFile(shown, spec)


def _kind_of_json(source: str) -> str:
    try:
        value = json.loads(source)
    except (ValueError, RecursionError):
        return "json_schema"  # which says what is wrong with it
    if isinstance(value, list):
        return "choices"
    if isinstance(value, dict) and value.get("type") == "structural_tag":
        return "structural_tag"
    return "json_schema"


def place_of(error: GrammarError, source: str) -> int | None:
    """The offset in a source at which an error stands."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, json.JSONDecodeError) and cause.doc == source:
            return cause.pos
        cause = cause.__cause__ or cause.__context__
    if error.pointer is not None:
        return _find(source, error.pointer, error.keyword)
    return None if error.position is None else min(error.position, len(source))


def line_and_column(source: str, offset: int) -> tuple[int, int]:
    """Both from 1."""
    return source.count("\n", 0, offset) + 1, offset - source.rfind("\n", 0, offset)


def context(source: str, offset: int) -> list[str]:
    """The line of an offset and a caret under it; of a long line, what is around it."""
    start = source.rfind("\n", 0, offset) + 1
    end = source.find("\n", offset)
    line = source[start : end if end >= 0 else len(source)]
    column = offset - start
    before = after = ""
    if len(line) > MAX_COLUMNS:
        first = max(0, min(column - MAX_COLUMNS // 2, len(line) - MAX_COLUMNS))
        before, after = "…" * (first > 0), "…" * (first + MAX_COLUMNS < len(line))
        line, column = line[first : first + MAX_COLUMNS], column - first
    shown = "".join(c if c.isprintable() else "·" for c in line)
    return [before + shown + after, " " * (column + len(before)) + "^"]


def _find(source: str, pointer: str, keyword: str) -> int | None:
    """Where a JSON pointer leads: to the key of a member, or to an item; to the nearest of its
    parents where there is no such thing.  A keyword inside, if it is there, is nearer still."""
    try:
        at = here = _skip(source, 0)
        for step in pointer.split("/")[1:]:
            found = _child(source, here, step.replace("~1", "/").replace("~0", "~"))
            if found is None:
                return at
            at, here = found
        inside = _child(source, here, keyword) if source[here : here + 1] == "{" else None
        return at if inside is None else inside[0]
    except (ValueError, IndexError, RecursionError):
        return None


def _child(source: str, here: int, step: str) -> tuple[int, int] | None:
    """Where a member or an item begins, and where its value does."""
    is_object = source[here] == "{"
    if not is_object and source[here] != "[":
        return None
    index = 0
    here = _skip(source, here + 1)
    while source[here] not in "}]":
        at, name = here, str(index)
        if is_object:
            name, here = _decoder.raw_decode(source, here)
            here = _skip(source, _skip(source, here) + 1)
        if name == step:
            return at, here
        _, here = _decoder.raw_decode(source, here)
        here = _skip(source, here)
        if source[here] == ",":
            here = _skip(source, here + 1)
        index += 1
    return None


def _skip(source: str, here: int) -> int:
    match = _SPACE.match(source, here)
    assert match is not None, "no space matches too"
    return match.end()
