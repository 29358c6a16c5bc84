"""Promise 2 on real weights: the same tokens, however they are computed.

On the torch path they are those that transformers would choose, in fp32 on the same dequantized
weights.  One pass over prompt and output shows that it would have chosen each token: given the
tokens before, its likeliest next is ours.  The native path quantizes activations, so its logits
are near those of the torch path, and no more is asked; that they are always the same bits is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sgen.protocol import Chunk, SamplingParams
from sgen.runtime.compute import Compute, KVCacheDtype
from sgen.runtime.engine import EngineCore
from sgen.runtime.loader import LoadedModel, load_model
from sgen.runtime.scheduler import Limits
from sgen.runtime.stats import EngineStats
from tests.batches import batch_of
from tests.prompts import prompts

# A few for every day, all of them in the long run.
QUICK, QUICK_TOKENS = (3, 9, 12), 24
TORCH = Compute("torch")


class Case:
    """A model, and prompts with how many tokens to generate."""

    def __init__(
        self, path: Path, chosen: Sequence[int], num_tokens: int, compute: Compute
    ) -> None:
        self.path = path
        self.loaded: LoadedModel = load_model(path, compute=compute)
        self.num_tokens = num_tokens
        self.prompts = [self.loaded.tokenizer.encode(prompts()[i]) for i in chosen]
        together, stats = self.run()
        self.together: list[list[int]] = together
        assert stats.counters.preemptions == 0

    def run(
        self,
        *,
        limits: Limits | None = None,
        pages: int = 1200,
        some: Sequence[int] | None = None,
        alone: Sequence[int] | None = None,
        rounds: int = 1,
    ) -> tuple[list[list[int]], EngineStats]:
        """Greedy outputs of all prompts or of `some` together, or of `alone` one after another;
        none of the other prompts."""
        core = EngineCore(
            self.loaded.model, self.loaded.tokenizer.vocabulary, pages, limits=limits, debug=True
        )
        params = SamplingParams(max_tokens=self.num_tokens, ignore_eos=True)
        outputs: list[list[int]] = [[] for _ in self.prompts]

        def submit(i: int, done: threading.Event) -> None:
            def on_chunk(chunk: Chunk) -> None:
                outputs[i].extend(chunk.token_ids)
                if chunk.finish_reason is not None:
                    done.set()

            core.submit(
                self.prompts[i],
                params,
                request_id=str(i),
                on_chunk=on_chunk,
                on_error=lambda error: pytest.fail(str(error)),
            )

        for _ in range(rounds):
            outputs[:] = [[] for _ in self.prompts]
            for group in [[i] for i in alone] if alone else [some or range(len(self.prompts))]:
                events = []
                for i in group:
                    events.append(threading.Event())
                    submit(i, events[-1])
                while not all(e.is_set() for e in events):
                    assert core.step()
        stats = core.stats()
        core.close()
        return outputs, stats


@pytest.fixture(
    scope="module",
    params=["quick", pytest.param("all", marks=pytest.mark.slow)],
)
def case(request: pytest.FixtureRequest, smollm2_path: Path) -> Iterator[Case]:
    if request.param == "quick":
        yield Case(smollm2_path, QUICK, QUICK_TOKENS, TORCH)
    else:
        yield Case(smollm2_path, range(20), 128, TORCH)


@pytest.fixture(scope="module")
def native_case(smollm2_path: Path) -> Case:
    if Compute().library() is None:
        pytest.skip("there is no native code on this machine")
    return Case(smollm2_path, range(20), 48, Compute("native"))


@pytest.fixture(scope="module")
def qwen_case(qwen_path: Path) -> Case:
    return Case(qwen_path, range(20), 128, TORCH)


def check_against_transformers(case: Case) -> None:
    """Every token is transformers' choice, and logits agree within 1e-3 of the largest."""
    import transformers

    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(
        case.path.parent, gguf_file=case.path.name, dtype=torch.float32
    )
    model = case.loaded.model
    for prompt, output in zip(case.prompts, case.together, strict=True):
        tokens = prompt + output
        with torch.inference_mode():
            want = theirs(torch.tensor([tokens])).logits[0]
        chosen = want[len(prompt) - 1 : -1].argmax(-1).tolist()
        assert output == chosen
        got = model.forward(batch_of([tokens]), model.allocate(-(-len(tokens) // 16)))
        error = (got - want).abs().max() / want.abs().max()
        assert error < 1e-3, f"{error:.1e} on a prompt of {len(prompt)} tokens"


def check_cache_chunks_and_preemption(case: Case, some: Sequence[int] | None = None) -> None:
    """`some` are the prompts for chunks of 7, which take long; default all."""
    hits, stats = case.run(rounds=2)
    assert hits == case.together, "after cache hits"
    assert stats.counters.cached_tokens > sum(len(p) - 16 for p in case.prompts)
    # `together` was prefilled in chunks of 512, which is the default.
    assert Limits().prefill_chunk == 512
    some = some or range(len(case.prompts))
    chunked, _ = case.run(limits=Limits(prefill_chunk=7), some=some)
    assert [chunked[i] for i in some] == [case.together[i] for i in some], "in chunks of 7"
    longest = max(len(p) for p in case.prompts) + case.num_tokens
    preempted, stats = case.run(pages=-(-longest // 16) + 8)
    assert stats.counters.preemptions > 0
    assert preempted == case.together, "after preemption"


def test_greedy_equals_transformers(case: Case) -> None:
    check_against_transformers(case)


def test_cache_chunks_and_preemption_change_nothing(case: Case) -> None:
    check_cache_chunks_and_preemption(case)


def test_alone_equals_together(case: Case) -> None:
    chosen = range(len(case.prompts)) if case.num_tokens > QUICK_TOKENS else [0, 1]
    alone, _ = case.run(alone=chosen)
    for i in chosen:
        assert alone[i] == case.together[i], f"prompt {i} alone"


def test_native_cache_chunks_and_preemption_change_nothing(native_case: Case) -> None:
    check_cache_chunks_and_preemption(native_case, some=(0, 4, 9, 13))
    chosen = (1, 6, 11, 14, 19)
    alone, _ = native_case.run(alone=chosen)
    assert [alone[i] for i in chosen] == [native_case.together[i] for i in chosen]


@pytest.mark.parametrize("kind", ["int8", "fp32"])
def test_native_threads_change_nothing(
    kind: KVCacheDtype, native_case: Case, smollm2_path: Path
) -> None:
    """Keys and values of the kinds that `native_case` has not: alone on one thread, with others
    on three."""
    one, three = (
        Case(smollm2_path, QUICK, QUICK_TOKENS, Compute("native", threads, kind))
        for threads in (1, 3)
    )
    alone, _ = one.run(alone=range(len(QUICK)))
    assert alone == three.together
    batch = batch_of([p + o for p, o in zip(three.prompts, three.together, strict=True)])
    logits = [
        model.forward(batch, model.allocate(int(batch.page_table.max()) + 1))
        for model in (one.loaded.model, three.loaded.model)
    ]
    assert torch.equal(*logits)


def test_native_is_near_the_reference(native_case: Case, smollm2_path: Path) -> None:
    """Perplexity within 0.5 % and the same likeliest token nearly everywhere, on each prompt's
    text; what is lost is the rounding of activations to 8 bits."""
    reference, native = load_model(smollm2_path, compute=TORCH).model, native_case.loaded.model
    losses, agree, total = [0.0, 0.0], 0, 0
    for prompt in native_case.prompts:
        tokens = prompt[:256]
        targets = torch.tensor(tokens[1:])[:, None]
        likeliest = []
        for i, model in enumerate((reference, native)):
            logits = model.forward(batch_of([tokens]), model.allocate(16)).clone()
            losses[i] -= float(logits.log_softmax(-1)[:-1].gather(1, targets).sum())
            likeliest.append(logits.argmax(-1))
        agree += int((likeliest[0] == likeliest[1]).sum())
        total += len(tokens)
    assert abs(losses[1] - losses[0]) / total < 0.005
    assert agree / total > 0.97


@pytest.mark.slow
def test_qwen_equals_transformers(qwen_case: Case) -> None:
    check_against_transformers(qwen_case)


@pytest.mark.slow
def test_qwen_cache_chunks_and_preemption_change_nothing(qwen_case: Case) -> None:
    check_cache_chunks_and_preemption(qwen_case)
    alone, _ = qwen_case.run(alone=range(20))
    assert alone == qwen_case.together
