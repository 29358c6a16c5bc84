"""The grammar benchmark's own arithmetic, and that the harness can run our engine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from benchmarks import grammar, grammar_data, grammar_runs, grammar_triage
from benchmarks.grammar_adapter import SgenEngine
from sgen.errors import GrammarError

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
END = "<|endoftext|>"


class BPE:
    """What the adapter and the harness ask of a transformers tokenizer; no merges, but for `ab`."""

    def __init__(self) -> None:
        ids = {name: i for i, name in enumerate([*ALPHABET, "ab"])}
        inner = tokenizers.Tokenizer(models.BPE(ids, [("a", "b")]))
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        inner.add_special_tokens([END])
        self.backend_tokenizer = inner
        self.eos_token_id = inner.token_to_id(END)

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size()

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        ids: list[int] = self.backend_tokenizer.encode(text).ids
        return ids


@pytest.fixture(scope="module")
def engine() -> SgenEngine:
    engine = SgenEngine()
    engine.init(BPE())
    return engine


def test_the_adapter_reads_a_text(engine: SgenEngine) -> None:
    tokens = BPE().encode('{"ab":1}', False)
    schema = {"type": "object", "properties": {"ab": {"const": 1}}, "required": ["ab"]}
    matcher = engine.compile({**schema, "additionalProperties": False})
    for _ in range(2):
        for token in tokens:
            mask = matcher.fill_mask()
            assert mask.shape == ((len(BPE()) + 31) // 32,)
            assert mask[token >> 5] >> (token & 31) & 1
            assert not matcher.is_finished()
            assert not matcher.accept(BPE().eos_token_id)
            assert matcher.accept(token)
        assert matcher.is_finished()
        matcher.reset()
    assert not matcher.accept(tokens[-1]), "the text begins anew"


def test_the_adapter_takes_boolean_schemas_and_refuses(engine: SgenEngine) -> None:
    assert engine.compile(True).accept(BPE().encode("1", False)[0])
    with pytest.raises(GrammarError):
        engine.compile(False)
    with pytest.raises(GrammarError):
        engine.compile({"type": "nothing of the kind"})


def record(name: str, schema: Any, *tests: tuple[Any, bool]) -> grammar_data.Record:
    instances = [{"data": data, "valid": valid, "src": "here"} for data, valid in tests]
    return {"id": name, "subset": "here", "schema": schema, "tests": instances}


RECORDS = [
    record("right", {"type": "integer"}, (1, True), ("x", False)),
    record("refused", {"$ref": "https://example.org/schema"}, (1, True)),
    record("too strict", {"const": "aé"}, ("aé", True), ("ab", True)),  # the data lies
    record("too lax", {"type": "string"}, ("ab", False)),  # here too
]


def test_the_harness_runs_the_adapter(shared: Path, engine: SgenEngine) -> None:
    harness = grammar_data.harness()
    results = [harness.run_one(engine, BPE(), r, 1500) for r in RECORDS]
    assert [[t["acc"] for t in r["tests"]] for r in results] == [
        [True, False], [], [True, False], [True]
    ]  # fmt: skip
    assert "GrammarError" in results[1]["compile_error"]
    assert len(results[2]["fills"]) == len(BPE().encode('"aé"', False)) + 2
    assert len(grammar.first_fills(results[2])) == len(BPE().encode('"aé"', False))
    for result in results:
        result["more"] = {"forced": 1, "tokens": 4, "bytes": 2_000_000}
    column = grammar.column(results, {"right"})
    assert column["compiled"] == "75.0 %"
    assert column["schemas all-correct"] == "25.0 %"
    assert column["valid instances accepted"] == "66.7 %"
    assert column["forced tokens, share of output"] == "25.0 %"
    assert column["MB per grammar p95"] == "2.00"
    assert grammar.suite(results, RECORDS) == "50.0 % / 33.3 % / 16.7 %"


def test_triage_names_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    found = grammar_triage.triage(RECORDS, None)
    assert (found.schemas, found.right, found.unread) == (4, 1, 1)
    assert found.verdicts == {(True, True): 2, (True, False): 1, (False, False): 1,
                              (False, True): 1}  # fmt: skip
    grammar_triage.report(found, None, ids=4, lines=40)
    printed = capsys.readouterr().out
    assert "4 schemas: 3 compiled (75.0%), all-correct 1 (25.0%)" in printed
    assert "too strict [1] VALID REJECTED at 2" in printed
    assert "too lax [0] INVALID ACCEPTED" in printed
    assert "— refused" in printed


def test_triage_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def forever(*_: object) -> None:
        while True:
            pass

    monkeypatch.setattr(grammar_triage, "SECONDS", 0.05)
    monkeypatch.setattr(grammar_triage, "_one", forever)
    found = grammar_triage.triage(RECORDS[:1], None)
    (reason,) = found.refused
    assert re.fullmatch(r"! TimeoutError in \w+\.py:\d+: not done after N s", reason)


def test_medians_of_repeated_runs() -> None:
    runs: list[grammar_runs.Result] = [
        {"compile_us": us, "fills": [us, 1.0], "accs": [us], "tests": []} for us in (5.0, 1.0, 3.0)
    ]
    assert grammar_runs.median(runs) == {
        "compile_us": 3.0, "fills": [3.0, 1.0], "accs": [3.0], "tests": []
    }  # fmt: skip
    fatal: grammar_runs.Result = {"fatal": "timeout", "tests": []}
    assert grammar_runs.median([runs[0], fatal]) == fatal


class Script:
    """A worker that answers as it is told."""

    def __init__(self, *answers: dict[str, Any] | str) -> None:
        self.answers = list(answers)
        self.asked: list[Any] = []

    def ask(self, task: object) -> grammar_runs.Result:
        self.asked.append(task)
        answer = self.answers.pop(0)
        if isinstance(answer, str):
            raise grammar_runs.StoppedError(answer)
        return answer


def test_engines_take_turns_and_one_that_hangs_is_not_asked_again() -> None:
    done = {"compile_us": 1.0, "fills": [], "accs": [], "tests": []}
    more = {"forced": 0, "tokens": 0, "bytes": None}
    good = Script(*[dict(done) if i % 2 == 0 else dict(more) for i in range(8)])
    hangs = Script("timeout")
    results = grammar_runs.run(
        {"good": good, "hangs": hangs},
        {"good": RECORDS[:2], "hangs": RECORDS[:1]},
        repeat=2,
    )
    assert len(good.asked) == 8
    assert len(hangs.asked) == 1
    assert [r["fatal"] for r in results["hangs"]] == ["timeout"]
    assert [r["more"] for r in results["good"]] == [more, more]


def test_the_table_says_what_is_not_installed() -> None:
    printed = grammar.table([goal for goal, _ in grammar.ROWS.values()], {"sgen": {}, "other": {}})
    lines = printed.splitlines()
    assert len(lines) == 2 + len(grammar.ROWS)
    assert lines[3] == "| compiled | 97 % | not installed | not installed |"


def test_without_the_data_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_data, "FOLDER", tmp_path)
    monkeypatch.setattr("sys.argv", ["grammar"])
    with pytest.raises(SystemExit, match="is not there"):
        grammar.main()


def test_texts_are_those_of_the_harness() -> None:
    assert grammar_data.text({"é": [1.0, None]}) == '{"é":[1.0,null]}'
    assert json.loads(grammar_data.text("\u2028")) == "\u2028"
