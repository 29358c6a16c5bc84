"""Quantized checkpoints, packed from the specifications of their formats, one word at a time.

Each function gives the tensors that stand for a matrix [N, K], and its weights as the format's
definition has them, fp32 [N, K].
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

AWQ = (0, 2, 4, 6, 1, 3, 5, 7)
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
]  # fmt: skip

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Format:
    """`pack(weights, rng)` -> (tensors by suffix, weights); `config` is `quantization_config`."""

    config: dict[str, Any]
    pack: Callable[[Tensor, np.random.Generator], tuple[Tensors, Tensor]]


def words(values: np.ndarray[Any, Any], bits: int) -> Tensor:
    """[R, C] -> int32 [R, ceil(C bits / 32)]."""
    each = 32 // bits
    rows, columns = values.shape
    out = np.zeros((rows, -(-columns // each)), np.uint32)
    for c in range(columns):
        out[:, c // each] |= values[:, c].astype(np.uint32) << np.uint32(bits * (c % each))
    return torch.from_numpy(out.view(np.int32).copy())


def affine(
    weights: Tensor, bits: int, group_of: np.ndarray[Any, Any], symmetric: bool, dtype: torch.dtype
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], Tensor, Tensor]:
    """Rounded to the nearest: integers [N, K], zeros [N, G], scales [N, G], weights [N, K]."""
    w, top = weights.numpy().astype(np.float64), 2**bits - 1
    groups = int(group_of.max()) + 1
    zeros = np.zeros((len(w), groups), np.int64)
    scales = torch.zeros(len(w), groups, dtype=dtype)
    q = np.zeros(w.shape, np.int64)
    for g in range(groups):
        part = w[:, group_of == g]
        low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
        step = np.maximum(-low, high) * 2 / top if symmetric else (high - low) / top
        scales[:, g] = torch.from_numpy(step).to(dtype)
        s = scales[:, g].double().numpy()
        zeros[:, g] = 2 ** (bits - 1) if symmetric else np.round(-low / s)
        q[:, group_of == g] = np.clip(np.round(part / s[:, None]) + zeros[:, [g]], 0, top)
    exact = (torch.from_numpy(q - zeros[:, group_of])).float() * scales.float()[:, group_of]
    return q, zeros, scales, exact


def gptq(
    bits: int = 4, version: int = 1, label: str = "gptq", group: int = 32,
    symmetric: bool = True, act_order: bool = False, g_idx: bool = True,
) -> Format:  # fmt: skip
    def pack(weights: Tensor, rng: np.random.Generator) -> tuple[Tensors, Tensor]:
        columns = weights.shape[1]
        group_of = np.arange(columns) // group
        if act_order:
            group_of = rng.permutation(group_of)
        q, zeros, scales, exact = affine(weights, bits, group_of, symmetric, torch.float16)
        stored = (zeros - (version == 1)) & (2**bits - 1)
        tensors = {
            "qweight": words(q, bits).T.contiguous(),
            "qzeros": words(stored.T, bits),
            "scales": scales.T.contiguous(),
        }
        if g_idx:
            tensors["g_idx"] = torch.from_numpy(group_of.astype(np.int32))
        return tensors, exact

    said = {"quant_method": "gptq", "bits": bits, "group_size": group, "checkpoint_format": label}
    return Format(said, pack)


def awq(group: int = 32) -> Format:
    def pack(weights: Tensor, rng: np.random.Generator) -> tuple[Tensors, Tensor]:
        group_of = np.arange(weights.shape[1]) // group
        q, zeros, scales, exact = affine(weights, 4, group_of, False, torch.float16)

        def interleaved(values: np.ndarray[Any, Any]) -> Tensor:  # [N, X] -> int32 [X, N / 8]
            by_word = values.T.reshape(values.shape[1], -1, 8)[:, :, list(AWQ)]
            return words(by_word.reshape(values.shape[1], -1), 4)

        tensors = {"qweight": interleaved(q), "qzeros": interleaved(zeros), "scales": scales.T}
        return {k: v.contiguous() for k, v in tensors.items()}, exact

    return Format({"quant_method": "awq", "bits": 4, "version": "gemm"}, pack)


def packed(bits: int = 4, group: int = 32, symmetric: bool = True, order: bool = False) -> Format:
    def pack(weights: Tensor, rng: np.random.Generator) -> tuple[Tensors, Tensor]:
        group_of = np.arange(weights.shape[1]) // group
        if order:
            group_of = rng.permutation(group_of)
        q, zeros, scales, exact = affine(weights, bits, group_of, symmetric, torch.bfloat16)
        tensors = {
            "weight_packed": words(q, bits),
            "weight_scale": scales,
            "weight_shape": torch.tensor(weights.shape),
        }
        if not symmetric:
            tensors["weight_zero_point"] = words(zeros.T, bits).T.contiguous()
        if order:
            tensors["weight_g_idx"] = torch.from_numpy(group_of.astype(np.int32))
        return tensors, exact

    return Format({"quant_method": "compressed-tensors", "format": "pack-quantized"}, pack)


def scaled(
    method: str, dtype: torch.dtype, scale_shape: Callable[[int, int], tuple[int, ...]],
    block: Callable[[int, int], tuple[int, int]], name: str = "weight_scale", **said: Any,
) -> Format:  # fmt: skip
    def pack(weights: Tensor, rng: np.random.Generator) -> tuple[Tensors, Tensor]:
        n, k = weights.shape
        rows, columns = block(n, k)
        largest = 127 if dtype == torch.int8 else 448.0
        values, exact = torch.zeros(n, k, dtype=dtype), torch.zeros(n, k)
        scales = torch.zeros(-(-n // rows), -(-k // columns))
        for i in range(scales.shape[0]):
            for j in range(scales.shape[1]):
                here = (slice(i * rows, i * rows + rows), slice(j * columns, j * columns + columns))
                scales[i, j] = weights[here].abs().max() / largest
                x = weights[here] / scales[i, j]
                values[here] = (x.round() if dtype == torch.int8 else x).to(dtype)
                exact[here] = values[here].float() * scales[i, j]
        tensors = {"weight": values, name: scales.reshape(scale_shape(n, k))}
        if method == "fp8" and said.get("activation_scheme") == "static":
            tensors["input_scale"] = torch.tensor(0.03)
        return tensors, exact

    return Format({"quant_method": method, **said}, pack)


def bnb(table: list[float], kind: str, block: int = 64, nested: bool = False) -> Format:
    def pack(weights: Tensor, rng: np.random.Generator) -> tuple[Tensors, Tensor]:
        n, k = weights.shape
        flat = weights.reshape(-1)
        flat = torch.cat([flat, flat.new_zeros(-len(flat) % block)]).view(-1, block)
        scales = flat.abs().amax(1)
        codes8, extra = scales, {}
        state = {"quant_type": kind, "blocksize": block, "dtype": "float32", "shape": [n, k]}
        if nested:
            dynamic = torch.linspace(-1, 1, 256)
            offset = float(scales.mean())
            outer = (scales - offset).abs().max().reshape(1)
            codes8 = ((scales - offset)[:, None] / outer - dynamic).abs().argmin(1).to(torch.uint8)
            scales = dynamic[codes8.long()] * outer + torch.tensor(offset)
            extra = {"weight.nested_absmax": outer, "weight.nested_quant_map": dynamic}
            state |= {"nested_blocksize": 256, "nested_offset": offset}
        book = torch.tensor(table)
        code = (flat[..., None] / scales[:, None, None] - book).abs().argmin(-1)
        exact = (book[code] * scales[:, None]).reshape(-1)[: n * k].view(n, k)
        code = code.reshape(-1)[: n * k].to(torch.uint8)
        blob = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
        tensors = {
            "weight": (code[::2] << 4 | code[1::2])[:, None].contiguous(),
            "weight.absmax": codes8,
            "weight.quant_map": book,
            f"weight.quant_state.bitsandbytes__{kind}": blob,
            **extra,
        }  # fmt: skip
        return tensors, exact

    return Format({"quant_method": "bitsandbytes", "load_in_4bit": True}, pack)


def llm_int8() -> Format:
    def pack(weights: Tensor, rng: np.random.Generator) -> tuple[Tensors, Tensor]:
        largest = weights.abs().amax(1)
        values = (weights * 127 / largest[:, None]).round().to(torch.int8)
        tensors = {"weight": values, "SCB": largest, "weight_format": torch.tensor(0).byte()}
        return tensors, values.float() * (largest[:, None] * torch.tensor(1 / 127))

    return Format({"quant_method": "bitsandbytes", "load_in_8bit": True}, pack)


_TOKEN_INPUT = {"g": {"input_activations": {"dynamic": True, "strategy": "token"}}}
_FP4 = [0.0, 0.0052, 0.6667, 1.0, 0.3333, 0.5, 0.1667, 0.25, 0.0, -0.0052, -0.6667, -1.0,
        -0.3333, -0.5, -0.1667, -0.25]  # fmt: skip

FORMATS = {
    "gptq": gptq(),
    "gptq-v2": gptq(version=2, label="gptq_v2"),
    "gptq-v2-labelled-v1": gptq(version=2),
    "gptq-v1-labelled-v2": gptq(label="gptq_v2"),
    "gptq-asymmetric": gptq(symmetric=False),
    "gptq-asymmetric-v2-labelled-v1": gptq(version=2, symmetric=False),
    "gptq-act-order": gptq(act_order=True, symmetric=False),
    "gptq-8": gptq(bits=8),
    "gptq-8-asymmetric-v2": gptq(bits=8, version=2, label="gptq_v2", symmetric=False),
    "gptq-group-16": gptq(group=16, g_idx=False),
    "awq": awq(),
    "awq-group-16": awq(16),
    "packed-4": packed(),
    "packed-4-asymmetric": packed(symmetric=False),
    "packed-8": packed(8),
    "packed-4-order": packed(order=True),
    "smoothquant": scaled(
        "compressed-tensors", torch.int8, lambda n, k: (n, 1), lambda n, k: (1, k),
        config_groups=_TOKEN_INPUT,
    ),
    "int8-groups": scaled(
        "compressed-tensors", torch.int8, lambda n, k: (n, k // 16), lambda n, k: (1, 16)
    ),
    "fp8-tensor": scaled(
        "compressed-tensors", torch.float8_e4m3fn, lambda n, k: (1,), lambda n, k: (n, k)
    ),
    "fp8-channel": scaled(
        "compressed-tensors", torch.float8_e4m3fn, lambda n, k: (n, 1), lambda n, k: (1, k)
    ),
    "fp8-blocks": scaled(
        "fp8", torch.float8_e4m3fn, lambda n, k: (-(-n // 24), -(-k // 16)),
        lambda n, k: (24, 16), "weight_scale_inv", weight_block_size=[24, 16],
    ),
    "fp8-static": scaled(
        "fp8", torch.float8_e4m3fn, lambda n, k: (), lambda n, k: (n, k),
        activation_scheme="static",
    ),
    "nf4": bnb(NF4, "nf4"),
    "nf4-nested": bnb(NF4, "nf4", nested=True),
    "fp4-blocks-over-rows": bnb(_FP4, "fp4", block=96),
    "llm-int8": llm_int8(),
}  # fmt: skip
