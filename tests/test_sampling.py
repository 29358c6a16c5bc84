"""Sampling: every feature against its definition, the draw against the exact distribution."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sgen.errors import SgenError
from sgen.kernels import sampling as kernel
from sgen.protocol import SamplingParams
from sgen.runtime.sampling import (
    Pick,
    Sampled,
    Sampler,
    allowed_ids,
    gumbel_noise,
    natural_log,
    noise_bits,
    noise_key,
    sample,
    weights_of,
)

FIVE = np.log(np.array([0.4, 0.3, 0.15, 0.1, 0.05])).astype(np.float32)


def bitset(ids: list[int], vocab_size: int) -> NDArray[np.uint32]:
    bits = np.zeros(-(-vocab_size // 32) * 32, dtype=np.uint8)
    bits[ids] = 1
    return np.packbits(bits, bitorder="little").view(np.uint32)


def draw(
    logits: NDArray[np.float32],
    params: SamplingParams,
    count: int,
    allowed: NDArray[np.uint32] | None = None,
) -> NDArray[np.int64]:
    """How often each token is drawn, over `count` positions."""
    sampler = Sampler(params, params.seed or 0, [])
    tokens = [sampler.sample(logits, p, allowed).token for p in range(count)]
    return np.bincount(tokens, minlength=len(logits))


def assert_distribution(counts: NDArray[np.int64], p: NDArray[np.float64]) -> None:
    """Chi-square: what cannot occur does not, the rest within five standard deviations."""
    assert counts[p == 0].sum() == 0
    expected = counts.sum() * p[p > 0]
    chi2 = float(((counts[p > 0] - expected) ** 2 / expected).sum())
    freedom = int((p > 0).sum()) - 1
    assert chi2 < freedom + 5 * math.sqrt(2 * freedom), f"chi2 {chi2} with {freedom} degrees"


def softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    e = np.exp(x - x.max())
    return e / e.sum()


# -- noise ---------------------------------------------------------------------------------


def test_noise_integers_are_what_the_document_says() -> None:
    """Written out in plain Python integers, so that kernels have a second witness."""

    def fmix32(x: int) -> int:
        x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
        x = (x ^ (x >> 13)) * 0xC2B2AE35 % 2**32
        return x ^ (x >> 16)

    def mix64(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    golden = 0x9E3779B97F4A7C15
    assert mix64(golden) == 0xE220A8397B1DCDAF  # SplitMix64's first output for seed 0
    for seed, position in ((0, 0), (-5, 7), (2**64 - 1, 10**6)):
        base = mix64((seed + golden) % 2**64)
        key = mix64((base + (position + 1) * golden) % 2**64)
        assert noise_key(seed, position) == key
        tokens = np.array([0, 1, 2, 49151, 151935])
        want = [fmix32((fmix32(int(t) ^ (key % 2**32)) + (key >> 32)) % 2**32) for t in tokens]
        assert noise_bits(key, tokens).tolist() == want


def test_noise_is_standard_gumbel_and_uncorrelated() -> None:
    tokens = np.arange(20_000)
    rows = np.stack(
        [
            gumbel_noise(noise_bits(noise_key(seed, p), tokens))
            for seed in range(4)
            for p in range(4)
        ]
    )
    assert abs(rows.mean() - 0.57722) < 0.01
    assert abs(rows.var() - math.pi**2 / 6) < 0.02
    correlation = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(correlation).max() < 0.05
    shifted = [np.corrcoef(r[:-1], r[1:])[0, 1] for r in rows]  # neighbouring tokens
    assert np.abs(shifted).max() < 0.05
    u = np.sort(np.exp(-np.exp(-rows.ravel())))
    distance = np.abs(u - (np.arange(len(u)) + 0.5) / len(u)).max()
    assert distance < 1.95 / math.sqrt(len(u))  # Kolmogorov-Smirnov, 0.1 %


def test_noise_is_bounded_as_the_pruning_supposes() -> None:
    low, high = gumbel_noise(np.array([0, 2**32 - 1], dtype=np.uint32))
    assert -3.14 < low < high < 22.9


def test_logarithm_and_weights_are_near_the_true_ones() -> None:
    """Each to what its definition says; the sum of weights is exact, whatever the order."""
    y = np.concatenate([np.logspace(-12, 3, 5000), 1.0 - np.logspace(-10, -1, 500)])
    error = np.abs(natural_log(y) - np.log(y))
    assert (error <= 1e-15 * np.maximum(1.0, np.abs(np.log(y)))).all()
    z = -np.linspace(0, 40, 10_000).astype(np.float32)
    weights = weights_of(z)
    # 1e-7 of the weight for the series in fp32, and half of the last place kept
    assert (np.abs(weights - np.exp(z.astype(np.float64))) <= 4e-7 * weights + 2.0**-35).all()
    assert weights[0] == 1.0
    assert weights_of(np.array([-np.inf], dtype=np.float32)).tolist() == [0.0]
    orders = [np.random.default_rng(i).permutation(weights) for i in range(5)]
    assert len({float(np.cumsum(order)[-1]) for order in orders}) == 1


def test_penalties_that_leave_the_numbers_are_an_error() -> None:
    params = SamplingParams(repetition_penalty=1e-300)
    logits = torch.tensor([[3e38, 1.0, 0.0]])
    (result,) = sample(logits, [Pick(0, Sampler(params, 0, [0]), 3)])
    assert isinstance(result, SgenError)
    assert "repetition_penalty" in (result.hint or "")
    with pytest.raises(SgenError, match="penalties"):
        Sampler(params, 0, [0]).sample(logits[0].numpy(), 3)


def test_rows_of_minus_infinity_have_no_token() -> None:
    logits = torch.full((1, 50), -math.inf)
    (result,) = sample(logits, [Pick(0, Sampler(SamplingParams(), 0, []), 3)])
    assert isinstance(result, SgenError)
    with pytest.raises(SgenError, match="no token"):
        Sampler(SamplingParams(), 0, []).sample(logits[0].numpy(), 3)


# -- the draw ------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_draws_follow_the_softmax(temperature: float) -> None:
    logits = np.random.default_rng(1).standard_normal(40).astype(np.float32) * 2
    counts = draw(logits, SamplingParams(temperature=temperature, seed=3), 8000)
    assert_distribution(counts, softmax(logits.astype(np.float64) / temperature))


def test_draws_over_seeds_follow_the_softmax_too() -> None:
    logits = np.random.default_rng(2).standard_normal(10).astype(np.float32)
    params = SamplingParams(temperature=1.0)
    tokens = [Sampler(params, seed, []).sample(logits, 5).token for seed in range(8000)]
    assert_distribution(np.bincount(tokens, minlength=10), softmax(logits.astype(np.float64)))


def test_a_full_draw_equals_the_plain_argmax_over_all_tokens() -> None:
    """The pruning of hopeless candidates changes nothing."""
    rng = np.random.default_rng(4)
    for position in range(200):
        logits = (rng.standard_normal(5000) * rng.uniform(0.1, 8)).astype(np.float32)
        temperature = float(rng.uniform(0.2, 2))
        sampler = Sampler(SamplingParams(temperature=temperature), 11, [])
        z = (logits - logits.max()) / np.float32(temperature)
        noisy = z + gumbel_noise(noise_bits(noise_key(11, position), np.arange(5000)))
        assert sampler.sample(logits, position).token == int(noisy.argmax())


def test_top_k_renormalises_and_keeps_equals_together() -> None:
    counts = draw(FIVE, SamplingParams(temperature=1.0, top_k=3, seed=1), 8000)
    assert_distribution(counts, np.array([0.4, 0.3, 0.15, 0, 0]) / 0.85)
    tied = np.array([1.0, 2.0, 1.0, 1.0, 0.0], dtype=np.float32)
    counts = draw(tied, SamplingParams(temperature=1.0, top_k=2, seed=1), 4000)
    assert_distribution(counts, softmax(np.array([1.0, 2.0, 1.0, 1.0, -np.inf])))
    counts = draw(FIVE, SamplingParams(temperature=1.0, top_k=99, seed=1), 4000)
    assert_distribution(counts, np.exp(FIVE.astype(np.float64)))


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.01, 1), (0.39, 1), (0.41, 2), (0.69, 2), (0.71, 3), (0.94, 4), (0.96, 5)]
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(top_p: float, kept: int) -> None:
    order = np.array([3, 0, 4, 1, 2])  # not sorted by id
    logits = np.empty(5, dtype=np.float32)
    logits[order] = FIVE
    counts = draw(logits, SamplingParams(temperature=1.0, top_p=top_p, seed=2), 4000)
    p = np.zeros(5)
    p[order[:kept]] = np.exp(FIVE[:kept])
    if kept == 1:
        assert counts[order[0]] == 4000
    else:
        assert_distribution(counts, p / p.sum())


def test_top_p_takes_lower_ids_first_among_equals() -> None:
    logits = np.zeros(8, dtype=np.float32)
    counts = draw(logits, SamplingParams(temperature=1.0, top_p=0.4, seed=2), 1000)
    assert (counts > 0).tolist() == [True] * 4 + [False] * 4  # 3/8 < 0.4 <= 4/8


def test_top_p_is_taken_after_top_k() -> None:
    # Among the three likeliest, 0.4 and 0.3 are 0.82: without top-k they would not reach 0.8.
    counts = draw(FIVE, SamplingParams(temperature=1.0, top_k=3, top_p=0.8, seed=2), 3000)
    assert (counts > 0).tolist() == [True, True, False, False, False]


def test_min_p_is_relative_to_the_likeliest() -> None:
    counts = draw(FIVE, SamplingParams(temperature=1.0, min_p=0.3, seed=5), 4000)
    assert_distribution(counts, np.array([0.4, 0.3, 0.15, 0, 0]) / 0.85)
    counts = draw(FIVE, SamplingParams(temperature=1.0, min_p=1.0, seed=5), 100)
    assert counts[0] == 100
    # Temperature comes first: at 2, 0.05 is sqrt(0.125) = 0.35 as likely as 0.4.
    counts = draw(FIVE, SamplingParams(temperature=2.0, min_p=0.3, seed=5), 2000)
    assert (counts > 0).all()


@settings(max_examples=40, derandomize=True, deadline=None)
@given(
    values=st.lists(st.integers(-6, 6), min_size=1, max_size=30),
    top_p=st.floats(0.05, 1.0),
    top_k=st.integers(0, 10),
    min_p=st.floats(0.0, 1.0),
)
def test_survivors_equal_a_direct_definition(
    values: list[int], top_p: float, top_k: int, min_p: float
) -> None:
    logits = np.array(values, dtype=np.float32)
    alive = list(range(len(values)))
    if top_k:
        kth = sorted(values, reverse=True)[:top_k][-1]
        alive = [i for i in alive if values[i] >= kth]
    if top_p < 1.0:
        weights = {i: math.exp(values[i] - max(values)) for i in alive}
        total, mass, kept = sum(weights.values()), 0.0, []
        for i in sorted(alive, key=lambda i: (-values[i], i)):
            kept.append(i)
            mass += weights[i]
            if abs(mass - top_p * total) < 1e-5 * total:
                return  # on the edge of rounding
            if mass > top_p * total:
                break
        alive = kept
    if min_p > 0.0:
        bound = math.log(min_p)
        if any(abs(values[i] - max(values) - bound) < 1e-5 for i in alive):
            return
        alive = [i for i in alive if values[i] - max(values) >= bound]
    params = SamplingParams(temperature=1.0, top_k=top_k, top_p=top_p, min_p=min_p)
    kept_ids = Sampler(params, 0, [])._survivors(logits, logits.max())
    assert kept_ids.tolist() == sorted(alive)


# -- greedy, masks, bias, penalties ---------------------------------------------------------


def test_greedy_takes_the_lowest_id_among_equals() -> None:
    logits = np.zeros(50_000, dtype=np.float32)
    logits[[40_000, 333, 7_000]] = 5.0
    assert Sampler(SamplingParams(), 0, []).sample(logits, 0).token == 333
    allowed = bitset([7_000, 40_000, 3], 50_000)
    assert Sampler(SamplingParams(), 0, []).sample(logits, 0, allowed).token == 7_000


def test_mask_limits_the_draw() -> None:
    counts = draw(FIVE, SamplingParams(temperature=1.0, seed=1), 4000, bitset([1, 3, 4], 5))
    assert_distribution(counts, np.array([0, 0.3, 0, 0.1, 0.05]) / 0.45)


def test_mask_may_be_wider_or_narrower_than_the_logits() -> None:
    assert allowed_ids(bitset([0, 5, 31, 32, 63], 64), 40).tolist() == [0, 5, 31, 32]
    assert allowed_ids(bitset([0, 31], 32), 40).tolist() == [0, 31]


def test_logit_bias_moves_the_choice_and_never_beats_the_mask() -> None:
    greedy = Sampler(SamplingParams(logit_bias={4: 100.0}), 0, [])
    assert greedy.sample(FIVE, 0).token == 4
    assert greedy.sample(FIVE, 0, bitset([1, 2], 5)).token == 1
    banned = Sampler(SamplingParams(logit_bias={0: -100.0}), 0, [])
    assert banned.sample(FIVE, 0).token == 1


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits() -> None:
    logits = np.array([2.0, 1.5, -1.0, -1.5], dtype=np.float32)
    sampler = Sampler(SamplingParams(repetition_penalty=2.0), 0, [0, 0, 2])
    assert sampler._adjusted(logits).tolist() == [1.0, 1.5, -2.0, -1.5]
    sampler.accept(1)
    sampler.accept(1)
    assert sampler._adjusted(logits).tolist() == [1.0, 0.75, -2.0, -1.5]


def test_presence_and_frequency_penalties_see_the_output_only() -> None:
    logits = np.zeros(4, dtype=np.float32)
    params = SamplingParams(presence_penalty=0.5, frequency_penalty=0.25)
    sampler = Sampler(params, 0, [0, 1])
    assert sampler._adjusted(logits).tolist() == [0, 0, 0, 0]
    for token in (1, 3, 3, 3):
        sampler.accept(token)
    assert sampler._adjusted(logits).tolist() == [0, -0.75, 0, -1.25]
    assert logits.tolist() == [0, 0, 0, 0]


def test_tiny_temperature_is_greedy() -> None:
    for temperature in (1e-300, 1e-40, 1e-6):
        counts = draw(FIVE, SamplingParams(temperature=temperature, top_p=0.9, seed=0), 50)
        assert counts[0] == 50


# -- rows -----------------------------------------------------------------------------------


def test_a_row_does_not_depend_on_the_others() -> None:
    rng = np.random.default_rng(9)
    logits = torch.from_numpy(rng.standard_normal((12, 3000)).astype(np.float32) * 4)
    variants = [
        SamplingParams(),
        SamplingParams(temperature=0.9, seed=4),
        SamplingParams(temperature=1.3, top_p=0.9, seed=5),
        SamplingParams(temperature=0.7, top_k=20, min_p=0.05, repetition_penalty=1.2, logprobs=3),
    ]
    picks = [
        Pick(i, Sampler(variants[i % 4], i, [1, 2, 3]), 100 + i, bitset([*range(i, 3000)], 3000))
        for i in range(12)
    ]
    together = sample(logits, picks)
    assert together == [
        sample(logits[i : i + 1], [p._replace(row=0)])[0] for i, p in enumerate(picks)
    ]
    assert together[::-1] == sample(logits, picks[::-1])
    assert together == sample(logits, picks), "sampling is repeatable"


def test_seed_and_position_change_the_draw() -> None:
    logits = np.zeros(1000, dtype=np.float32)
    params = SamplingParams(temperature=1.0)
    a = [Sampler(params, 1, []).sample(logits, p).token for p in range(20)]
    assert a == [Sampler(params, 1, [9, 9]).sample(logits, p).token for p in range(20)]
    assert a != [Sampler(params, 2, []).sample(logits, p).token for p in range(20)]
    assert len(set(a)) > 15


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=1.0, seed=1)])
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_broken_logits_fail_their_row_only(params: SamplingParams, broken: float) -> None:
    logits = torch.zeros((3, 100))
    logits[:, 5] = 9.0
    logits[1, 50] = broken
    results = sample(logits, [Pick(i, Sampler(params, 1, []), 40 + i) for i in range(3)])
    assert isinstance(results[0], Sampled)
    assert isinstance(results[2], Sampled)
    assert isinstance(results[1], SgenError)
    assert "position 41" in str(results[1])


def test_any_error_of_a_pick_is_that_of_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "library", lambda: None)
    picks = [Pick(0, Sampler(SamplingParams(temperature=1.0, top_k=2), 0, []), 3) for _ in "ab"]
    msgspec.structs.force_setattr(picks[0].sampler._params, "top_k", 2.5)
    failed, fine = sample(torch.zeros((1, 100)), picks)
    assert isinstance(failed, TypeError)
    assert isinstance(fine, Sampled)


def test_an_empty_mask_is_an_error_of_its_row() -> None:
    picks = [Pick(0, Sampler(SamplingParams(), 0, []), 3, bitset(ids, 100)) for ids in ([], [4])]
    failed, fine = sample(torch.zeros((1, 100)), picks)
    assert isinstance(failed, SgenError)
    assert fine == Sampled(4)


def test_minus_infinity_is_a_token_that_never_comes() -> None:
    logits = np.array([-np.inf, 0.0, -np.inf, 0.0], dtype=np.float32)
    for params in (
        SamplingParams(temperature=1.0, seed=1),
        SamplingParams(temperature=1.0, seed=1, top_k=3),
        SamplingParams(temperature=1.0, seed=1, top_p=0.99),
    ):
        assert_distribution(draw(logits, params, 2000), np.array([0, 0.5, 0, 0.5]))
    with pytest.raises(SgenError, match="no token"):
        Sampler(SamplingParams(), 0, []).sample(logits, 0, bitset([0, 2], 4))


def test_logprobs_are_of_the_raw_logits() -> None:
    logits = torch.randn((1, 500), generator=torch.Generator().manual_seed(0)) * 5
    params = SamplingParams(logprobs=4, temperature=2.0, seed=3, logit_bias={7: 50.0})
    (result,) = sample(logits, [Pick(0, Sampler(params, 3, []), 0)])
    assert isinstance(result, Sampled)
    reference = torch.log_softmax(logits[0].double(), 0)
    assert result.token == 7
    assert result.logprob == pytest.approx(float(reference[7]), abs=1e-5)
    values, ids = reference.topk(4)
    assert [t for t, _ in result.top] == ids.tolist()
    assert [v for _, v in result.top] == pytest.approx(values.tolist(), abs=1e-5)


def test_logprobs_zero_gives_the_chosen_one_alone() -> None:
    result = Sampler(SamplingParams(logprobs=0), 0, []).sample(FIVE, 0)
    assert result.top == ()
    assert result.logprob == pytest.approx(math.log(0.4), abs=1e-6)
    tied = Sampler(SamplingParams(logprobs=2), 0, []).sample(np.zeros(5, dtype=np.float32), 0)
    assert [t for t, _ in tied.top] == [0, 1]
