"""What a step costs beside the model: `python -m benchmarks.step [--steps N] [--profile]`.

The engine core runs on a model that, for some milliseconds, only copies logits that were prepared,
of SmolLM2's vocabulary; like the real one, it leaves Python's lock to others meanwhile.  1, 16 and
64 requests decode a token each in every step that is counted (those that end are replaced between
steps), with callbacks that do nothing.  Printed are the median microseconds of a step without its
model, in brackets what the fastest tenth stays below (which says more where other programs run),
and the same of the sampling in it.  Masks are hidden behind the model as behind a real one.
`--profile` prints where the stepping thread's time goes instead.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import statistics
import time
from itertools import count
from unittest.mock import patch

import numpy as np
import torch

from sgen.errors import EngineClosedError, SgenError
from sgen.grammars.compile import compile_grammar
from sgen.grammars.masks import Masker
from sgen.grammars.matcher import Matcher
from sgen.grammars.vocabulary import Vocabulary
from sgen.protocol import Chunk, GrammarSpec, SamplingParams
from sgen.runtime import engine
from sgen.runtime.batch import Batch, KVCache
from sgen.runtime.engine import EngineCore
from sgen.runtime.gguf import GGUFFile
from sgen.runtime.hub import resolve_model
from sgen.runtime.sampling import Pick, Sampled, sample
from sgen.runtime.tokenizer import tokenizer_from_gguf

ROWS = (1, 16, 64)
PROMPT = 120  # tokens
OUTPUT = 200
MODEL_SECONDS = 0.003

PEOPLE = {
    "type": "array",
    "minItems": 8,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}},
        },
        "required": ["name", "age", "tags"],
    },
}

KINDS = {
    "greedy": SamplingParams(max_tokens=OUTPUT, ignore_eos=True),
    "greedy, JSON grammar": SamplingParams(max_tokens=OUTPUT),
    "temperature 0.8, top_p 0.9": SamplingParams(
        max_tokens=OUTPUT, ignore_eos=True, temperature=0.8, top_p=0.9, seed=1
    ),
}


class _NoCache:
    num_pages = 0

    def copy_page(self, source: int, target: int) -> None:
        pass


class StillModel:
    """Copies logits that were there before, each step another of four sets."""

    context_length = 8192

    def __init__(self, vocab_size: int, rows: int) -> None:
        self.vocab_size = vocab_size
        self._sets = torch.randn((4, rows, vocab_size), generator=torch.Generator().manual_seed(0))
        self._sets *= 3
        self._logits = torch.empty((rows, vocab_size))
        self._turn = count()
        self.num_tokens = self.num_logits = 0  # of the last step
        self.seconds = 0.0

    def allocate(self, num_pages: int) -> KVCache:
        return _NoCache()

    def forward(self, batch: Batch, cache: KVCache) -> torch.Tensor:
        start, self.seconds = time.perf_counter(), 0.0
        self.num_tokens, self.num_logits = len(batch.tokens), len(batch.logit_rows)
        logits = self._sets[next(self._turn) % 4]
        while self.seconds < MODEL_SECONDS:
            self._logits.copy_(logits)
            self.seconds = time.perf_counter() - start
        return self._logits[: self.num_logits]


class Load:
    """`rows` requests of a kind, always."""

    def __init__(self, vocabulary: Vocabulary, kind: str, rows: int) -> None:
        self._rows = rows
        self._params = KINDS[kind]
        self._masker: Masker | None = None
        if "grammar" in kind:
            grammar = compile_grammar(GrammarSpec("json_schema", json.dumps(PEOPLE)))
            self._masker = Masker(grammar, vocabulary)
        self._model = StillModel(len(vocabulary), rows)
        self._core = EngineCore(self._model, vocabulary, rows * (PROMPT + OUTPUT) // 8)
        self._names = count()
        self._ended = rows
        self._sampling = 0.0

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *error: object) -> None:
        self._core.close()

    def run(self, steps: int) -> tuple[list[float], list[float]]:
        """Seconds of so many steps in which every row decodes, and of their sampling."""
        steps_seconds: list[float] = []
        sampling: list[float] = []
        while len(steps_seconds) < steps:
            self._refill()
            start = time.perf_counter()
            self._core.step()
            end = time.perf_counter()
            if self._model.num_tokens == self._model.num_logits == self._rows:
                steps_seconds.append(end - start - self._model.seconds)
                sampling.append(self._sampling)
        return steps_seconds, sampling

    def sample(self, logits: torch.Tensor, picks: list[Pick]) -> list[Sampled | Exception]:
        """Sampling as it is, but timed."""
        start = time.perf_counter()
        results = sample(logits, picks)
        self._sampling = time.perf_counter() - start
        return results

    def _refill(self) -> None:
        for _ in range(self._ended):
            name = next(self._names)
            self._core.submit(
                np.random.default_rng(name).integers(0, 40_000, PROMPT).tolist(),
                self._params,
                request_id=str(name),
                matcher=None if self._masker is None else Matcher(self._masker),
                on_chunk=self._on_chunk,
                on_error=self._on_error,
            )
        self._ended = 0

    def _on_chunk(self, chunk: Chunk) -> None:
        self._ended += chunk.finish_reason is not None

    def _on_error(self, error: SgenError) -> None:
        if not isinstance(error, EngineClosedError):
            raise error


def _summary(seconds: list[float]) -> str:
    tenth = statistics.quantiles(seconds, n=10)[0]
    return f"{statistics.median(seconds) * 1e6:.0f} ({tenth * 1e6:.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400, help="counted, of each load")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    with GGUFFile.open(resolve_model(None)) as file:
        vocabulary = tokenizer_from_gguf(file.metadata, 49_152, str(file.path)).vocabulary
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}\n")
    if not args.profile:
        print("| us per step | " + " | ".join(f"{n} rows | … sampling" for n in ROWS) + " |")
        print("| --- |" + " --- |" * (2 * len(ROWS)))
    for kind in KINDS:
        cells = []
        for rows in ROWS:
            load = Load(vocabulary, kind, rows)
            with load, patch.object(engine, "sample", load.sample):
                load.run(args.steps // 4)
                if args.profile:
                    print(f"{kind}, {rows} rows")
                    with cProfile.Profile() as profile:
                        load.run(args.steps)
                    pstats.Stats(profile).sort_stats("tottime").print_stats(25)
                    continue
                cells += [_summary(seconds) for seconds in load.run(args.steps)]
        if cells:
            print(f"| {kind} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
