"""Matrices of quantized safetensors checkpoints, in three forms that cover all their formats.

Each format's loader brings a matrix [N, K] (output by input features) into one of these; what it
moves are the file's integers, codes and scales, so that `dequantize` gives the values of the
format's own library, bit for bit in fp32.  Kernels see these forms only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Grouped:
    """w[n, k] = (integers[n, k] - zeros[n, g]) * scales[n, g], g the group of column k.

    GPTQ, AWQ, and the int4 and grouped int8 of compressed-tensors.  With 4 bits, byte i of a row
    holds column 2 i in its low nibble and column 2 i + 1 in its high one.
    """

    bits: Literal[4, 8]
    integers: Tensor  # uint8 [N, K / 2] (4 bits) or [N, K]
    scales: Tensor  # fp32, fp16 or bf16 [N, G]
    zeros: Tensor  # int16 [N, G], 0 to 256
    group_size: int
    group_of: Tensor | None = None  # int32 [K], where groups are not runs of columns (act-order)

    @property
    def nbytes(self) -> int:
        order = 0 if self.group_of is None else self.group_of.nbytes
        return self.integers.nbytes + self.scales.nbytes + self.zeros.nbytes + order

    def dequantize(self) -> Tensor:
        """fp32 [N, K]."""
        return self.dequantize_rows(torch.arange(len(self.integers)))

    def dequantize_rows(self, index: Tensor) -> Tensor:
        """fp32 [T, K] of the rows int64 [T]."""
        return self.centred(index).float() * self.scales[index].float()[:, self.groups()]

    def centred(self, index: Tensor) -> Tensor:
        """Integers less their zero points, int16 [T, K], of the rows int64 [T]."""
        q = self.integers[index]
        q = q if self.bits == 8 else nibbles(q)
        return q.to(torch.int16) - self.zeros[index][:, self.groups()]

    def groups(self) -> Tensor:
        """The group of each column, int64 [K]."""
        if self.group_of is not None:
            return self.group_of.long()
        return torch.arange(self.integers.shape[1] * 8 // self.bits) // self.group_size


@dataclass(frozen=True, slots=True, eq=False)
class Codebook:
    """w = table[code] * scale of its block; blocks are runs of the matrix's elements, row by row.

    NF4 and FP4 of bitsandbytes.  Nibbles as in `Grouped`.  Blocks do not end with rows.
    """

    codes: Tensor  # uint8 [N, K / 2]
    table: Tensor  # fp32 [16]
    scales: Tensor  # fp32 [ceil(N K / block)]
    block: int

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.table.nbytes + self.scales.nbytes

    def dequantize(self) -> Tensor:
        """fp32 [N, K]."""
        return self.dequantize_rows(torch.arange(len(self.codes)))

    def dequantize_rows(self, index: Tensor) -> Tensor:
        """fp32 [T, K] of the rows int64 [T]."""
        code = nibbles(self.codes[index])
        columns = code.shape[1]
        place = index[:, None] * columns + torch.arange(columns)
        return self.table[code.long()] * self.scales[place // self.block]


@dataclass(frozen=True, slots=True, eq=False)
class Scaled:
    """w[n, k] = values[n, k] * scales[n // bn, k // bk], (bn, bk) = block.

    fp8 by tensor (block = shape), by channel ((1, K)) or by block ((128, 128)), int8 by channel
    (SmoothQuant, LLM.int8).  `input` says how the checkpoint wants activations quantized: not at
    all, or to the type of the values, each row by itself, or with the one scale `input_scale`.
    """

    values: Tensor  # float8_e4m3fn or int8 [N, K]
    scales: Tensor  # fp32 [ceil(N / bn), ceil(K / bk)]
    block: tuple[int, int]
    input: Literal["none", "row", "tensor"] = "none"
    input_scale: float | None = None  # x ~ input_scale * quantized x

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.scales.nbytes

    def dequantize(self) -> Tensor:
        """fp32 [N, K]."""
        return self.dequantize_rows(torch.arange(len(self.values)))

    def dequantize_rows(self, index: Tensor) -> Tensor:
        """fp32 [T, K] of the rows int64 [T]."""
        rows = self.scales[index // self.block[0]]
        columns = torch.arange(self.values.shape[1]) // self.block[1]
        return self.values[index].float() * rows[:, columns]


Stored = Grouped | Codebook | Scaled


def nibbles(packed: Tensor) -> Tensor:
    """uint8 [N, K / 2] -> uint8 [N, K], the low nibble first."""
    return torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1)


def pack_nibbles(values: Tensor) -> Tensor:
    """uint8 [N, K] below 16, K even -> uint8 [N, K / 2]; the inverse of `nibbles`."""
    return values[:, ::2] | values[:, 1::2] << 4
