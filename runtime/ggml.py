"""GGML tensor types: their block layouts, and how each becomes fp32.

A row of K weights is stored as K / block_size blocks, one after another.  A layout here is a
packed numpy dtype with the fields of the C struct of the same name, so it is documentation and
decoder at once.  A quantized type is taken apart into integers and scales, from which come both
fp32 values and packed matrices (kernels/packing.py).  Dequantization equals the `gguf` package's
bit for bit: the same fp32 operations in the same order, and no fused multiply-add.

Layouts are those of ggml's `ggml-common.h` (https://github.com/ggml-org/ggml); type numbers are
those of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sgen.kernels.packing import (
    FLOAT_BFLOAT,
    FLOAT_HALF,
    FLOAT_SINGLE,
    SCALE_SUPER,
    Coding,
    Parts,
)
from sgen.runtime import ggml_k
from sgen.runtime.ggml_k import Blocks, Bytes, by_codebook, fields, unpack

Floats = npt.NDArray[np.float32]

_CHUNK = 1 << 16
"""Weights dequantized at a time: their fp32 values and temporaries stay within the L2 cache."""

# `d` is a block's scale, `m` its minimum, `qs` holds the low four bits of weight j in the low
# half of byte j and of weight j + 16 in the high half; bit j of `qh` is the fifth bit of weight j.
_F32 = np.dtype([("x", "<f4")])
_F16 = np.dtype([("x", "<f2")])
_BF16 = np.dtype([("x", "<u2")])
_Q4_0 = np.dtype([("d", "<f2"), ("qs", "u1", 16)])
_Q4_1 = np.dtype([("d", "<f2"), ("m", "<f2"), ("qs", "u1", 16)])
_Q5_0 = np.dtype([("d", "<f2"), ("qh", "u1", 4), ("qs", "u1", 16)])
_Q5_1 = np.dtype([("d", "<f2"), ("m", "<f2"), ("qh", "u1", 4), ("qs", "u1", 16)])
_Q8_0 = np.dtype([("d", "<f2"), ("qs", "i1", 32)])
_MXFP4 = np.dtype([("e", "u1"), ("qs", "u1", 16)])
_IQ4_NL = np.dtype([("d", "<f2"), ("qs", "u1", 16)])


@dataclass(frozen=True, slots=True)
class GGMLType:
    """A storage type.  `split(blocks [n])` takes quantized blocks apart, and `coding` says what
    their parts amount to; plain floats have no `split`."""

    name: str
    block_size: int
    layout: np.dtype[np.void]
    coding: Coding
    split: Callable[[Blocks], Parts] | None = None

    @property
    def block_bytes(self) -> int:
        return self.layout.itemsize

    def row_bytes(self, length: int) -> int:
        """Bytes of a row of `length` weights, which must be a multiple of `block_size`."""
        assert length % self.block_size == 0
        return length // self.block_size * self.block_bytes


def _nibbles(blocks: Blocks) -> Bytes:
    return fields(blocks, "qs", 4, 16).reshape(-1, 32)


def _five_bits(blocks: Blocks) -> Bytes:
    fifth = np.unpackbits(unpack(blocks, "qh"), axis=1, bitorder="little")
    return _nibbles(blocks) | fifth << np.uint8(4)


def _split_nibbles(blocks: Blocks) -> Parts:
    return Parts(_nibbles(blocks), unpack(blocks, "d"))


def _split_nibbles_min(blocks: Blocks) -> Parts:
    return Parts(_nibbles(blocks), unpack(blocks, "d"), unpack(blocks, "m"))


def _split_five_bits(blocks: Blocks) -> Parts:
    return Parts(_five_bits(blocks), unpack(blocks, "d"))


def _split_five_bits_min(blocks: Blocks) -> Parts:
    return Parts(_five_bits(blocks), unpack(blocks, "d"), unpack(blocks, "m"))


def _split_q8_0(blocks: Blocks) -> Parts:
    integers = unpack(blocks, "qs").view(np.uint8) ^ np.uint8(128)  # + 128
    return Parts(integers, unpack(blocks, "d"))


def _split_iq4_nl(blocks: Blocks) -> Parts:
    return Parts(by_codebook(_nibbles(blocks)), unpack(blocks, "d"))


_E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)
"""Twice the values of FP4 (OCP Microscaling Formats 1.0), by their codes."""


def _split_mxfp4(blocks: Blocks) -> Parts:
    """The scale is 2^(e - 127) of the whole values, so 2^(e - 128) of twice the values."""
    integers = _E2M1[_nibbles(blocks)]
    scale = np.ldexp(np.float32(1), unpack(blocks, "e").astype(np.int32) - 128)
    return Parts(integers.view(np.uint8) ^ np.uint8(128), scale.reshape(-1))


GGML_TYPES = {
    0: GGMLType("F32", 1, _F32, Coding(FLOAT_SINGLE)),
    1: GGMLType("F16", 1, _F16, Coding(FLOAT_HALF)),
    2: GGMLType("Q4_0", 32, _Q4_0, Coding(4, zero=8), _split_nibbles),
    3: GGMLType("Q4_1", 32, _Q4_1, Coding(4, has_min=True), _split_nibbles_min),
    6: GGMLType("Q5_0", 32, _Q5_0, Coding(5, zero=16), _split_five_bits),
    7: GGMLType("Q5_1", 32, _Q5_1, Coding(5, has_min=True), _split_five_bits_min),
    8: GGMLType("Q8_0", 32, _Q8_0, Coding(8, zero=128), _split_q8_0),
    10: GGMLType("Q2_K", 256, ggml_k.Q2_K, ggml_k.Q2_K_CODING, ggml_k.split_q2_k),
    11: GGMLType("Q3_K", 256, ggml_k.Q3_K, ggml_k.Q3_K_CODING, ggml_k.split_q3_k),
    12: GGMLType("Q4_K", 256, ggml_k.Q4_K, ggml_k.Q4_K_CODING, ggml_k.split_q4_k),
    13: GGMLType("Q5_K", 256, ggml_k.Q5_K, ggml_k.Q5_K_CODING, ggml_k.split_q5_k),
    14: GGMLType("Q6_K", 256, ggml_k.Q6_K, ggml_k.Q6_K_CODING, ggml_k.split_q6_k),
    20: GGMLType("IQ4_NL", 32, _IQ4_NL, Coding(8, zero=128), _split_iq4_nl),
    23: GGMLType("IQ4_XS", 256, ggml_k.IQ4_XS, ggml_k.IQ4_XS_CODING, ggml_k.split_iq4_xs),
    39: GGMLType("MXFP4", 32, _MXFP4, Coding(8, zero=128), _split_mxfp4),
    30: GGMLType("BF16", 1, _BF16, Coding(FLOAT_BFLOAT)),
}
"""The types that sgen runs, by their number in a file."""

UNSUPPORTED_TYPES = {
    9: "Q8_1",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    21: "IQ3_S",
    22: "IQ2_S",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    40: "NVFP4",
}
"""Names of types that exist and that sgen does not run."""


def split(raw: Bytes, kind: GGMLType) -> Parts:
    """The parts of blocks, uint8 and contiguous, of a quantized type."""
    assert kind.split is not None
    return kind.split(raw.reshape(-1).view(kind.layout))


def dequantize(raw: Bytes, kind: GGMLType) -> Floats:
    """fp32 [..., K] of blocks [..., row_bytes], uint8 and contiguous; equal to ggml's own values.

    Scales may be infinite or NaN in a hostile file: the result then is too, without a warning.
    """
    blocks = raw.reshape(-1).view(kind.layout)
    out = np.empty((blocks.size, kind.block_size), np.float32)
    step = _CHUNK // kind.block_size
    with np.errstate(all="ignore"):
        for start in range(0, blocks.size, step):
            part, target = blocks[start : start + step], out[start : start + step]
            if kind.split is None:
                _decode_plain(part, kind.coding, target)
            else:
                _decode(kind.split(part), kind.coding, target)
    return out.reshape(*raw.shape[:-1], raw.shape[-1] // kind.block_bytes * kind.block_size)


def _decode_plain(blocks: Blocks, coding: Coding, out: Floats) -> None:
    if coding.bits == FLOAT_BFLOAT:
        bits = out.view(np.uint32)  # bfloat16 is the upper half of a float32
        bits[:, 0] = blocks["x"]
        bits <<= 16
    else:
        out[:, 0] = blocks["x"]


def _decode(parts: Parts, coding: Coding, out: Floats) -> None:
    """scale * (integer - zero), + minimum or - dmin * minimum, rounded after each operation."""
    out[:] = parts.integers
    out -= coding.zero
    groups = out.reshape(len(out), -1, coding.group)
    groups *= _of_groups(parts.scale, parts.scales)
    if parts.minimum is None:
        return
    minima = _of_groups(parts.minimum, parts.minima)
    if coding.scale == SCALE_SUPER:
        groups -= minima
    else:
        groups += minima


def _of_groups(outer: npt.NDArray[Any], small: npt.NDArray[Any] | None) -> Floats:
    """fp32 [n, groups, 1]: the numbers of blocks [n], times those of their groups."""
    values = outer.astype(np.float32)[:, None]
    if small is not None:
        values = values * small.astype(np.float32)
    return values[:, :, None]
