"""`QuantTensor`: the one type of weight matrix that models and kernels see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sgen.kernels.packing import FLOATS, Coding, PackedMatrix, pack, pack_floats
from sgen.runtime.ggml import GGMLType, dequantize, split
from sgen.runtime.stored import Stored
from sgen.runtime.stored_packing import pack_stored


@dataclass(frozen=True, slots=True, eq=False)
class QuantTensor:
    """A weight matrix [N, K] (output by input features) as it is stored.

    From a GGUF file `data` is uint8 [N, row bytes], read-only and mapped from the file, and `kind`
    says what its blocks mean; a plain matrix is a tensor [N, K] of fp32, fp16 or bf16, its dtype
    the `kind`.  Matrices of quantized safetensors files say all themselves: see stored.py.
    """

    shape: tuple[int, int]
    data: npt.NDArray[np.uint8] | Tensor | Stored
    kind: GGMLType | torch.dtype | None = None

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def dequantize(self) -> Tensor:
        """fp32 [N, K], equal to the reference library's values bit for bit.

        A plain fp32 matrix is returned as it is: do not write into it.
        """
        return self._convert(self.data)

    def dequantize_rows(self, rows: Tensor) -> Tensor:
        """fp32 [T, K]: the rows of the given indices, int64 [T] on the CPU."""
        if isinstance(self.data, Tensor):
            return self._convert(self.data[rows])
        if isinstance(self.data, np.ndarray):
            return self._convert(self.data[rows.numpy()])
        return self.data.dequantize_rows(rows)

    def pack(self) -> PackedMatrix:
        """As the decoder's C code reads it; the weights are the same, bit for bit.

        ValueError: a scale is infinite or NaN.
        """
        data, kind = self.data, self.kind
        if isinstance(data, Stored):
            return pack_stored(data, *self.shape)
        if isinstance(data, Tensor):
            raw = data.contiguous().view(torch.uint8).numpy()
            return pack_floats(raw, Coding(FLOATS[data.dtype]))
        assert isinstance(kind, GGMLType)
        if kind.split is None:
            return pack_floats(data, kind.coding)
        return pack(*self.shape, kind.coding, lambda first, end: split(data[first:end], kind))

    def _convert(self, data: npt.NDArray[np.uint8] | Tensor | Stored) -> Tensor:
        if isinstance(data, Stored):
            return data.dequantize()
        if isinstance(data, Tensor):
            return data.to(torch.float32)
        assert isinstance(self.kind, GGMLType)
        return torch.from_numpy(dequantize(data, self.kind))
