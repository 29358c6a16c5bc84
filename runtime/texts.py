"""Placeholders for texts of a request, so that no chat template sees, changes or believes one.

- Every string of a tool, a call or a result is a placeholder while a template runs, but for the
  words of JSON Schema, which templates look at.  Equal strings have equal placeholders.
- A placeholder that `tojson` wrote says so, and what is put in its place is escaped as often.
"""

from __future__ import annotations

import json
import re
from typing import Any

from sgen.errors import GrammarError, InvalidRequestError
from sgen.grammars import json_text

# Private-use characters that no template writes, and that have no case to change.
OPEN, CLOSE = "\ue0f0", "\ue0f1"
ESCAPED, VALUE, CALL, ID, REASONING = "\ue0f2", "\ue0f3", "\ue0f4", "\ue0f5", "\ue0f6"

PLACEHOLDER = re.compile(
    f"{OPEN}(?P<escapes>{ESCAPED}*)(?P<kind>[{VALUE}{CALL}{ID}{REASONING}]?)"
    f"(?P<number>[0-9]+){CLOSE}"
)

_MAX_DEPTH = 200
_MAX_SHOWN = 1 << 24  # characters put in the place of placeholders that a template repeats

# What templates compare or look up.  The set is fixed: none of it spells a special token.
_WORDS = frozenset([
    "type", "properties", "required", "items", "enum", "const", "description", "title", "default",
    "anyOf", "oneOf", "allOf", "not", "additionalProperties", "$defs", "definitions", "$ref",
    "format", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems",
    "uniqueItems", "prefixItems", "nullable", "examples", "parameters", "name", "function",
    "string", "number", "integer", "boolean", "array", "object", "null",
])  # fmt: skip


def escaped_placeholders(text: str) -> str:
    """The text, in which placeholders stand for what is escaped once more."""
    return text.replace(OPEN, OPEN + ESCAPED)


def escape(text: str, times: int) -> str:
    """What stands between the quotes of a JSON string."""
    for _ in range(times):
        text = json.dumps(text, ensure_ascii=False)[1:-1]
    return text


def check_unicode(text: str, where: str = "a text of the prompt") -> None:
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise InvalidRequestError(
            f"{where} is not valid Unicode: a lone surrogate at character {e.start}",
            param="prompt",
        ) from e


def read_object(source: str, where: str) -> dict[str, Any]:
    """The JSON object in a text; InvalidRequestError, which names the place, if it is none."""
    try:
        value = json_text.read(source, max_depth=_MAX_DEPTH)
    except GrammarError as e:
        reason = e.message.replace("the schema", "the text")
        raise InvalidRequestError(f"{where}: {reason}", param="prompt") from e
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{where} must be a JSON object", param="prompt")
    return value


class Texts:
    """The texts behind the placeholders of one prompt."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str] = {}
        self._texts: dict[str, list[str]] = {VALUE: [], CALL: [], ID: [], REASONING: []}
        self._shown = 0

    def hide(self, value: Any, where: str) -> Any:
        """A JSON value with placeholders for its strings; `where` names it in errors."""
        match value:
            case str():
                return self.placeholder(VALUE, value, where)
            case dict():
                return {self.hide(k, where): self.hide(v, where) for k, v in value.items()}
            case list():
                return [self.hide(v, where) for v in value]
        return value

    def placeholder(self, kind: str, text: str, where: str) -> str:
        """Of nine characters, since templates of Mistral want such ids.  An empty text and a
        JSON Schema's words stay what they are."""
        if not text or (kind == VALUE and text in _WORDS):
            return text
        key = (kind, text)
        if key not in self._known:
            check_unicode(text, where)
            self._known[key] = f"{OPEN}{kind}{len(self._texts[kind]):06}{CLOSE}"
            self._texts[kind].append(text)
        return self._known[key]

    def of(self, found: re.Match[str]) -> str:
        """The text for a placeholder that a template wrote.

        InvalidRequestError if the template repeats them beyond any prompt's length.
        """
        texts = self._texts[found["kind"]]
        number = int(found["number"])
        text = escape(texts[number], len(found["escapes"])) if number < len(texts) else ""
        self._shown += len(text)
        if self._shown > _MAX_SHOWN:
            raise InvalidRequestError(
                f"the tools of the prompt have more than {_MAX_SHOWN:,} characters as the model's"
                " chat template shows them",
                param="prompt",
            )
        return text
