"""The sampler in C takes the tokens that its definition in numpy takes, whatever the row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sgen.errors import SgenError
from sgen.kernels import sampling as kernel
from sgen.protocol import SamplingParams
from sgen.runtime.sampling import Pick, Sampled, Sampler, sample

pytestmark = pytest.mark.skipif(kernel.library() is None, reason="there is no C compiler")

Floats = NDArray[np.float32]
Mask = NDArray[np.uint32] | None
SIZES = (1, 5, 31, 64, 65, 100, 1000, 1024, 5000)  # tails of words, blocks and chunks


def random_row(rng: np.random.Generator, size: int) -> Floats:
    """Of any spread; with ties, zeros of both signs, -inf, or something that is no logit."""
    x = (rng.standard_normal(size) * rng.uniform(0.01, 12)).astype(np.float32)
    match rng.integers(6):
        case 0:
            return np.round(x)
        case 1:
            x[rng.random(size) < 0.5] = -np.inf
        case 2:
            x = np.round(x, 1)
            x[rng.random(size) < 0.2] *= np.float32(-0.0)
        case 3:
            x *= np.float32(10.0) ** rng.integers(-5, 20)
        case 4 if rng.random() < 0.3:
            x[rng.integers(size)] = rng.choice([np.nan, np.inf])
    return x


def random_params(rng: np.random.Generator, size: int) -> SamplingParams:
    choices: dict[str, tuple[Any, ...]] = {
        "top_p": (1e-9, 0.1, 0.5, 0.9, 0.999, 1 - 1e-12, rng.uniform(0.01, 1)),
        "top_k": (1, 2, 40, size, size + 3, int(rng.integers(1, size + 1))),
        "min_p": (1.0, 0.5, 0.05, 1e-9, 1e-300),
        "repetition_penalty": (1.3, 0.5, 10.0, 1e-300, 1e-4),
        "frequency_penalty": (rng.uniform(-2, 2),),
        "presence_penalty": (rng.uniform(-2, 2),),
        "logit_bias": ({int(t): float(rng.uniform(-99, 99)) for t in rng.integers(0, size, 3)},),
        "logprobs": (2,),
    }
    given = {k: v[int(rng.integers(len(v)))] for k, v in choices.items() if rng.random() < 0.35}
    temperature = float(rng.choice([0.0, 1e-40, 0.1, 0.8, 1.0, 2.0, 30.0]))
    return SamplingParams(temperature=temperature, **given)


def random_mask(rng: np.random.Generator, size: int) -> Mask:
    """As wide as the row, or a word more or less; or none."""
    if rng.random() < 0.5:
        return None
    words = max(1, -(-size // 32) + int(rng.integers(-1, 2)))
    bits = rng.random(words * 32) < rng.choice([0.0, 0.01, 0.5, 0.99, 1.0])
    return np.packbits(bits, bitorder="little").view(np.uint32)


def outcome(result: Sampled | Exception) -> str:
    return str(result)


@pytest.mark.parametrize("seed", range(8))
@np.errstate(all="ignore")
def test_every_row_has_the_token_or_the_error_of_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kinds = set()
    for _ in range(150):
        size = int(rng.choice(SIZES))
        rows = np.stack([random_row(rng, size) for _ in range(3)])
        picks, wanted = [], []
        for i, row in enumerate(rows):
            prompt = rng.integers(0, size, 5).tolist()
            sampler = Sampler(random_params(rng, size), int(rng.integers(-(2**62), 2**62)), prompt)
            for token in rng.integers(0, size, rng.integers(0, 8)).tolist():
                sampler.accept(token)
            pick = Pick(i, sampler, int(rng.integers(10**6)), random_mask(rng, size))
            try:
                wanted.append(outcome(sampler.sample(row, pick.position, pick.allowed)))
            except SgenError as error:
                wanted.append(outcome(error))
            picks.append(pick)
        results = sample(torch.from_numpy(rows), picks)
        assert [outcome(r) for r in results] == wanted
        kinds |= {type(r) for r in results}
    assert kinds == {Sampled, SgenError}


@pytest.mark.parametrize("temperature", [0.3, 1.0, 20.0])
def test_large_rows_where_few_or_all_are_likely(temperature: float) -> None:
    """Each way of passing over the unlikely, at the size of a real vocabulary."""
    rows = np.random.default_rng(3).standard_normal((6, 50_001)).astype(np.float32) * 3
    rows[0] = 0.0
    given: list[dict[str, Any]] = [{}, {"top_p": 0.9}, {"top_k": 900}, {"top_k": 3, "top_p": 0.5},
                                   {"min_p": 0.01}, {"top_p": 0.9999}]  # fmt: skip
    for i, more in enumerate(given):
        sampler = Sampler(SamplingParams(temperature=temperature, **more), i, [])
        picks = [Pick(row, sampler, 7) for row in range(6)]
        assert sample(torch.from_numpy(rows), picks) == [sampler.sample(r, 7) for r in rows]


def test_sampling_leaves_the_logits_and_masks_as_they_are() -> None:
    logits = torch.randn((1, 300), generator=torch.Generator().manual_seed(1))
    mask = np.full(10, 0xFFFF0F0F, dtype=np.uint32)
    params = SamplingParams(temperature=1.0, repetition_penalty=2.0, logit_bias={3: 9.0})
    before, mask_before = logits.clone(), mask.copy()
    sample(logits, [Pick(0, Sampler(params, 0, [1, 2]), 0, mask)])
    assert torch.equal(logits, before)
    assert (mask == mask_before).all()


def test_rows_may_be_taken_in_any_order_and_more_than_once() -> None:
    logits = torch.eye(5) * 4
    picks = [Pick(row, Sampler(SamplingParams(), 0, []), 0) for row in (4, 0, 0, 2)]
    assert sample(logits, picks) == [Sampled(t) for t in (4, 0, 0, 2)]
    wide = torch.zeros((5, 10))
    wide[:, ::2] = logits
    assert sample(wide[:, ::2], picks) == [Sampled(t) for t in (4, 0, 0, 2)]
    assert sample(logits, []) == []
