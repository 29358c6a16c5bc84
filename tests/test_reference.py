"""The reference operations against textbook formulas and torch's own, and their promise that a
row's bits do not depend on the rows beside it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sgen.doctor import _checks
from sgen.kernels import reference as ops

PAGE = 16


def paged(keys: list[Tensor], values: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Scatter each request's keys over shuffled pages; (k_pages, v_pages, page_table)."""
    counts = [-(-len(k) // PAGE) for k in keys]
    order = torch.randperm(sum(counts) + 3)
    shape = (len(order), PAGE, *keys[0].shape[1:])
    # What a page holds behind its request's end is stale, and must never be seen.
    k_pages, v_pages = torch.full(shape, 7.0), torch.full(shape, 1e6)
    table = torch.zeros(len(keys), max(counts), dtype=torch.int32)
    used = 0
    for b, (k, v) in enumerate(zip(keys, values, strict=True)):
        for j in range(counts[b]):
            page = int(order[used])
            used += 1
            part = slice(j * PAGE, min((j + 1) * PAGE, len(k)))
            k_pages[page, : part.stop - part.start] = k[part]
            v_pages[page, : part.stop - part.start] = v[part]
            table[b, j] = page
    return k_pages, v_pages, table


def dense_attention(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> tuple[Tensor, Tensor]:
    """One request in fp64: q [n, Hq, D], k and v [L, Hkv, D]."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.double().repeat_interleave(group, dim=1) for x in (k, v))
    scores = torch.einsum("nhd,lhd->hnl", q.double(), k) / math.sqrt(q.shape[-1])
    position = torch.arange(len(k) - len(q), len(k))[:, None]
    seen = torch.arange(len(k)) <= position
    if window is not None:
        seen &= torch.arange(len(k)) > position - window
    scores = scores.masked_fill(~seen, -torch.inf)
    out = torch.einsum("hnl,lhd->nhd", scores.softmax(-1), v)
    return out, scores.logsumexp(-1).T


def attend(
    q: list[Tensor], keys: list[Tensor], values: list[Tensor], window: int | None = None
) -> tuple[Tensor, Tensor]:
    k_pages, v_pages, table = paged(keys, values)
    starts = torch.tensor([0, *(len(x) for x in q)]).cumsum(0).int()
    lens = torch.tensor([len(k) for k in keys], dtype=torch.int32)
    scale = 1 / math.sqrt(q[0].shape[-1])
    return ops.paged_attention(
        torch.cat(q), k_pages, v_pages, table, starts, lens, scale=scale, window=window
    )


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    requests=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 600)), min_size=1, max_size=5),
    heads=st.sampled_from([(1, 1), (4, 2), (9, 3), (4, 1)]),
    window=st.sampled_from([None, 1, 20, 300]),
    seed=st.integers(0, 1000),
)
def test_attention_equals_textbook(
    requests: list[tuple[int, int]], heads: tuple[int, int], window: int | None, seed: int
) -> None:
    torch.manual_seed(seed)
    hq, hkv = heads
    q = [torch.randn(n, hq, 64) for n, _ in requests]
    k = [torch.randn(n + past, hkv, 64) for n, past in requests]
    v = [torch.randn_like(x) for x in k]
    out, lse = attend(q, k, v, window)
    want = [dense_attention(*args, window) for args in zip(q, k, v, strict=True)]
    torch.testing.assert_close(out.double(), torch.cat([o for o, _ in want]), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(lse.double(), torch.cat([s for _, s in want]), atol=2e-5, rtol=1e-5)


def test_rows_do_not_depend_on_their_batch() -> None:
    torch.manual_seed(0)
    lengths = [1, 15, 16, 17, 255, 256, 257, 700]
    k = [torch.randn(n, 3, 64) for n in lengths]
    v = [torch.randn_like(x) for x in k]
    q = [torch.randn(n, 9, 64) for n in lengths]
    whole, _ = attend(q, k, v)
    chunks = whole.split(lengths)
    last, _ = attend([x[-1:] for x in q], k, v)
    for i, n in enumerate(lengths):
        alone, _ = attend([q[i]], [k[i]], [v[i]])
        assert torch.equal(alone, chunks[i]), f"request {i} alone"
        assert torch.equal(last[i : i + 1], chunks[i][-1:]), f"last row of request {i} as a decode"
        half = max(1, n // 2)
        first, _ = attend([q[i][:half]], [k[i][:half]], [v[i][:half]])
        assert torch.equal(first, chunks[i][:half]), f"request {i} in a chunk"


@pytest.mark.parametrize(("k", "n"), [(576, 960), (1536, 576), (896, 4864), (576, 49152)])
def test_linear_rows_do_not_depend_on_their_batch(k: int, n: int) -> None:
    torch.manual_seed(0)
    x, w, bias = torch.randn(130, k), torch.randn(n, k), torch.randn(n)
    whole = ops.linear(x, w, bias)
    torch.testing.assert_close(whole, x @ w.T + bias, atol=1e-3, rtol=1e-4)
    for rows in (1, 2, 3, 5, 7, 12, 13, 31, 64, 129):
        assert torch.equal(ops.linear(x[:rows], w, bias), whole[:rows]), rows
        assert torch.equal(ops.linear(x[1 : 1 + rows], w, bias), whole[1 : 1 + rows]), rows


def test_a_blas_without_row_independence_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    assert ops.is_row_independent(threads)
    assert ops.row_block(threads) <= ops.MAX_BLOCK
    ops._probe.cache_clear()
    equal = torch.equal
    try:
        with monkeypatch.context() as patch:  # 64 rows and multiples agree, and no smaller ones
            patch.setattr(torch, "equal", lambda a, b: len(a) % 64 == 0 and equal(a, b))
            assert ops.row_block(threads) == 64
            assert ops.is_row_independent(threads)
        ops._probe.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(torch, "equal", lambda a, b: False)
            assert not ops.is_row_independent(threads)
            assert ops.row_block(threads) == ops.MAX_BLOCK
            (check,) = [c for c in _checks("nothing") if c.name == "row independence"]
            assert check.status == "note"
            assert "may depend" in check.detail
            assert check.hint
    finally:
        ops._probe.cache_clear()


def test_merge_states_joins_disjoint_keys() -> None:
    torch.manual_seed(0)
    q = torch.randn(5, 4, 64)
    k, v = torch.randn(90, 4, 64), torch.randn(90, 4, 64)
    scores = torch.einsum("nhd,lhd->nhl", q, k)

    def part(keys: slice) -> tuple[Tensor, Tensor]:
        s = scores[..., keys]
        return torch.einsum("nhl,lhd->nhd", s.softmax(-1), v[keys]), s.logsumexp(-1)

    out, lse = ops.merge_states(*part(slice(0, 33)), *part(slice(33, 90)))
    want_out, want_lse = part(slice(0, 90))
    torch.testing.assert_close(out, want_out, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(lse, want_lse, atol=1e-4, rtol=1e-4)


def test_small_operations_equal_torch() -> None:
    torch.manual_seed(0)
    x, w = torch.randn(7, 64), torch.rand(64)
    want = torch.nn.functional.rms_norm(x, (64,), w, 1e-5)
    torch.testing.assert_close(ops.rms_norm(x, w, 1e-5), want)
    gate, up = x.chunk(2, -1)
    torch.testing.assert_close(ops.silu_mul(x), gate * torch.sigmoid(gate) * up)


def test_rope_rotates_pairs_and_passes_the_rest() -> None:
    torch.manual_seed(0)
    x, angle = torch.randn(3, 2, 8), torch.rand(3, 3)
    y = ops.rope(x, angle.cos(), angle.sin())
    pairs = torch.complex(x[..., :3], x[..., 3:6]) * torch.polar(torch.ones(3, 3), angle)[:, None]
    torch.testing.assert_close(y[..., :3], pairs.real)
    torch.testing.assert_close(y[..., 3:6], pairs.imag)
    assert torch.equal(y[..., 6:], x[..., 6:])


@pytest.mark.parametrize(("dtype", "step"), [(torch.int8, 1 / 254), (torch.float8_e4m3fn, 1 / 16)])
def test_quantized_heads_are_near_and_keep_their_largest(dtype: torch.dtype, step: float) -> None:
    x = torch.randn(50, 3, 8) * torch.logspace(-6, 6, 50)[:, None, None]
    x[7] = 0
    values, scales = ops.quantize_heads(x, dtype)
    assert values.dtype == dtype
    assert scales.shape == (50, 3)
    back = values.float() * scales[..., None]
    largest = x.abs().amax(-1, keepdim=True)
    assert ((back - x).abs() <= largest * step * 1.001).all()
    torch.testing.assert_close(back.abs().amax(-1, keepdim=True), largest)
    assert not back[7].any()


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_attention_on_quantized_pages_is_that_on_their_values(dtype: torch.dtype) -> None:
    k, v, slots = torch.randn(40, 2, 8), torch.randn(40, 2, 8), torch.randperm(64)[:40]
    pages = torch.zeros(2, 4, PAGE, 2, 8).to(dtype)
    scales = torch.zeros(2, 4, PAGE, 2)
    for i, x in enumerate((k, v)):
        ops.write_quantized_kv(pages[i], scales[i], slots, x)
    plain = pages.float() * scales[..., None]
    written = ops.quantize_heads(k, dtype)
    torch.testing.assert_close(
        plain[0].flatten(0, 1)[slots], written[0].float() * written[1][..., None], rtol=0, atol=0
    )
    q, table = torch.randn(5, 4, 8), torch.tensor([[2, 0, 3, 1]], dtype=torch.int32)
    starts, lens = torch.tensor([0, 5]).int(), torch.tensor([64]).int()
    got = ops.paged_attention(
        q, *pages, table, starts, lens, scale=0.3, k_scales=scales[0], v_scales=scales[1]
    )
    want = ops.paged_attention(q, *plain, table, starts, lens, scale=0.3)
    assert all(torch.equal(g, w) for g, w in zip(got, want, strict=True))
