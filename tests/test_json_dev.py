"""Real-world schemas with instances, and the official test suite, where they are at hand."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from sgen.errors import GrammarError
from sgen.grammars.compile import compile_grammar
from sgen.protocol import GrammarSpec
from tests.schemas import text


def verdicts(path: Path, step: int, **options: Any) -> tuple[Counter[str], list[str]]:
    """How many schemas compile, and how many instances are judged rightly, of every `step`th
    schema; and the wrong ones."""
    found: Counter[str] = Counter()
    wrong = []
    for line in path.read_text().splitlines()[::step]:
        record = json.loads(line)
        found["schemas"] += 1
        spec = GrammarSpec("json_schema", json.dumps(record["schema"]), **options)
        try:
            grammar = compile_grammar(spec)
        except GrammarError:
            found["refused"] += 1
            continue
        for test in record["tests"]:
            accepted = grammar.matches(text(test["data"]))
            found["valid" if test["valid"] else "invalid"] += 1
            if accepted != test["valid"]:
                found["rejected" if test["valid"] else "accepted"] += 1
                wrong.append(f"{record['id']} {'accepts' if accepted else 'rejects'} {test}"[:200])
    return found, wrong


def test_real_schemas(shared: Path) -> None:
    """Nearly all compile, and nearly all that is valid is accepted; nothing invalid is."""
    path = shared / "grammar" / "jsonschema_dev.jsonl"
    found, wrong = verdicts(path, 2, unknown="note", order="relaxed")
    assert found["accepted"] == 0, wrong
    assert found["refused"] <= 0.03 * found["schemas"]
    assert found["rejected"] <= 0.015 * found["valid"], wrong
    assert found["valid"] > 250


def test_nothing_is_refused_less_strictly(shared: Path) -> None:
    """By default only schemas without unknown keywords compile; those are judged the same way."""
    path = shared / "grammar" / "jsonschema_dev.jsonl"
    found, wrong = verdicts(path, 3)
    assert found["accepted"] == 0, wrong
    assert found["schemas"] / 3 < found["refused"] < 2 * found["schemas"] / 3


def test_suite(shared: Path) -> None:
    """The JSON-Schema-Test-Suite: at most one test in 200 is judged wrongly."""
    found, wrong = verdicts(shared / "grammar" / "suite_dev.jsonl", 1, unknown="note")
    assert found["accepted"] == 0, wrong
    assert found["rejected"] <= 3, wrong
    assert found["valid"] + found["invalid"] > 0.8 * 676
