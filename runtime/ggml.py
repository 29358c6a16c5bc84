"""GGML tensor types: their block layouts, and how each becomes fp32.

A row of K weights is stored as K / block_size blocks, one after another.  A layout here is a
packed numpy dtype with the fields of the C struct of the same name, so it is documentation and
decoder at once.  Dequantization equals the `gguf` package's bit for bit: the same fp32 operations
in the same order, and no fused multiply-add.

Layouts are those of ggml's `ggml-common.h` (https://github.com/ggml-org/ggml); type numbers are
those of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sgen.runtime import ggml_k
from sgen.runtime.ggml_k import Blocks, Bytes, Floats, unpack

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


@dataclass(frozen=True, slots=True)
class GGMLType:
    """A storage type: `decode(blocks [n], out fp32 [n, block_size])` fills `out`."""

    name: str
    block_size: int
    layout: np.dtype[np.void]
    decode: Callable[[Blocks, Floats], None]

    @property
    def block_bytes(self) -> int:
        return self.layout.itemsize

    def row_bytes(self, length: int) -> int:
        """Bytes of a row of `length` weights, which must be a multiple of `block_size`."""
        assert length % self.block_size == 0
        return length // self.block_size * self.block_bytes


def _scale(blocks: Blocks, field: str = "d") -> Floats:
    return unpack(blocks, field).astype(np.float32)[:, None]


def _decode_plain(blocks: Blocks, out: Floats) -> None:
    out[:, 0] = blocks["x"]


def _decode_bf16(blocks: Blocks, out: Floats) -> None:
    bits = out.view(np.uint32)  # bfloat16 is the upper half of a float32
    bits[:, 0] = blocks["x"]
    bits <<= 16


def _decode_nibbles(blocks: Blocks, out: Floats) -> None:
    out[:, :16] = blocks["qs"] & 15
    out[:, 16:] = blocks["qs"] >> 4


def _decode_five_bits(blocks: Blocks, out: Floats) -> None:
    fifth = np.unpackbits(unpack(blocks, "qh"), axis=1, bitorder="little") << 4
    out[:, :16] = blocks["qs"] & 15 | fifth[:, :16]
    out[:, 16:] = blocks["qs"] >> 4 | fifth[:, 16:]


def _decode_q4_0(blocks: Blocks, out: Floats) -> None:
    _decode_nibbles(blocks, out)
    out -= 8
    out *= _scale(blocks)


def _decode_q4_1(blocks: Blocks, out: Floats) -> None:
    _decode_nibbles(blocks, out)
    out *= _scale(blocks)
    out += _scale(blocks, "m")


def _decode_q5_0(blocks: Blocks, out: Floats) -> None:
    _decode_five_bits(blocks, out)
    out -= 16
    out *= _scale(blocks)


def _decode_q5_1(blocks: Blocks, out: Floats) -> None:
    _decode_five_bits(blocks, out)
    out *= _scale(blocks)
    out += _scale(blocks, "m")


def _decode_q8_0(blocks: Blocks, out: Floats) -> None:
    out[:] = blocks["qs"]
    out *= _scale(blocks)


GGML_TYPES = {
    0: GGMLType("F32", 1, _F32, _decode_plain),
    1: GGMLType("F16", 1, _F16, _decode_plain),
    2: GGMLType("Q4_0", 32, _Q4_0, _decode_q4_0),
    3: GGMLType("Q4_1", 32, _Q4_1, _decode_q4_1),
    6: GGMLType("Q5_0", 32, _Q5_0, _decode_q5_0),
    7: GGMLType("Q5_1", 32, _Q5_1, _decode_q5_1),
    8: GGMLType("Q8_0", 32, _Q8_0, _decode_q8_0),
    10: GGMLType("Q2_K", 256, ggml_k.Q2_K, ggml_k.decode_q2_k),
    11: GGMLType("Q3_K", 256, ggml_k.Q3_K, ggml_k.decode_q3_k),
    12: GGMLType("Q4_K", 256, ggml_k.Q4_K, ggml_k.decode_q4_k),
    13: GGMLType("Q5_K", 256, ggml_k.Q5_K, ggml_k.decode_q5_k),
    14: GGMLType("Q6_K", 256, ggml_k.Q6_K, ggml_k.decode_q6_k),
    30: GGMLType("BF16", 1, _BF16, _decode_bf16),
}
"""The types that sgen runs, by their number in a file."""

UNSUPPORTED_TYPES = {
    9: "Q8_1",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
}
"""Names of types that exist and that sgen does not run."""


def dequantize(raw: Bytes, kind: GGMLType) -> Floats:
    """fp32 [..., K] of blocks [..., row_bytes], uint8 and contiguous; equal to ggml's own values.

    Scales may be infinite or NaN in a hostile file: the result then is too, without a warning.
    """
    blocks = raw.reshape(-1).view(kind.layout)
    out = np.empty((blocks.size, kind.block_size), np.float32)
    step = _CHUNK // kind.block_size
    with np.errstate(all="ignore"):
        for start in range(0, blocks.size, step):
            kind.decode(blocks[start : start + step], out[start : start + step])
    return out.reshape(*raw.shape[:-1], raw.shape[-1] // kind.block_bytes * kind.block_size)
