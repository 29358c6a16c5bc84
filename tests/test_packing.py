"""Packed matrices: the same weights bit for bit, where decoder.h says that they lie."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from builders import TYPE_NUMBERS, random_blocks

from sgen.kernels.packing import (
    ALIGNMENT,
    SCALE_HALF,
    SCALE_SUPER,
    Coding,
    Matrix,
    PackedMatrix,
    packed_bytes,
    unpack,
)
from sgen.runtime.ggml import GGML_TYPES
from sgen.runtime.quant import QuantTensor

QUANTIZED = [k.name for k in GGML_TYPES.values() if k.split is not None]
PLAIN = ["F32", "F16", "BF16"]


def stored(name: str, rows: int, columns: int, seed: int = 0) -> QuantTensor:
    kind = GGML_TYPES[TYPE_NUMBERS[name]]
    raw = random_blocks(name, (rows, columns), np.random.default_rng(seed)).raw
    return QuantTensor((rows, columns), np.frombuffer(raw, np.uint8).reshape(rows, -1), kind)


def assert_same_bits(packed: PackedMatrix, weight: QuantTensor) -> None:
    assert packed.data.ctypes.data % ALIGNMENT == 0
    assert packed.nbytes == packed_bytes(*weight.shape, packed.coding)
    ours, theirs = unpack(packed), weight.dequantize().numpy()
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 48])
def test_quantized_kinds_keep_their_bits(name: str, rows: int) -> None:
    weight = stored(name, rows, 3 * GGML_TYPES[TYPE_NUMBERS[name]].block_size, rows)
    assert_same_bits(weight.pack(), weight)


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (16, 32), (17, 33), (40, 7)])
def test_floats_keep_their_bits(name: str, rows: int, columns: int) -> None:
    weight = stored(name, rows, columns)
    assert_same_bits(weight.pack(), weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_keep_their_bits(dtype: torch.dtype) -> None:
    values = torch.randn(24, 19, generator=torch.Generator().manual_seed(0)).to(dtype)
    for tensor in (values, values[::2], values.T):
        weight = QuantTensor((tensor.shape[0], tensor.shape[1]), tensor, dtype)
        assert_same_bits(weight.pack(), weight)


@pytest.mark.parametrize("name", ["Q4_1", "Q6_K", "F16"])
def test_chunks_do_not_show(name: str) -> None:
    """More weights than are packed at a time, and a tail."""
    weight = stored(name, 16 * 9 + 3, 2048)
    assert_same_bits(weight.pack(), weight)


def by_hand(packed: PackedMatrix, row: int, column: int) -> tuple[int, int]:
    """decoder.h's words, one integer at a time: the integer, and where its block's scales begin."""
    c = packed.coding
    block_bytes = {4: 256, 5: 320, 6: 384, 8: 512}[c.bits]
    tile, output, block = row // 16, row % 16, column // 32
    tail = 32 * (1 + c.has_min) if c.scale == SCALE_HALF else 16 * 32 // c.group * (1 + c.has_min)
    start = tile * packed.nbytes // (-(-packed.rows // 16)) + block * (block_bytes + tail)
    if c.scale == SCALE_SUPER:
        start += (block // 8 + 1) * 32 * (1 + c.has_min)
    quad, inside = column % 32 // 4, output * 4 + column % 4
    data = packed.data
    if c.bits == 8:
        return int(data[start + quad * 64 + inside]), start + block_bytes
    value = int(data[start + quad // 2 * 64 + inside]) >> (4 * (quad % 2)) & 15
    if c.bits == 5:
        value |= (int(data[start + 256 + inside]) >> quad & 1) << 4
    if c.bits == 6:
        value |= (int(data[start + 256 + quad // 4 * 64 + inside]) >> quad % 4 * 2 & 3) << 4
    return value, start + block_bytes


def half(data: np.ndarray, offset: int) -> float:
    return float(data[offset : offset + 2].view(np.float16)[0])


@pytest.mark.parametrize("name", QUANTIZED)
def test_every_weight_lies_where_the_header_says(name: str) -> None:
    weight = stored(name, 18, 512)
    packed, expected = weight.pack(), weight.dequantize().numpy()
    c, data = packed.coding, packed.data
    rng = np.random.default_rng(1)
    for row, column in zip(rng.integers(0, 18, 400), rng.integers(0, 512, 400), strict=True):
        integer, tail = by_hand(packed, row, column)
        output = row % 16
        if c.scale == SCALE_HALF:
            value = half(data, tail + 2 * output) * (integer - c.zero)
            value += half(data, tail + 32 + 2 * output) if c.has_min else 0.0
        else:
            span = packed.nbytes // 2 // 2  # two tiles, each of two super-blocks
            start = (row // 16 * 2 + column // 256) * span
            groups = 32 // c.group
            small = tail + column % 32 // c.group * 16 + output
            value = half(data, start + 2 * output) * data[small].view(np.int8) * (integer - c.zero)
            if c.has_min:
                minimum = half(data, start + 32 + 2 * output) * int(data[small + groups * 16])
                value -= minimum
        # the products here are exact in double precision, there they were rounded to fp32 thrice
        assert value == pytest.approx(expected[row, column], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", ["Q5_1", "Q6_K", "BF16"])
def test_rows_behind_the_last_are_zeros(name: str) -> None:
    packed = stored(name, 17, 256).pack()
    whole = PackedMatrix(32, packed.columns, packed.coding, packed.data)
    assert not unpack(whole)[17:].any()


@pytest.mark.parametrize("field", ["d", "m"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_scales_must_be_finite(field: str, value: float) -> None:
    weight = stored("Q4_1", 20, 64)
    blocks = np.array(weight.data).view(GGML_TYPES[3].layout)
    blocks[19, 1][field] = value
    with pytest.raises(ValueError, match="infinite or NaN"):
        QuantTensor(weight.shape, blocks.view(np.uint8), weight.kind).pack()


@pytest.mark.parametrize(
    ("fields", "columns"),
    [({"bits": 7}, 32), ({"bits": 4, "group": 16}, 32), ({"bits": 4, "zero": 3}, 32),
     ({"bits": 4, "scale": 2}, 32), ({"bits": 4}, 48), ({"bits": 4}, 0),
     ({"bits": 6, "scale": SCALE_SUPER}, 128)],
)  # fmt: skip
def test_codings_that_there_are_not(fields: dict[str, int], columns: int) -> None:
    with pytest.raises(ValueError, match=r"no such coding|no multiple"):
        packed_bytes(16, columns, Coding(**fields))


def test_matrix_for_c() -> None:
    packed = stored("Q6_K", 20, 512).pack()
    bias = torch.arange(20, dtype=torch.float32)
    matrix = packed.struct(bias.data_ptr())
    # eight int32 and two pointers, without padding
    assert ctypes.sizeof(Matrix) == 8 * 4 + 2 * ctypes.sizeof(ctypes.c_void_p)
    c = packed.coding
    assert (matrix.rows, matrix.columns, matrix.bits, matrix.group) == (20, 512, 6, 16)
    assert (matrix.zero, matrix.scale, matrix.has_min) == (c.zero, SCALE_SUPER, 0) == (32, 1, 0)
    assert (matrix.data, matrix.bias) == (packed.data.ctypes.data, bias.data_ptr())
    assert packed.struct().bias is None
