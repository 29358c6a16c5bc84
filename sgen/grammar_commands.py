"""`sgen grammar check | explain | test | convert`: everything about a grammar but a model."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sgen.errors import GrammarError
from sgen.grammar_files import (
    GrammarFile,
    context,
    line_and_column,
    place_of,
    read_grammar,
)
from sgen.grammars.builder import Builder
from sgen.grammars.compile import compile_grammar, lower_spec
from sgen.grammars.convert import Form, convert
from sgen.grammars.explain import read_as_far, refusals, shortest_text, ways_on
from sgen.grammars.grammar import Grammar
from sgen.grammars.masks import Masker
from sgen.grammars.outline import outline
from sgen.grammars.vocabulary import Vocabulary
from sgen.protocol import GrammarSpec

MAX_RULES = 60
"""Lines of rules that `explain` shows of grammars that are no schemas."""

Facts = dict[str, Any]


def check(
    names: Sequence[str],
    kind: str | None,
    options: Mapping[str, Any],
    model: str | None,
    *,
    as_json: bool,
) -> int:
    """Compile each file; the exit status is 1 if any is refused."""
    vocabulary = None if model is None else _vocabulary(model)
    results = []
    for name in names:
        facts = _checked(name, kind, options, model, vocabulary)
        results.append(facts)
        if not as_json:
            print("\n".join(_report(facts)))
    if as_json:
        print(json.dumps(results, ensure_ascii=False))
    return 0 if all(facts["ok"] for facts in results) else 1


def _vocabulary(model: str) -> Vocabulary:
    from sgen.runtime.hub import resolve_model
    from sgen.runtime.loader import load_tokenizer

    return load_tokenizer(resolve_model(model)).vocabulary


def _checked(
    name: str,
    kind: str | None,
    options: Mapping[str, Any],
    model: str | None,
    vocabulary: Vocabulary | None,
) -> Facts:
    facts: Facts = {"file": "stdin" if name == "-" else name, "ok": False}
    source = ""
    try:
        file = read_grammar(name, kind, options)
        source = file.spec.source
        facts["kind"] = file.spec.kind
        start = time.perf_counter()
        grammar = compile_grammar(file.spec)
        facts["compile_ms"] = round(1000 * (time.perf_counter() - start), 2)
        builder = _lowered(file.spec)
        facts["nodes"] = len(builder.nodes())
        facts["states"] = grammar.num_states
        facts["minimum_bytes"] = grammar.automaton.distance(grammar.start)
        if vocabulary is not None:
            facts["model"] = model
            facts["minimum_tokens"] = Masker(grammar, vocabulary).min_tokens
        facts["notes"] = builder.notes
        facts["ok"] = True
    except GrammarError as error:
        facts["error"] = _refusal(error, source)
    return facts


def _lowered(spec: GrammarSpec) -> Builder:
    builder = Builder()
    lower_spec(builder, spec)
    return builder


def _refusal(error: GrammarError, source: str) -> Facts:
    """An error with its place in the source."""
    facts: Facts = {"message": error.message, "keyword": error.keyword, "hint": error.hint}
    if error.pointer is not None:
        facts["pointer"] = error.pointer
    offset = place_of(error, source) if source else None
    if offset is not None:
        facts["line"], facts["column"] = line_and_column(source, offset)
        facts["context"] = context(source, offset)
    return facts


def _report(facts: Facts) -> Iterator[str]:
    if not facts["ok"]:
        yield f"{facts['file']}: refused"
        yield from _refusal_lines(facts["error"])
        return
    yield f"{facts['file']}: ok"
    yield f"  {facts['kind']}, {facts['nodes']:,} nodes, {facts['states']:,} states after compile"
    shortest = f"shortest text: {facts['minimum_bytes']:,} bytes"
    if "minimum_tokens" in facts:
        shortest += f", {facts['minimum_tokens']:,} tokens of {facts['model']}"
    yield f"  {shortest}"
    yield f"  compiled in {facts['compile_ms']:.2f} ms"
    for note in facts["notes"]:
        yield f"  note: {note}"


def _refusal_lines(error: Facts) -> Iterator[str]:
    yield f"  {error['message']}"
    place = f" (keyword {error['keyword']})" if error["keyword"] else ""
    if "line" in error:
        yield f"  line {error['line']}, column {error['column']}{place}:"
        yield from (f"    {line}" for line in error["context"])
    if error["hint"]:
        yield f"  hint: {error['hint']}"


def _refuse(file: GrammarFile, error: GrammarError, *, as_json: bool) -> int:
    """Instead of a result: why there is none; the exit status."""
    facts = _refusal(error, file.spec.source)
    if as_json:
        print(json.dumps({"error": facts}, ensure_ascii=False))
    else:
        print(f"{file.name}: refused", *_refusal_lines(facts), sep="\n", file=sys.stderr)
    return 1


def explain(name: str, kind: str | None, options: Mapping[str, Any], *, as_json: bool) -> int:
    """What a grammar means; the exit status is 1 if it is refused."""
    file = read_grammar(name, kind, options)
    spec = file.spec
    found = [_refusal(error, spec.source) for error in refusals(spec)]
    facts: Facts = {"file": file.name, "kind": spec.kind, "ok": not found, "refusals": found}
    facts["meaning"] = _meaning(spec, refused=bool(found))
    if not found:
        grammar = compile_grammar(spec)
        text, length = shortest_text(grammar)
        facts["shortest"] = text.decode(errors="replace")
        facts["minimum_bytes"] = length
        facts["begins_with"] = grammar.forced(grammar.start, 200).decode(errors="ignore")
        facts["first"] = ways_on(grammar, grammar.start)
        builder = _lowered(spec)
        kinds = Counter(type(node).__name__ for node in builder.nodes())
        facts["nodes"] = dict(kinds.most_common())
        facts["notes"] = builder.notes
    print(json.dumps(facts, ensure_ascii=False) if as_json else "\n".join(_explained(facts)))
    return 0 if not found else 1


def _meaning(spec: GrammarSpec, *, refused: bool) -> list[str]:
    if spec.kind == "json_schema":
        try:
            return outline(json.loads(spec.source))
        except (ValueError, RecursionError):
            return []
    if refused:
        return []
    try:
        lines = convert(spec, "gbnf").text.splitlines()
    except GrammarError as error:
        return [error.message]
    return lines if len(lines) <= MAX_RULES else [*lines[:MAX_RULES], "…"]


def _explained(facts: Facts) -> Iterator[str]:
    yield f"{facts['file']}: {facts['kind']}, {'ok' if facts['ok'] else 'refused'}"
    if facts["meaning"]:
        yield ""
        yield from (f"  {line}" for line in facts["meaning"])
    for error in facts["refusals"]:
        yield "\nrefused:"
        yield from _refusal_lines(error)
    if not facts["ok"]:
        return
    yield ""
    yield f"shortest text, {facts['minimum_bytes']:,} bytes: {facts['shortest']}"
    if facts["begins_with"]:
        yield f"always begins with: {facts['begins_with']}"
    else:
        yield f"begins with: {', '.join(facts['first'])}"
    yield f"nodes: {', '.join(f'{n:,} {kind}' for kind, n in facts['nodes'].items())}"
    yield from (f"note: {note}" for note in facts["notes"])


def test(
    name: str,
    kind: str | None,
    options: Mapping[str, Any],
    text: str,
    *,
    lines: bool,
    as_json: bool,
) -> int:
    """Whether a text, or each line of it, is one of the grammar; the exit status is 1 if not."""
    file = read_grammar(name, kind, options)
    try:
        grammar = compile_grammar(file.spec)
    except GrammarError as error:
        return _refuse(file, error, as_json=as_json)
    texts = text.splitlines() if lines else [text]
    results = [_tested(grammar, line) for line in texts]
    if as_json:
        print(json.dumps(results if lines else results[0], ensure_ascii=False))
    else:
        for number, (line, result) in enumerate(zip(texts, results, strict=True), 1):
            print("\n".join(_verdict(line, result, f"line {number}: " if lines else "")))
        if lines:
            print(f"{sum(r['accepted'] for r in results):,} of {len(results):,} lines accepted")
    return 0 if all(result["accepted"] for result in results) else 1


def _tested(grammar: Grammar, text: str) -> Facts:
    data = text.encode("utf-8", "surrogateescape")
    size, state = read_as_far(grammar, data)
    if size == len(data) and grammar.accepts(state):
        return {"accepted": True}
    character = len(data[:size].decode(errors="ignore"))
    return {
        "accepted": False,
        "complete": size < len(data),
        "byte": size,
        "character": character,
        "expected": ways_on(grammar, state),
    }


def _verdict(text: str, result: Facts, prefix: str) -> Iterator[str]:
    if result["accepted"]:
        yield f"{prefix}accepted"
        return
    line, column = line_and_column(text, result["character"])
    where = f"byte {result['byte']}, line {line}, column {column}"
    if prefix:
        where = f"byte {result['byte']}, column {column}"
    what = "rejected" if result["complete"] else "rejected: the text ends too soon"
    yield f"{prefix}{what} at {where}"
    yield from (f"  {shown}" for shown in context(text, result["character"]))
    yield f"  here could follow: {', '.join(result['expected'])}"


def write_as(
    name: str, kind: str | None, options: Mapping[str, Any], form: Form, *, as_json: bool
) -> int:
    """The grammar in another form, on stdout; notes on stderr."""
    file = read_grammar(name, kind, options)
    try:
        written = convert(file.spec, form)
    except GrammarError as error:
        return _refuse(file, error, as_json=as_json)
    if as_json:
        print(json.dumps({"text": written.text, "notes": written.notes}, ensure_ascii=False))
        return 0
    print(written.text.removesuffix("\n"))
    for note in written.notes:
        print(f"sgen: note: {note}", file=sys.stderr)
    return 0
