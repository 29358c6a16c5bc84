"""Matrices of stored.py in the layout of the decoder's C code, bit for bit.

Integers stay integers where a scale holds for 32 columns and is an fp16 number; all else becomes
floats, the narrowest that hold every weight exactly: 2 or 4 bytes a weight.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sgen.kernels.packing import FLOATS, GROUP, Coding, PackedMatrix, Parts, pack, pack_floats
from sgen.runtime.stored import Grouped, Scaled, Stored

_BYTES = Coding(8, zero=128)
_NIBBLES = Coding(4, zero=8)


def pack_stored(matrix: Stored, rows: int, columns: int) -> PackedMatrix:
    """Of `rows` by `columns`; ValueError if a scale is infinite or NaN."""
    scales = _block_scales(matrix, columns)
    if isinstance(matrix, Grouped) and scales is not None:
        if matrix.bits == 4 and bool((matrix.zeros == 8).all()):
            return _pack(rows, columns, _NIBBLES, matrix, scales)
        if matrix.bits == 4 or _in_bytes(matrix, rows):
            return _pack(rows, columns, _BYTES, matrix, scales)
    if isinstance(matrix, Scaled) and scales is not None and matrix.values.dtype == torch.int8:
        return _pack(rows, columns, _BYTES, matrix, scales)
    return _pack_floats(matrix.dequantize())


def _block_scales(matrix: Stored, columns: int) -> Tensor | None:
    """fp16 [N, K / 32] scales of integers; None where they are not exactly that."""
    if columns % GROUP:
        return None
    if isinstance(matrix, Grouped):
        if matrix.group_of is not None or matrix.group_size % GROUP:
            return None
        scales, width = matrix.scales, matrix.group_size
    elif isinstance(matrix, Scaled):
        rows = torch.arange(len(matrix.values)) // matrix.block[0]
        scales, width = matrix.scales[rows], matrix.block[1]
        if width % GROUP:
            return None
    else:
        return None
    halves = scales.to(torch.float16)
    if not torch.equal(halves.float(), scales.float()):
        return None  # NaN is caught with the floats
    column = torch.arange(0, columns, GROUP) // width
    return halves[:, column]


def _in_bytes(matrix: Grouped, rows: int) -> bool:
    centred = matrix.centred(torch.arange(rows))
    return int(centred.min()) >= -128 and int(centred.max()) < 128


def _pack(
    rows: int, columns: int, coding: Coding, matrix: Grouped | Scaled, scales: Tensor
) -> PackedMatrix:
    def split(first: int, end: int) -> Parts:
        index = torch.arange(first, end)
        if isinstance(matrix, Grouped):
            centred = matrix.centred(index)
        else:
            centred = matrix.values[index].to(torch.int16)
        integers = (centred + coding.zero).to(torch.uint8).reshape(-1, GROUP)
        return Parts(integers.numpy(), scales[index].reshape(-1).numpy())

    return pack(rows, columns, coding, split)


def _pack_floats(values: Tensor) -> PackedMatrix:
    if not bool(values.isfinite().all()):
        raise ValueError("a scale is infinite or NaN")
    for dtype in (torch.float16, torch.bfloat16):
        if torch.equal(values.to(dtype).float(), values):
            values = values.to(dtype)
            break
    raw: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
    raw = values.contiguous().view(torch.uint8).numpy()
    return pack_floats(raw, Coding(FLOATS[values.dtype]))
