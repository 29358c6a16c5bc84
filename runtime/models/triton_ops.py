"""The steps of a decoder between its products and its attention, as torch operations.

They run on any device and type: sums and rotations in fp32, results in the type of the input.
Each row is computed by itself, so its bits do not depend on its company.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sgen.kernels import reference as ops


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """x [T, D], weight fp32 [D] -> the normed sum of x and residual [T, D], and the sum itself."""
    total = x if residual is None else x + residual
    return ops.rms_norm(total.float(), weight, eps).to(x.dtype), total


def rope_write_kv(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    slots: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    k_scales: Tensor | None = None,
    v_scales: Tensor | None = None,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """Norm (where there are weights [D]) and rotate queries and keys; write keys and values.

    qkv [T, (Hq + 2 Hkv) D]; cos and sin fp32 [T, R/2]; slots int64 [T] of the pages
    [P, page, Hkv, D], which are of floats, or int8 or fp8 with scales fp32 [P, page, Hkv].
    Returns the queries [T, Hq, D].
    """
    kv_heads, dim = k_pages.shape[2:]
    x = qkv.view(len(qkv), -1, dim).float()
    sizes = [x.shape[1] - 2 * kv_heads, kv_heads, kv_heads]
    q, k, v = torch.split_with_sizes(x, sizes, dim=1)
    if q_norm is not None:
        q = ops.rms_norm(q, q_norm, eps)
    if k_norm is not None:
        k = ops.rms_norm(k, k_norm, eps)
    k = ops.rope(k, cos, sin)
    for pages, scales, values in ((k_pages, k_scales, k), (v_pages, v_scales, v)):
        if scales is None:
            pages.flatten(0, 1).index_copy_(0, slots, values.to(pages.dtype))
        else:
            ops.write_quantized_kv(pages, scales, slots, values)
    return ops.rope(q, cos, sin).to(qkv.dtype)


def silu_mul(gate_up: Tensor) -> Tensor:
    """gate_up [T, 2 I], the gate first -> silu(gate) * up [T, I]."""
    return ops.silu_mul(gate_up.float()).to(gate_up.dtype)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, deterministic: bool) -> Tensor:
    """x [T, K], weight [N, K], bias [N], all of one type -> [T, N].

    Deterministic products have `ROWS` rows each, padded with zeros, so that a library never
    chooses its way of summing by the number of rows.  On a CPU they are fp32 products in blocks
    whose rows are alike (`reference.linear`), whatever the type.
    """
    if x.device.type == "cpu":
        y = ops.linear(x.float(), weight.float(), None if bias is None else bias.float())
        return y.to(x.dtype)
    if not deterministic:
        return torch.nn.functional.linear(x, weight, bias)
    rows = len(x)
    padded = torch.nn.functional.pad(x, (0, 0, 0, -rows % ROWS))
    parts = [
        torch.nn.functional.linear(part, weight, bias)
        for part in padded.view(-1, ROWS, x.shape[1]).unbind()
    ]
    return torch.cat(parts)[:rows]


ROWS = 64
"""Rows of one deterministic product on a GPU."""
