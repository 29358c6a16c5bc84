"""Every operation of the decoder in plain torch: the specification that faster kernels must meet.

What is true here and must stay true of every other implementation:
- Ragged: one row per scheduled token; prefill and decode are the same call.
- Row independence: the bits of a row do not depend on which rows share the call.  Matrix
  products run on a multiple of `row_block()` rows, since BLAS libraries take another path (with
  another order of summation) for small row counts; attention runs over fixed splits of `SPLIT`
  keys, merged in order, so that neither the batch nor the length of others changes a sum.
- All arithmetic is fp32.
"""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from typing import TypeAlias

import torch
from torch import Tensor

SPLIT = 256
"""Keys in one attention split: a fixed number, so that a row's sums have one order."""


Pages: TypeAlias = tuple[Tensor, Tensor | None]
"""Pages [P, page, Hkv, D] with scales [P, page, Hkv], or without."""

MAX_BLOCK = 64
"""Rows beyond which padding would cost more than it is worth."""


def row_block(threads: int) -> int:
    """The least number of rows of which this machine's BLAS makes every multiple alike.

    Tried on a few shapes against a larger product: 4 where MKL runs on AVX2.  `threads` is
    `torch.get_num_threads()`, on which a BLAS may base its choice.  MAX_BLOCK if no number is
    found: see `is_row_independent`.
    """
    return _probe(threads) or MAX_BLOCK


def is_row_independent(threads: int) -> bool:
    """Do rows keep their bits in any company?  False: the same text in any batch is not sure."""
    return _probe(threads) is not None


@lru_cache(maxsize=8)
def _probe(threads: int) -> int | None:
    gen = torch.Generator().manual_seed(threads)
    block = 1
    for k, n in ((64, 256), (576, 192), (1536, 1536)):
        x, w = torch.rand(4 * MAX_BLOCK, k, generator=gen), torch.rand(n, k, generator=gen)
        want = x @ w.T
        while not all(torch.equal(x[: block * i] @ w.T, want[: block * i]) for i in (1, 2, 3)):
            block *= 2
            if block > MAX_BLOCK:
                return None
    return block


def _padded_rows(rows: int) -> int:
    block = row_block(torch.get_num_threads())
    return -(-rows // block) * block


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [T, K], weight [N, K], bias [N] -> [T, N]."""
    rows = x.shape[0]
    padded = _padded_rows(rows)
    if padded != rows:
        x = torch.cat([x, x.new_zeros(padded - rows, x.shape[1])])
    y = x @ weight.T
    if bias is not None:
        y += bias
    return y[:rows]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [..., D] scaled to unit root mean square, times weight [D] (Zhang, Sennrich 2019)."""
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))


def silu_mul(gate_up: Tensor) -> Tensor:
    """gate_up [T, 2 I], the gate first -> silu(gate) * up [T, I] (Shazeer 2020, SwiGLU)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs (i, i + R/2) of the first R entries of each head (Su et al. 2021).

    x [T, H, D]; cos and sin [T, R/2], R <= D; entries from R on pass through.
    """
    half = cos.shape[-1]
    c, s = cos[:, None, :], sin[:, None, :]
    a, b = x[..., :half], x[..., half : 2 * half]
    return torch.cat([a * c - b * s, b * c + a * s, x[..., 2 * half :]], dim=-1)


def write_kv(k_pages: Tensor, v_pages: Tensor, slots: Tensor, k: Tensor, v: Tensor) -> None:
    """Write k and v [T, Hkv, D] at `slots` [T] int64 of the pages [P, page, Hkv, D]."""
    k_pages.flatten(0, 1).index_copy_(0, slots, k)
    v_pages.flatten(0, 1).index_copy_(0, slots, v)


LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
"""The largest value of each type that keys and values are quantized to."""


