"""GGML tensor types written: fp32 rows to blocks, the inverse of `ggml.dequantize`.

What is true of `encode`:

- Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 round to the nearest of the steps that a block's extremes give:
  their bytes are those of `gguf.quants.quantize`;
- MXFP4 takes, of two neighbouring powers of two, the scale with the smaller squared error;
- the K types, IQ4_NL and IQ4_XS search their scales (ggml_encode_k.py);
- a value that is not finite, or too large for fp16 scales, is refused.

Layouts: ggml's `ggml-common.h` (https://github.com/ggml-org/ggml); MXFP4 is that of the OCP
Microscaling Formats specification, version 1.0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sgen.runtime import ggml_encode_k as search
from sgen.runtime.ggml_encode_k import Bytes, Floats, half, inverse, pair

_CHUNK = 1 << 15
"""Weights encoded at a time: they and the temporaries of a search stay within the L2 cache."""

_FP4 = np.array([0, 1, 2, 3, 4, 6, 8, 12], np.float32)  # twice the magnitudes of e2m1
_FP4_MIDDLES = (_FP4[1:] + _FP4[:-1]) / 2


@dataclass(frozen=True, slots=True)
class Encoder:
    """A type that can be written; `blocks` takes fp32 [n, block_size] to uint8 [n, block_bytes]."""

    name: str
    number: int  # in a GGUF file
    block_size: int
    block_bytes: int
    blocks: Callable[[Floats], Bytes]

    def row_bytes(self, length: int) -> int:
        """Bytes of a row of `length` weights, which must be a multiple of `block_size`."""
        assert length % self.block_size == 0
        return length // self.block_size * self.block_bytes


def encode(values: Floats, name: str) -> Bytes:
    """uint8 [N, row bytes] of fp32 [N, K] in the type of that name, such as "q4_k".

    ValueError: K is no multiple of the block size, or a value cannot be expressed.
    """
    encoder = ENCODERS[name]
    rows, columns = values.shape
    if columns % encoder.block_size:
        raise ValueError(f"rows of {columns} do not divide into blocks of {encoder.block_size}")
    if not np.isfinite(values).all():
        raise ValueError("a value is infinite or not a number")
    blocks = np.ascontiguousarray(values, np.float32).reshape(-1, encoder.block_size)
    out = np.empty((len(blocks), encoder.block_bytes), np.uint8)
    step = _CHUNK // encoder.block_size
    with np.errstate(all="ignore"):  # of blocks without a scale, which `inverse` takes care of
        for start in range(0, len(blocks), step):
            out[start : start + step] = encoder.blocks(blocks[start : start + step])
    return out.reshape(rows, encoder.row_bytes(columns))


def _f32(x: Floats) -> Bytes:
    return x.view(np.uint8)


def _f16(x: Floats) -> Bytes:
    return half(x)


def _largest(x: Floats) -> Floats:
    """The value of largest magnitude in each row, [n, 1]."""
    place = np.abs(x).argmax(axis=1, keepdims=True)
    return np.take_along_axis(x, place, axis=1)


def _symmetric(x: Floats, middle: int) -> tuple[Floats, Bytes]:
    """Scales [n, 1] by which the largest value becomes -middle, and integers + middle."""
    scale = _largest(x) / np.float32(-middle)
    moved = np.trunc(x * inverse(scale) + np.float32(middle + 0.5))
    return scale, moved.clip(0, 2 * middle - 1).astype(np.uint8)


def _from_minimum(x: Floats, top: int) -> tuple[Floats, Floats, Bytes]:
    """Scales and minima [n, 1], and integers of 0 to `top`."""
    low = x.min(axis=1, keepdims=True)
    scale = (x.max(axis=1, keepdims=True) - low) / np.float32(top)
    moved = np.trunc((x - low) * inverse(scale) + np.float32(0.5))
    return scale, low, moved.clip(0, top).astype(np.uint8)


def _fifth_bits(integers: Bytes) -> Bytes:
    return np.packbits(integers >> np.uint8(4), axis=1, bitorder="little")


def _q4_0(x: Floats) -> Bytes:
    scale, integers = _symmetric(x, 8)
    return np.concatenate([half(scale), pair(integers, 16)], axis=1)


def _q4_1(x: Floats) -> Bytes:
    scale, low, integers = _from_minimum(x, 15)
    return np.concatenate([half(scale), half(low), pair(integers, 16)], axis=1)


def _q5_0(x: Floats) -> Bytes:
    scale, q = _symmetric(x, 16)
    return np.concatenate([half(scale), _fifth_bits(q), pair(q & np.uint8(15), 16)], axis=1)


def _q5_1(x: Floats) -> Bytes:
    scale, low, q = _from_minimum(x, 31)
    return np.concatenate(
        [half(scale), half(low), _fifth_bits(q), pair(q & np.uint8(15), 16)], axis=1
    )


def _q8_0(x: Floats) -> Bytes:
    scale = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    scaled = x * inverse(scale)
    size = np.abs(scaled)
    floor = np.floor(size)  # a half goes away from zero, as C's roundf has it
    rounded = np.sign(scaled) * (floor + np.floor(2 * (size - floor)))
    return np.concatenate([half(scale), rounded.astype(np.int8).view(np.uint8)], axis=1)


def _mxfp4(x: Floats) -> Bytes:
    """An e8m0 scale, then e2m1 codes; the largest value becomes 4 to 8, or half of that."""
    largest = np.abs(x).max(axis=1)
    _, exponent = np.frexp(largest)  # largest = 0.5 .. 1 times 2 ** exponent
    first = np.where(largest > 0, exponent - 3 + 127, 0).clip(0, 254)
    best, codes = first, np.zeros(x.shape, np.uint8)
    least = np.full(len(x), np.inf)
    for candidate in (first, (first + 1).clip(0, 254)):
        step = np.ldexp(np.float64(1), candidate - 128)[:, None]  # of the doubled magnitudes
        magnitude = np.searchsorted(_FP4_MIDDLES, np.abs(x) / step).astype(np.uint8)
        error = np.square(_FP4[magnitude] * step - np.abs(x)).sum(axis=1)
        better = error < least
        best, least = np.where(better, candidate, best), np.where(better, error, least)
        codes[better] = (magnitude | np.where(x < 0, 8, 0).astype(np.uint8))[better]
    return np.concatenate([best.astype(np.uint8)[:, None], pair(codes, 16)], axis=1)


_ALL = (
    Encoder("f32", 0, 1, 4, _f32),
    Encoder("f16", 1, 1, 2, _f16),
    Encoder("q4_0", 2, 32, 18, _q4_0),
    Encoder("q4_1", 3, 32, 20, _q4_1),
    Encoder("q5_0", 6, 32, 22, _q5_0),
    Encoder("q5_1", 7, 32, 24, _q5_1),
    Encoder("q8_0", 8, 32, 34, _q8_0),
    Encoder("q4_k", 12, 256, 144, search.q4_k),
    Encoder("q5_k", 13, 256, 176, search.q5_k),
    Encoder("q6_k", 14, 256, 210, search.q6_k),
    Encoder("iq4_nl", 20, 32, 18, search.iq4_nl),
    Encoder("iq4_xs", 23, 256, 136, search.iq4_xs),
    Encoder("mxfp4", 39, 32, 17, _mxfp4),
)
ENCODERS = {encoder.name: encoder for encoder in _ALL}
"""What can be written, by the name of the type in lower case."""
