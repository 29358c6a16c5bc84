"""Packed matrices: weights in the order in which the decoder's C code reads them.

`unpack` is the specification of the layouts of kernels/native/decoder.h.  A layout is a numpy
dtype whose fields are the parts of one block of a tile, so that packing and unpacking are
assignments to and from the same fields.  Packing only moves integers and scales: the weights stay
those of the file, bit for bit.  A tile's rows behind the last of the matrix are zeros.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

TILE = 16
GROUP = 32
SUPER = 256
ALIGNMENT = 64
"""Bytes at whose multiples a packed matrix begins."""

SCALE_HALF, SCALE_SUPER = 0, 1
FLOAT_HALF, FLOAT_BFLOAT, FLOAT_SINGLE = 16, 17, 32

LAYOUT_VERSION = 1
"""To be raised whenever the bytes of a packed matrix change: saved ones are then made again."""

_CHUNK = 1 << 17
"""Weights packed at a time: what is made on the way stays within the L2 cache."""
_LOW = np.uint64(0x0F0F0F0F0F0F0F0F)
_ITEMS = {FLOAT_HALF: "<u2", FLOAT_BFLOAT: "<u2", FLOAT_SINGLE: "<u4"}
FLOATS = {
    torch.float16: FLOAT_HALF,
    torch.bfloat16: FLOAT_BFLOAT,
    torch.float32: FLOAT_SINGLE,
}
"""`bits` of the dtypes of plain matrices."""

Bytes = npt.NDArray[np.uint8]
Blocks = npt.NDArray[np.void]
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Coding:
    """How a matrix stores its weights; the fields are those of decoder.h's `Matrix`.

    `bits` is 4, 5, 6 or 8, or FLOAT_*, for which the other fields say nothing.
    """

    bits: int
    zero: int = 0
    has_min: bool = False
    scale: int = SCALE_HALF
    group: int = GROUP

    @property
    def is_float(self) -> bool:
        return self.bits >= FLOAT_HALF

    def __post_init__(self) -> None:
        """ValueError for what the C code does not know."""
        known = self.bits in (4, 5, 6, 8, *_ITEMS) and self.scale in (SCALE_HALF, SCALE_SUPER)
        groups = (32, 16) if self.scale == SCALE_SUPER else (32,)
        if not known or self.zero not in (0, 4, 8, 16, 32, 128) or self.group not in groups:
            raise ValueError(f"no such coding: {self}")


@dataclass(frozen=True, slots=True)
class Parts:
    """Quantized weights taken apart: n blocks of 32 (SCALE_HALF) or 256 (SCALE_SUPER).

    `integers` uint8 [n, block]; `scale` fp16 [n] (d of a super-block), or fp32 if each of them is
    an fp16 value where its block is not 0 (that is checked when it is packed); `minimum` fp16 [n]
    (dmin), where the coding has one.  Super-blocks have integers of their groups as well: `scales`
    int8 and `minima` uint8 [n, 256 / group].  What a weight is, `Coding` and decoder.h say.
    """

    integers: Bytes
    scale: npt.NDArray[np.float16] | npt.NDArray[np.float32]
    minimum: npt.NDArray[np.float16] | None = None
    scales: npt.NDArray[np.int8] | None = None
    minima: Bytes | None = None


class Matrix(ctypes.Structure):
    """decoder.h's `Matrix`."""

    _fields_ = (
        ("rows", ctypes.c_int32),
        ("columns", ctypes.c_int32),
        ("bits", ctypes.c_int32),
        ("group", ctypes.c_int32),
        ("zero", ctypes.c_int32),
        ("scale", ctypes.c_int32),
        ("has_min", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("data", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    )


@dataclass(frozen=True, slots=True, eq=False)
class PackedMatrix:
    """`rows` outputs by `columns` inputs; `data` uint8 [bytes], aligned to 64 bytes."""

    rows: int
    columns: int
    coding: Coding
    data: Bytes

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def struct(self, bias: int | None = None) -> Matrix:
        """For C; `bias` is the address of fp32 [rows].  The caller keeps both of them alive."""
        c = self.coding
        return Matrix(
            self.rows, self.columns, c.bits, c.group, c.zero, c.scale, c.has_min, 0,
            self.data.ctypes.data, bias,
        )  # fmt: skip


def packed_bytes(rows: int, columns: int, coding: Coding) -> int:
    """The size of a packed matrix; ValueError if so many columns cannot be coded so."""
    tiles = -(-rows // TILE)
    if coding.is_float:
        return tiles * columns * TILE * np.dtype(_ITEMS[coding.bits]).itemsize
    if rows < 1 or columns < 1 or columns % _block_columns(coding):
        raise ValueError(f"{columns} columns are no multiple of {_block_columns(coding)}")
    return tiles * (columns // _block_columns(coding)) * _layout(coding).itemsize


def pack(
    rows: int, columns: int, coding: Coding, split: Callable[[int, int], Parts]
) -> PackedMatrix:
    """A matrix of integers.  `split(first, end)` gives the parts of those rows, rows first.

    ValueError: a scale or a minimum is infinite or NaN.
    """
    packed = _empty(rows, columns, coding)
    blocks = _blocks(packed)
    step = max(1, _CHUNK // (columns * TILE)) * TILE
    for first in range(0, rows, step):
        end = min(first + step, rows)
        _place(split(first, end), coding, end - first, blocks[first // TILE : -(-end // TILE)])
    return packed


def pack_floats(raw: Bytes, coding: Coding) -> PackedMatrix:
    """A matrix of plain floats, given as the bytes of its rows, uint8 [rows, bytes of a row]."""
    items = raw.view(_ITEMS[coding.bits])
    rows, columns = items.shape
    packed = _empty(rows, columns, coding)
    tiles = packed.data.view(items.dtype).reshape(-1, columns, TILE)
    step = max(1, _CHUNK // (columns * TILE))
    for first in range(0, len(tiles), step):
        part = _tiled(items[first * TILE : (first + step) * TILE])
        tiles[first : first + step] = part.swapaxes(1, 2)
    return packed


def unpack(packed: PackedMatrix) -> npt.NDArray[np.float32]:
    """The weights, fp32 [rows, columns]: the same bits as before they were packed."""
    rows, columns, coding = packed.rows, packed.columns, packed.coding
    if coding.is_float:
        tiles = packed.data.view(_ITEMS[coding.bits]).reshape(-1, columns, TILE)
        bits = np.ascontiguousarray(tiles.swapaxes(1, 2)).reshape(-1, columns)[:rows]
        if coding.bits == FLOAT_HALF:
            return bits.view(np.float16).astype(np.float32)
        return (bits.astype(np.uint32) << (16 * (coding.bits == FLOAT_BFLOAT))).view(np.float32)
    blocks = _blocks(packed)
    supers, inner = blocks.shape[:2]
    inner_blocks = blocks["blocks"] if coding.scale == SCALE_SUPER else blocks[:, :, None]
    quads = _quads(inner_blocks, coding.bits)  # [T, supers, blocks, 8, 16, 4]
    integers = quads.transpose(0, 4, 1, 2, 3, 5).astype(np.float32) - np.float32(coding.zero)
    subs = integers.reshape(supers * TILE, inner, -1, coding.group)
    weights = subs * _by_row(blocks, inner_blocks, "scale", coding)
    if coding.has_min:
        minima = _by_row(blocks, inner_blocks, "minimum", coding)
        weights = weights - minima if coding.scale == SCALE_SUPER else weights + minima
    return weights.reshape(-1, columns)[:rows]


def _empty(rows: int, columns: int, coding: Coding) -> PackedMatrix:
    nbytes = packed_bytes(rows, columns, coding)
    whole = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -whole.ctypes.data % ALIGNMENT
    return PackedMatrix(rows, columns, coding, whole[start : start + nbytes])


def _block_columns(coding: Coding) -> int:
    return SUPER if coding.scale == SCALE_SUPER else GROUP


@lru_cache(maxsize=64)
def _layout(coding: Coding) -> np.dtype[np.void]:
    """A block of a tile: 32 columns, or 256 of them with blocks of 32 inside."""
    high = {5: [("high", "u1", (1, 64))], 6: [("high", "u1", (2, 64))]}.get(coding.bits, [])
    integers: list[Any] = [("low", "u1", (8 if coding.bits == 8 else 4, 64)), *high]
    scale: list[Any] = [("scale", "<f2", TILE)]
    minimum: list[Any] = [("minimum", "<f2", TILE)] if coding.has_min else []
    if coding.scale == SCALE_HALF:
        return np.dtype([*integers, *scale, *minimum])
    groups = (GROUP // coding.group, TILE)
    small: list[Any] = [("scales", "i1", groups)]
    small += [("minima", "u1", groups)] if coding.has_min else []
    return np.dtype([*scale, *minimum, ("blocks", np.dtype([*integers, *small]), SUPER // GROUP)])


def _blocks(packed: PackedMatrix) -> Blocks:
    """The matrix as blocks [tiles, columns of blocks]."""
    across = packed.columns // _block_columns(packed.coding)
    return packed.data.view(_layout(packed.coding)).reshape(-1, across)


def _tiled(by_row: Array) -> Array:
    """[T, 16, ...] of [rows, ...], with zeros behind the last row."""
    missing = -len(by_row) % TILE
    if missing:
        by_row = np.concatenate([by_row, np.zeros((missing, *by_row.shape[1:]), by_row.dtype)])
    return by_row.reshape(-1, TILE, *by_row.shape[1:])


def _place(parts: Parts, coding: Coding, rows: int, out: Blocks) -> None:
    """Fill the blocks of some tiles [T, columns of blocks]."""

    def tiled(values: Array) -> Array:  # [T, 16, columns of blocks, ...] of [n, ...]
        return _tiled(values.reshape(rows, -1, *values.shape[1:]))

    for name, values in (("scale", parts.scale), ("minimum", parts.minimum)):
        if values is not None:
            if not np.isfinite(values).all():
                raise ValueError("a scale is infinite or NaN")
            out[name] = tiled(_halves(values, parts, coding)).swapaxes(1, 2)
    inner = out["blocks"] if coding.scale == SCALE_SUPER else out[:, :, None]
    words = tiled(parts.integers).view(np.uint32)
    words = words.reshape(-1, TILE, *inner.shape[1:], 8).transpose(4, 0, 2, 3, 1)
    _store(np.ascontiguousarray(words).view(np.uint64), coding.bits, inner)
    for name, small in (("scales", parts.scales), ("minima", parts.minima)):
        if small is not None:
            groups = tiled(small).reshape(-1, TILE, *inner.shape[1:], GROUP // coding.group)
            inner[name] = groups.transpose(0, 2, 3, 4, 1)


def _halves(values: Array, parts: Parts, coding: Coding) -> npt.NDArray[np.float16]:
    """Scales as they are stored; ValueError if one of a block that matters is no fp16 number."""
    if values.dtype == np.float16:
        return values
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    lost = halves != values
    if lost.any() and (parts.integers[lost] != coding.zero).any():
        raise ValueError("a scale does not fit fp16")
    return np.where(lost, np.float16(0), halves)


def _store(quads: npt.NDArray[np.uint64], bits: int, out: Blocks) -> None:
    """Integers by quads [8, ..., 8], eight in a word, into the blocks [...]."""
    low, four = out["low"], np.uint64(4)
    if bits == 8:
        for j in range(8):
            low[..., j, :] = quads[j].view(np.uint8)
        return
    for i in range(4):
        even = quads[2 * i] if bits == 4 else quads[2 * i] & _LOW
        low[..., i, :] = (even | quads[2 * i + 1] << four & ~_LOW).view(np.uint8)
    if bits == 4:
        return
    width = bits - 4
    each = 8 // width  # quads whose top bits share a byte
    mask = np.uint64(0x0101010101010101 * (2**width - 1)) << four
    for h in range(width):
        high = np.zeros_like(quads[0])
        for i in range(each):
            high |= (quads[each * h + i] & mask) >> four << np.uint64(width * i)
        out["high"][..., h, :] = high.view(np.uint8)


def _quads(blocks: Blocks, bits: int) -> Bytes:
    """The integers of blocks [...] as [..., 8 quads, 16 outputs, 4 columns]."""
    low = blocks["low"]
    if bits < 8:
        low = np.stack([low & 15, low >> 4], axis=-2)
    quads = low.reshape(*blocks.shape, 8, 64)
    if bits in (5, 6):
        shifts = np.arange(0, 8, bits - 4, dtype=np.uint8)[:, None]
        high = blocks["high"][..., None, :] >> shifts & np.uint8(2 ** (bits - 4) - 1)
        quads = quads | high.reshape(quads.shape) << 4
    return quads.reshape(*blocks.shape, 8, TILE, 4)


def _by_row(blocks: Blocks, inner: Blocks, name: str, coding: Coding) -> Array:
    """A scale or minimum of each group, fp32 [rows, columns of blocks, groups, 1]."""
    outer = blocks[name].swapaxes(1, 2).astype(np.float32)[..., None]  # [T, 16, across, 1]
    if coding.scale == SCALE_SUPER:
        small = inner["scales" if name == "scale" else "minima"]  # [T, across, 8, groups, 16]
        groups = small.transpose(0, 4, 1, 2, 3).astype(np.float32)
        outer = outer * groups.reshape(*outer.shape[:3], -1)
    return outer.reshape(-1, *outer.shape[2:], 1)
