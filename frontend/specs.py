"""What a generation must look like, and how its text becomes a value.

A `Spec` is made by `regex`, `json_schema`, `choices`, `grammar`, `structural_tag`, or from a
Python type by `outputs.spec_of`.  Making one checks what can be checked without a tokenizer; the
engine checks the rest before it generates anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from sgen.errors import ProgramError
from sgen.protocol import GrammarSpec

T = TypeVar("T")


def as_text(text: str) -> str:
    """The value of free text is the text."""
    return text


@dataclass(frozen=True, slots=True)
class Spec(Generic[T]):
    """A constraint with the way back from text to value.

    `decode` raises ValueError for a text that is no value.  `value` tells a reader without
    Python types what the value is: the text as it stands, or what it says as JSON.  `is_text`
    says that here, too, every value is its text.
    """

    grammar: GrammarSpec | None
    decode: Callable[[str], T]
    value: Literal["text", "json"]
    is_text: bool = False


FREE: Spec[str] = Spec(None, as_text, "text", is_text=True)
"""No constraint."""


def regex(pattern: str) -> Spec[str]:
    """Text that matches the pattern from its first to its last character."""
    _need_text(pattern, "regex")
    return Spec(GrammarSpec("regex", pattern), as_text, "text", is_text=True)


def json_schema(
    schema: Mapping[str, Any] | bool,
    *,
    whitespace: Literal["compact", "pretty", "any"] = "compact",
    order: Literal["schema", "relaxed", "any"] = "schema",
    unknown: Literal["refuse", "note"] = "refuse",
) -> Spec[Any]:
    """JSON that is valid by the schema; the value is the parsed JSON.  `GrammarSpec` says what
    the options mean."""
    if not isinstance(schema, (Mapping, bool)):
        raise ProgramError(f"a JSON Schema is a dict, not {type(schema).__name__}")
    for name, value, allowed in (
        ("whitespace", whitespace, ("compact", "pretty", "any")),
        ("order", order, ("schema", "relaxed", "any")),
        ("unknown", unknown, ("refuse", "note")),
    ):
        if value not in allowed:
            raise ProgramError(f"{name} is one of {', '.join(allowed)}, not {value!r}")
    source = _dump(schema, "the schema")
    spec = GrammarSpec("json_schema", source, whitespace=whitespace, order=order, unknown=unknown)
    return Spec(spec, json.loads, "json")


def structural_tag(tag: Mapping[str, Any]) -> Spec[str]:
    """Free text in which triggers switch to a grammar and back; the value is the whole text."""
    if not isinstance(tag, Mapping):
        raise ProgramError(f"a structural tag is a dict, not {type(tag).__name__}")
    source = _dump(tag, "the structural tag")
    return Spec(GrammarSpec("structural_tag", source), as_text, "text", is_text=True)


def choices(options: Sequence[str]) -> Spec[str]:
    """One of the texts.  Unlike `select`, the model samples its way to it token by token."""
    if isinstance(options, str):
        raise ProgramError("choices takes a list of texts, not one text")
    texts: list[Any] = list(options)
    if not texts or not all(isinstance(x, str) and x for x in texts):
        raise ProgramError("choices takes a list of texts, at least one and none empty")
    if len(set(texts)) < len(texts):
        raise ProgramError("two choices are the same text")
    return Spec(choices_grammar(texts), as_text, "text", is_text=True)


def grammar(source: str, *, syntax: Literal["lark", "gbnf"] = "lark") -> Spec[str]:
    """Text of a context-free grammar."""
    _need_text(source, "grammar")
    if syntax not in ("lark", "gbnf"):
        raise ProgramError(f"no grammar syntax {syntax!r}; there are 'lark' and 'gbnf'")
    return Spec(GrammarSpec(syntax, source), as_text, "text", is_text=True)


def choices_grammar(texts: Sequence[str]) -> GrammarSpec:
    """The grammar of exactly these texts."""
    return GrammarSpec("choices", json.dumps(list(texts), ensure_ascii=False))


def schema_grammar(schema: Mapping[str, Any]) -> GrammarSpec:
    """The grammar of a schema that was made here."""
    return GrammarSpec("json_schema", _dump(schema, "the type's schema"))


def _dump(value: Any, what: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ProgramError(f"{what} is not JSON: {error}") from error


def _need_text(source: object, what: str) -> None:
    if not isinstance(source, str) or not source:
        raise ProgramError(f"{what}() takes a text that is not empty")
