"""From a grammar's source to a `Grammar`."""

from __future__ import annotations

import hashlib
import json

from sgen.errors import GrammarError
from sgen.grammars.builder import Builder
from sgen.grammars.grammar import Grammar
from sgen.grammars.json_schema import lower_schema
from sgen.grammars.regex import automaton, whole
from sgen.grammars.regex_syntax import parse
from sgen.protocol import GrammarSpec

MAX_CHOICES = 4_096


def compile_grammar(spec: GrammarSpec) -> Grammar:
    """The automaton of exactly what `spec` says.

    GrammarError, with the keyword and the place, for whatever is malformed or cannot be enforced:
    nothing is ever left out.  Work and memory are bounded by those limits, and by `Work`.
    """
    try:
        return _compile(spec)
    except (RecursionError, OverflowError, UnicodeError) as error:
        raise GrammarError(
            f"the grammar cannot be compiled: {type(error).__name__}",
            keyword="size",
            hint="nest it less deeply, and use smaller numbers",
        ) from error


def _compile(spec: GrammarSpec) -> Grammar:
    builder = Builder()
    if spec.kind == "regex":
        root = _regex(builder, spec.source)
    elif spec.kind == "choices":
        root = _choices(builder, spec.source)
    elif spec.kind == "json_schema":
        root = lower_schema(builder, spec.source)
    else:
        raise GrammarError(
            f"{spec.kind} grammars are not supported yet",
            keyword=spec.kind,
            hint="use a regex, a JSON Schema or choices",
        )
    digest = hashlib.sha256(f"{spec.kind}\0{spec.source}".encode("utf-8", "surrogatepass"))
    return Grammar(builder.nodes(), root, digest.hexdigest())


def _regex(builder: Builder, pattern: str) -> int:
    machine = automaton(whole(parse(pattern)))
    return builder.never() if machine is None else builder.lexeme(pattern, machine)


def _choices(builder: Builder, source: str) -> int:
    try:
        choices = json.loads(source)
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"the choices are not JSON: {error}", keyword="choices") from None
    if not isinstance(choices, list) or not all(isinstance(c, str) for c in choices):
        raise GrammarError("choices must be a JSON list of strings", keyword="choices")
    if not choices or len(choices) > MAX_CHOICES:
        raise GrammarError(
            f"there must be between 1 and {MAX_CHOICES:,} choices, not {len(choices):,}",
            keyword="choices",
        )
    try:
        return builder.words(choice.encode() for choice in choices)
    except UnicodeEncodeError:
        raise GrammarError(
            "a choice holds half a surrogate pair, which no text can", keyword="choices"
        ) from None