def quantize_heads(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x [T, Hkv, D] -> values of int8 or fp8 (e4m3) and their scales, fp32 [T, Hkv].

    One scale for each head of each token, so that what is written never depends on the company:
    the largest value of the head becomes the largest of the type.
    """
    scales = x.abs().amax(-1) / LARGEST[dtype]
    unit = torch.where(scales > 0, scales, 1.0)
    scaled = x / unit[..., None]
    return (scaled.round() if dtype == torch.int8 else scaled).to(dtype), scales


def write_quantized_kv(pages: Tensor, scales: Tensor, slots: Tensor, x: Tensor) -> None:
    """Write keys or values x [T, Hkv, D] at `slots` [T] int64.

    pages int8 or fp8 (e4m3) [P, page, Hkv, D], scales fp32 [P, page, Hkv].
    """
    values, unit = quantize_heads(x, pages.dtype)
    # As bytes: torch has no such copy of fp8 values on every device.
    target, source = pages.view(torch.int8), values.view(torch.int8)
    target.flatten(0, 1).index_copy_(0, slots, source)
    scales.flatten(0, 1).index_copy_(0, slots, unit)


def paged_attention(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    page_table: Tensor,
    cu_seqlens_q: Tensor,
    seq_lens: Tensor,
    *,
    scale: float,
    window: int | None = None,
    k_scales: Tensor | None = None,
    v_scales: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Causal attention over paged keys and values, for requests of any mix of lengths.

    q [T, Hq, D] fp32; k_pages, v_pages [P, page, Hkv, D]; page_table [B, max_pages] int32;
    cu_seqlens_q [B + 1] int32; seq_lens [B] int32, keys of each request including the new ones,
    whose queries are its last.  Hq is a multiple of Hkv (GQA).  `window` lets a query see that
    many keys, itself included.  Pages of fp8 or int8 are values times scales [P, page, Hkv] fp32.
    Returns out [T, Hq, D] and lse [T, Hq] (natural log).
    """
    starts, lens = cu_seqlens_q.tolist(), seq_lens.tolist()
    groups: dict[int, list[int]] = defaultdict(list)  # requests by their number of rows
    for b in range(len(lens)):
        groups[starts[b + 1] - starts[b]].append(b)
    out = torch.empty_like(q)
    lse = q.new_empty(q.shape[:2])
    for rows, members in groups.items():
        if rows == 0:
            continue
        first = torch.tensor([starts[b] for b in members])
        index = (first[:, None] + torch.arange(rows)).flatten()
        o, s = _attend(
            q[index].view(len(members), rows, *q.shape[1:]),
            (k_pages, k_scales),
            (v_pages, v_scales),
            page_table[members],
            torch.tensor([lens[b] for b in members]),
            scale,
            window,
        )
        out[index], lse[index] = o.flatten(0, 1), s.flatten(0, 1)
    return out, lse


def general_attention(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    page_table: Tensor,
    cu_seqlens_q: Tensor,
    seq_lens: Tensor,
    *,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
    k_scales: Tensor | None = None,
    v_scales: Tensor | None = None,
    tree_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What `paged_attention` computes, with all that GPU kernels take besides; slow.

    Scores s become soft_cap * tanh(s / soft_cap).  Pages of fp8 or int8 are values times scales
    [P, page, Hkv].  tree_mask [T, words] int32 replaces causality among the new tokens: bit j % 32
    of word j // 32 lets a row see its request's new token j; it must see itself.
    """
    out = q.new_empty(q.shape, dtype=torch.float32)
    lse = q.new_empty(q.shape[:2], dtype=torch.float32)
    starts = cu_seqlens_q.tolist()
    for b, length in enumerate(seq_lens.tolist()):
        rows = slice(starts[b], starts[b + 1])
        n = rows.stop - rows.start
        kv = []
        for pages, scales in ((k_pages, k_scales), (v_pages, v_scales)):
            x = pages[page_table[b].long()].float()
            if scales is not None:
                x = x * scales[page_table[b].long()][..., None]
            x = x.flatten(0, 1)[:length].transpose(0, 1)  # [Hkv, keys, D]
            kv.append(x.repeat_interleave(q.shape[1] // x.shape[0], 0))
        scores = q[rows].float().transpose(0, 1) @ kv[0].transpose(1, 2) * scale
        if soft_cap is not None:
            scores = soft_cap * torch.tanh(scores / soft_cap)
        position, key = torch.arange(length - n, length)[:, None], torch.arange(length)
        seen = key <= position
        if tree_mask is not None:
            node = torch.arange(n)
            seen[:, length - n :] = (tree_mask[rows][:, node // 32] >> (node % 32)) & 1 != 0
        if window is not None:
            seen &= key > position - window
        scores = scores.masked_fill(~seen, -torch.inf)
        out[rows] = (scores.softmax(-1) @ kv[1]).transpose(0, 1)
        lse[rows] = scores.logsumexp(-1).T
    return out, lse


def _attend(
    q: Tensor,
    keys: Pages,
    values: Pages,
    page_table: Tensor,
    lens: Tensor,
    scale: float,
    window: int | None,
) -> tuple[Tensor, Tensor]:
    """Attention of B requests with n rows each: q [B, n, Hq, D] -> out, lse [B, n, Hq]."""
    batch, n, hq, dim = q.shape
    page, hkv = keys[0].shape[1], keys[0].shape[2]
    group = hq // hkv
    rows = _padded_rows(n * group)
    # [B * Hkv, rows, D]: the query heads of a KV head are rows of one product.
    qs = q.new_zeros(batch, hkv, rows, dim)
    by_head = (q * scale).view(batch, n, hkv, group, dim).permute(0, 2, 1, 3, 4)
    qs[:, :, : n * group] = by_head.flatten(2, 3)
    qs = qs.flatten(0, 1)
    # The position of each row's query; padding rows repeat the last and are dropped.
    row = torch.arange(rows).clamp(max=n * group - 1) // group
    position = (lens[:, None] - n + row)[:, None, :, None]  # [B, 1, rows, 1]

    pages_per_split = SPLIT // page
    acc = q.new_zeros(batch * hkv, rows, dim)
    total = q.new_zeros(batch * hkv, rows, 1)
    top = q.new_full((batch * hkv, rows, 1), -torch.inf)
    begin = 0 if window is None else max(0, int(lens.min()) - n + 1 - window) // SPLIT
    for split in range(begin, -(-int(lens.max()) // SPLIT)):
        table = page_table[:, split * pages_per_split : (split + 1) * pages_per_split]
        k, v = _gather(*keys, table), _gather(*values, table)
        key = split * SPLIT + torch.arange(SPLIT)
        seen = key <= position
        if window is not None:
            seen &= key > position - window
        scores = (qs @ k.transpose(1, 2)).view(batch, hkv, rows, SPLIT)
        scores = scores.masked_fill(~seen, -torch.inf).flatten(0, 1)
        # A split in which a row sees nothing must leave the row's bits as they are.
        split_top = scores.amax(-1, keepdim=True)
        p = torch.exp(scores - split_top.masked_fill(split_top == -torch.inf, 0.0))
        new_top = torch.maximum(top, split_top)
        finite = new_top.masked_fill(new_top == -torch.inf, 0.0)
        old_scale, new_scale = torch.exp(top - finite), torch.exp(split_top - finite)
        acc = acc * old_scale + (p @ v) * new_scale
        total = total * old_scale + p.sum(-1, keepdim=True) * new_scale
        top = new_top
    out, lse = acc / total, (top + torch.log(total)).squeeze(-1)

    def rows_first(x: Tensor) -> Tensor:  # [B * Hkv, rows, ...] -> [B, n, Hq, ...]
        x = x.view(batch, hkv, rows, *x.shape[2:])[:, :, : n * group]
        return x.reshape(batch, hkv, n, group, *x.shape[3:]).transpose(1, 2).flatten(2, 3)

    return rows_first(out), rows_first(lse)


def _gather(pages: Tensor, scales: Tensor | None, table: Tensor) -> Tensor:
    """Pages [P, page, Hkv, D] by table [B, m] -> [B * Hkv, SPLIT, D], zero behind the table."""
    if scales is None:
        x = pages[table.long()]
    else:
        x = pages.view(torch.int8)[table.long()].view(pages.dtype).float()
        x = x * scales[table.long()][..., None]
    x = x.flatten(1, 2).permute(0, 2, 1, 3)
    if x.shape[2] < SPLIT:
        x = torch.nn.functional.pad(x, (0, 0, 0, SPLIT - x.shape[2]))
    return x.flatten(0, 1)


def merge_states(
    out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention over the union of two disjoint key sets, from each one's (out, lse).

    out [T, Hq, D], lse [T, Hq]; associative, as shared-prefix (cascade) attention needs it.
    """
    lse = torch.logaddexp(lse_a, lse_b)
    out = out_a * torch.exp(lse_a - lse)[..., None] + out_b * torch.exp(lse_b - lse)[..., None]
    return out, lse
