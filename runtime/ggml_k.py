"""K-quants: super-blocks of 256 weights whose sub-blocks have quantized scales of their own.

Sources: `ggml-common.h` for the layouts, `dequantize_row_q*_K` in `ggml-quants.c` for their
meaning (https://github.com/ggml-org/ggml).  A super-block's 256 weights are walked as two halves
of 4 groups of 32; a group's two-bit or four-bit parts share their bytes with the other groups.
Each `split_*` takes blocks [n] apart; what the parts amount to is said by the coding beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sgen.kernels.packing import SCALE_SUPER, Coding, Parts

Bytes = npt.NDArray[np.uint8]
Blocks = npt.NDArray[np.void]

Q2_K = np.dtype([("scales", "u1", 16), ("qs", "u1", 64), ("d", "<f2"), ("dmin", "<f2")])
Q3_K = np.dtype([("hmask", "u1", 32), ("qs", "u1", 64), ("scales", "u1", 12), ("d", "<f2")])
Q4_K = np.dtype([("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qs", "u1", 128)])
Q5_K = np.dtype(
    [("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qh", "u1", 32), ("qs", "u1", 128)]
)
Q6_K = np.dtype([("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), ("d", "<f2")])
IQ4_XS = np.dtype([("d", "<f2"), ("scales_h", "<u2"), ("scales_l", "u1", 4), ("qs", "u1", 128)])

Q2_K_CODING = Coding(4, has_min=True, scale=SCALE_SUPER, group=16)
Q3_K_CODING = Coding(4, zero=4, scale=SCALE_SUPER, group=16)
Q4_K_CODING = Coding(4, has_min=True, scale=SCALE_SUPER)
Q5_K_CODING = Coding(5, has_min=True, scale=SCALE_SUPER)
Q6_K_CODING = Coding(6, zero=32, scale=SCALE_SUPER, group=16)
IQ4_XS_CODING = Coding(8, zero=128, scale=SCALE_SUPER)

CODEBOOK = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int16
)
"""The values of the sixteen codes of IQ4_NL and IQ4_XS (ggml's `kvalues_iq4nl`)."""


def unpack(blocks: Blocks, field: str) -> npt.NDArray[Any]:
    """A field of all blocks as a contiguous array of its own."""
    return np.ascontiguousarray(blocks[field])


def fields(blocks: Blocks, field: str, width: int, run: int, place: int = 0) -> Bytes:
    """The small integers in the bytes of a field, uint8 [n, runs, 8 / width, run].

    Each byte has one of `width` bits for each of 8 / width stretches of `run` weights, the first
    in its lowest bits.  They come out moved up to bit `place`.
    """
    words = unpack(blocks, field).view(np.uint64)
    mask = np.uint64(0x0101010101010101 * (2**width - 1))
    count = 8 // width
    whole = np.dtype((np.void, run))  # numpy copies a run of bytes faster as one item
    out = np.empty((blocks.size, words.nbytes // (blocks.size * run), count), whole)
    for i in range(count):
        found = (words >> np.uint64(width * i) & mask) << np.uint64(place)
        out[:, :, i] = found.view(whole).reshape(out.shape[:2])
    return out.view(np.uint8).reshape(*out.shape, run)


def by_codebook(codes: Bytes) -> Bytes:
    """Values + 128 of codes below 16."""
    return (CODEBOOK + 128).astype(np.uint8)[codes]


def split_q2_k(blocks: Blocks) -> Parts:
    """2 bits a weight, 16 sub-blocks; a byte has a scale in its low half, a minimum in its high."""
    n = blocks.size
    scales = unpack(blocks, "scales")
    integers = fields(blocks, "qs", 2, 32)
    small = (scales & 15).view(np.int8)
    d, dmin = unpack(blocks, "d"), unpack(blocks, "dmin")
    return Parts(integers.reshape(n, 256), d, dmin, small, scales >> np.uint8(4))


def split_q3_k(blocks: Blocks) -> Parts:
    """3 bits a weight, 16 sub-blocks whose scales are stored + 32.

    Bit g of `hmask` is the third bit of group g; scale i has its low four bits in nibble i of the
    first 8 bytes and its high two in field i // 4 of byte 8 + i % 4.
    """
    n = blocks.size
    integers = fields(blocks, "qs", 2, 32).reshape(n, 256)
    integers |= fields(blocks, "hmask", 1, 32, place=2).reshape(n, 256)
    packed = unpack(blocks, "scales")
    low, high = packed[:, :8], packed[:, 8:]
    scales = np.concatenate([low & 15, low >> 4], axis=1)
    scales |= np.concatenate([high >> shift & 3 for shift in (0, 2, 4, 6)], axis=1) << 4
    small = scales.view(np.int8) - np.int8(32)
    return Parts(integers, unpack(blocks, "d"), scales=small)


def _with_six_bit_scales(blocks: Blocks, integers: Bytes) -> Parts:
    """The scales and minima of Q4_K and Q5_K, 6 bits each.

    Bytes 0..3 and 4..7 hold the first four of each in their low six bits; the other four have
    their low four bits in the halves of bytes 8..11 and their high two atop bytes 0..7.
    """
    packed = unpack(blocks, "scales")
    first, second, rest = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, rest & 15 | first >> 6 << 4], axis=1).view(np.int8)
    minima = np.concatenate([second & 63, rest >> 4 | second >> 6 << 4], axis=1)
    d, dmin = unpack(blocks, "d"), unpack(blocks, "dmin")
    return Parts(integers.reshape(-1, 256), d, dmin, scales, minima)


def split_q4_k(blocks: Blocks) -> Parts:
    """4 bits a weight, 8 sub-blocks with scales and minima."""
    return _with_six_bit_scales(blocks, fields(blocks, "qs", 4, 32))


def split_q5_k(blocks: Blocks) -> Parts:
    """5 bits a weight, else as Q4_K; bit g of `qh` is the fifth bit of sub-block g."""
    integers = fields(blocks, "qs", 4, 32).reshape(-1, 256)
    integers |= fields(blocks, "qh", 1, 32, place=4).reshape(-1, 256)
    return _with_six_bit_scales(blocks, integers)


def split_q6_k(blocks: Blocks) -> Parts:
    """6 bits a weight, 16 sub-blocks with int8 scales."""
    integers = fields(blocks, "ql", 4, 64).reshape(-1, 256)
    integers |= fields(blocks, "qh", 2, 32, place=4).reshape(-1, 256)
    return Parts(integers, unpack(blocks, "d"), scales=unpack(blocks, "scales"))


def split_iq4_xs(blocks: Blocks) -> Parts:
    """4-bit codes, 8 sub-blocks whose scales are stored + 32: four bits here, two bits there.

    Unlike a K-quant's, each sub-block has 16 bytes of its own.
    """
    n = blocks.size
    codes = fields(blocks, "qs", 4, 16)
    packed = unpack(blocks, "scales_l")
    low = np.stack([packed & 15, packed >> 4], axis=2).reshape(n, 8)
    high = unpack(blocks, "scales_h")[:, None] >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    scales = (low | high.astype(np.uint8) << 4).view(np.int8) - np.int8(32)
    return Parts(by_codebook(codes).reshape(n, 256), unpack(blocks, "d"), scales=scales)
