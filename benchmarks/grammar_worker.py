"""One grammar engine in a process of its own, so that a hang or a crash of it costs one schema.

`python -m benchmarks.grammar_worker ENGINE TOKENIZER_FOLDER` reads a line of JSON for each task,
and writes a line of JSON for each result.  A task is {"record", "max_tokens"}; its result is what
the harness's own `run_one` measures.  A task of null asks for what the harness does not measure,
of the schema run last: {"forced", "tokens", "bytes"}.

- forced: of the tokens of the valid instances that the engine accepted, those that it would have
  drafted, each right in the place where it asked: `Matcher.forced()`, llguidance's
  `compute_ff_tokens()`; for xgrammar's `find_jump_forward_string()`, which is text, every token
  that lies wholly inside it.
- bytes: what the grammar holds in memory after its instances, by the engine's own counters; null
  for llguidance, which has none.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import warnings
from typing import Any

from benchmarks import grammar_data

ENGINES = {
    "sgen": "benchmarks.grammar_adapter:SgenEngine",
    "llguidance": "llguidance",
    "llguidance lenient": "llguidance-lenient",
    "xgrammar": "xgrammar",
}
MEMORY = 14 << 30  # bytes of address space, as in the harness


class Engine:
    """An engine of the harness, which keeps the matcher that it made last."""

    def __init__(self, name: str, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._engine = grammar_data.harness().get_engine(ENGINES[name])
        self._engine.init(tokenizer)
        self._last: Any = None
        self._run: tuple[dict[str, Any], int] = ({}, 0)

    def compile(self, schema: object) -> Any:
        self._last = None  # what the last schema took is freed before the next one needs memory
        self._last = self._engine.compile(schema)
        return self._last

    def run(self, record: dict[str, Any], max_tokens: int) -> dict[str, Any]:
        result: dict[str, Any] = grammar_data.harness().run_one(
            self, self.tokenizer, record, max_tokens
        )
        self._run = record, max_tokens
        return result

    def more(self) -> dict[str, Any]:
        record, max_tokens = self._run
        forced = total = 0
        for test in record["tests"] if self._last is not None else []:
            if test["valid"]:
                text = grammar_data.text(test["data"])
                tokens = self.tokenizer.encode(text, add_special_tokens=False)
                drafted = self._forced(tokens) if len(tokens) <= max_tokens else None
                if drafted is not None:
                    forced, total = forced + drafted, total + len(tokens)
        return {"forced": forced, "tokens": total, "bytes": self._bytes()}

    def _forced(self, tokens: list[int]) -> int | None:
        """How many of the tokens would have been drafted; None if they are not accepted."""
        matcher = self._last
        matcher.reset()
        at = forced = 0
        while at < len(tokens):
            drafted = self._drafted(matcher, tokens, at)
            forced += drafted
            for token in tokens[at : at + max(drafted, 1)]:
                if not matcher.accept(token):
                    return None
            at += max(drafted, 1)
        return forced if matcher.is_finished() else None

    def _drafted(self, matcher: Any, tokens: list[int], at: int) -> int:
        """How many of `tokens` from `at` on the engine is sure of."""
        if hasattr(matcher, "matcher"):  # ours
            sure = matcher.matcher.forced()
        elif hasattr(matcher.m, "compute_ff_tokens"):
            sure = matcher.m.compute_ff_tokens()
        else:
            return self._inside(matcher.m.find_jump_forward_string(), tokens, at)
        same = 0
        while same < len(sure) and tokens[at + same : at + same + 1] == [sure[same]]:
            same += 1
        return same

    def _inside(self, text: str, tokens: list[int], at: int) -> int:
        count = 0
        while at + count < len(tokens):
            if not text.startswith(self.tokenizer.decode(tokens[at : at + count + 1])):
                break
            count += 1
        return count

    def _bytes(self) -> int | None:
        matcher = self._last
        if hasattr(matcher, "masker"):
            return getattr(matcher.masker, "num_bytes", None)
        compiled = getattr(matcher, "c", None)
        return int(compiled.memory_size_bytes) if compiled is not None else None


def main() -> None:
    name, folder = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not come between the results
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    from transformers import AutoTokenizer

    engine = Engine(name, AutoTokenizer.from_pretrained(folder))
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        result = engine.more() if task is None else engine.run(**task)
        print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    main()
