"""Weight matrices on a device: one object for each, which knows how it is multiplied.

Every form of a QuantTensor is dequantized to the compute type when it is loaded: quantized files
take as much memory on the device as plain ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sgen.runtime.models import triton_ops as ops
from sgen.runtime.quant import QuantTensor


@dataclass(frozen=True, slots=True)
class Dense:
    """A matrix [N, K] of floats, with its bias [N] or without."""

    weight: Tensor
    bias: Tensor | None
    deterministic: bool

    def __call__(self, x: Tensor) -> Tensor:
        """x [T, K] of the weight's type -> [T, N]."""
        return ops.linear(x, self.weight, self.bias, deterministic=self.deterministic)

    def rows(self, index: Tensor) -> Tensor:
        """[T, K]: the rows of the indices, int64 [T]."""
        return self.weight[index]


def matrix(
    weights: Sequence[QuantTensor | Tensor],
    biases: Sequence[QuantTensor | Tensor] = (),
    *,
    device: torch.device,
    dtype: torch.dtype,
    deterministic: bool,
) -> Dense:
    """Matrices of the same input as one, their outputs one after another."""
    parts = [dense(w).to(device, dtype) for w in weights]
    bias = torch.cat([dense(b) for b in biases]).to(device, dtype) if biases else None
    return Dense(parts[0] if len(parts) == 1 else torch.cat(parts), bias, deterministic)


def dense(weight: QuantTensor | Tensor) -> Tensor:
    """fp32 on the CPU."""
    return weight if isinstance(weight, Tensor) else weight.dequantize()
