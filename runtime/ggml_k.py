"""K-quants: super-blocks of 256 weights whose sub-blocks have quantized scales of their own.

Sources: `ggml-common.h` for the layouts, `dequantize_row_q*_K` in `ggml-quants.c` for their
meaning (https://github.com/ggml-org/ggml).  A super-block's 256 weights are walked as two halves
of 4 groups of 32; a group's two-bit or four-bit parts share their bytes with the other groups.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Blocks = npt.NDArray[np.void]

Q2_K = np.dtype([("scales", "u1", 16), ("qs", "u1", 64), ("d", "<f2"), ("dmin", "<f2")])
Q3_K = np.dtype([("hmask", "u1", 32), ("qs", "u1", 64), ("scales", "u1", 12), ("d", "<f2")])
Q4_K = np.dtype([("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qs", "u1", 128)])
Q5_K = np.dtype(
    [("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qh", "u1", 32), ("qs", "u1", 128)]
)
Q6_K = np.dtype([("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), ("d", "<f2")])

_PAIRS = np.array([0, 2, 4, 6], np.uint8)[:, None]  # shifts of the four 2-bit fields of a byte
_NIBBLES = np.array([0, 4], np.uint8)[:, None]
_BITS = np.arange(8, dtype=np.uint8)[:, None]


def unpack(blocks: Blocks, field: str) -> npt.NDArray[Any]:
    """A field of all blocks as a contiguous array of its own."""
    return np.ascontiguousarray(blocks[field])


def _times(blocks: Blocks, field: str, factors: npt.NDArray[Any]) -> Floats:
    """Sub-block scales: the fp16 `field` of each block times its small integers [n, subs, 1]."""
    scale = unpack(blocks, field).astype(np.float32)[:, None]
    products: Floats = scale * factors.astype(np.float32)
    return products[:, :, None]


def decode_q2_k(blocks: Blocks, out: Floats) -> None:
    """2 bits a weight, 16 sub-blocks: d * (scale & 15) * q - dmin * (scale >> 4)."""
    n = blocks.size
    qs, scales = unpack(blocks, "qs"), unpack(blocks, "scales")
    out.reshape(n, 2, 4, 32)[:] = qs.reshape(n, 2, 1, 32) >> _PAIRS & 3
    subs = out.reshape(n, 16, 16)
    subs *= _times(blocks, "d", scales & 15)
    subs -= _times(blocks, "dmin", scales >> 4)


def decode_q3_k(blocks: Blocks, out: Floats) -> None:
    """3 bits a weight, 16 sub-blocks: d * (scale - 32) * (q - 4).

    Bit g of `hmask` is the third bit of group g; scale i has its low four bits in nibble i of the
    first 8 bytes and its high two in field i // 4 of byte 8 + i % 4.
    """
    n = blocks.size
    qs, packed = unpack(blocks, "qs"), unpack(blocks, "scales")
    low = qs.reshape(n, 2, 1, 32) >> _PAIRS & 3
    high = unpack(blocks, "hmask").reshape(n, 1, 32) >> _BITS & 1
    out.reshape(n, 2, 4, 32)[:] = low | high.reshape(n, 2, 4, 32) << 2
    out -= 4
    scales = (packed[:, None, :8] >> _NIBBLES & 15).reshape(n, 16)
    scales |= (packed[:, None, 8:] >> _PAIRS & 3).reshape(n, 16) << 4
    subs = out.reshape(n, 16, 16)
    subs *= _times(blocks, "d", scales.view(np.int8) - 32)


def _six_bit_scales(blocks: Blocks) -> tuple[Bytes, Bytes]:
    """Scales and minima of Q4_K and Q5_K, 6 bits each, uint8 [n, 8].

    Bytes 0..3 and 4..7 hold the first four of each in their low six bits; the other four have
    their low four bits in the halves of bytes 8..11 and their high two atop bytes 0..7.
    """
    packed = unpack(blocks, "scales")
    first, second, rest = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, rest & 15 | first >> 6 << 4], axis=1)
    minima = np.concatenate([second & 63, rest >> 4 | second >> 6 << 4], axis=1)
    return scales, minima


def _apply_six_bit_scales(blocks: Blocks, out: Floats) -> None:
    scales, minima = _six_bit_scales(blocks)
    subs = out.reshape(blocks.size, 8, 32)
    subs *= _times(blocks, "d", scales)
    subs -= _times(blocks, "dmin", minima)


def decode_q4_k(blocks: Blocks, out: Floats) -> None:
    """4 bits a weight, 8 sub-blocks: d * scale * q - dmin * minimum."""
    n = blocks.size
    out.reshape(n, 4, 2, 32)[:] = unpack(blocks, "qs").reshape(n, 4, 1, 32) >> _NIBBLES & 15
    _apply_six_bit_scales(blocks, out)


def decode_q5_k(blocks: Blocks, out: Floats) -> None:
    """5 bits a weight, else as Q4_K; bit g of `qh` is the fifth bit of sub-block g."""
    n = blocks.size
    low = unpack(blocks, "qs").reshape(n, 4, 1, 32) >> _NIBBLES & 15
    high = unpack(blocks, "qh").reshape(n, 1, 32) >> _BITS & 1
    out.reshape(n, 4, 2, 32)[:] = low | high.reshape(n, 4, 2, 32) << 4
    _apply_six_bit_scales(blocks, out)


def decode_q6_k(blocks: Blocks, out: Floats) -> None:
    """6 bits a weight, 16 sub-blocks with int8 scales: d * scale * (q - 32)."""
    n = blocks.size
    low = unpack(blocks, "ql").reshape(n, 2, 1, 64) >> _NIBBLES & 15
    high = unpack(blocks, "qh").reshape(n, 2, 1, 32) >> _PAIRS & 3
    out.reshape(n, 2, 4, 32)[:] = low.reshape(n, 2, 4, 32) | high << 4
    out -= 32
    subs = out.reshape(n, 16, 16)
    subs *= _times(blocks, "d", unpack(blocks, "scales"))
