"""From a grammar's source to a `Grammar`."""

from __future__ import annotations

import json

from sgen.errors import GrammarError
from sgen.grammars import language
from sgen.grammars.builder import Builder
from sgen.grammars.gbnf import lower_gbnf
from sgen.grammars.grammar import Grammar
from sgen.grammars.json_schema import lower_schema
from sgen.grammars.lark_grammar import lower_lark
from sgen.grammars.plan import Plan
from sgen.grammars.structural import lower_structural_tag
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
    root = lower_spec(builder, spec)
    return Grammar(Plan.of(builder.nodes(), root), builder.notes)


def lower_spec(builder: Builder, spec: GrammarSpec) -> int:
    """The node of a spec in a builder, where it may be part of another grammar."""
    if spec.kind == "regex":
        return _regex(builder, spec.source)
    if spec.kind == "choices":
        return _choices(builder, spec.source)
    if spec.kind == "json_schema":
        return lower_schema(builder, spec.source, whitespace=spec.whitespace, order=spec.order,
                            unknown=spec.unknown)  # fmt: skip
    if spec.kind == "structural_tag":
        return lower_structural_tag(builder, spec, lower_spec)
    if spec.kind == "lark":
        return lower_lark(builder, spec.source)
    return lower_gbnf(builder, spec.source)


def _regex(builder: Builder, pattern: str) -> int:
    machine = language.automaton(language.of_pattern(pattern, search=False), "utf8", builder.work)
    return builder.never() if machine is None else builder.lexeme(("regex", pattern), machine)


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
