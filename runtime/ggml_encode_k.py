"""The types of GGML whose scales are worth a search: Q4_K, Q5_K, Q6_K, IQ4_NL and IQ4_XS.

The search is that of weighted least squares over candidate scales, as llama.cpp's quantizers
publish it (ggml-quants.c, https://github.com/ggml-org/ggml): each candidate rounds the weights
to integers (or codes); for these, the best scale (and minimum) has a closed form; the candidate
with the least weighted squared error stays.  The weight of a value is |x| + rms(x) in types with
a minimum and x ** 2 in the others.  A super-block's scales are then rounded themselves, and the
weights a last time, by the scales that a reader will see.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sgen.runtime.ggml_k import CODEBOOK, IQ4_XS, Q4_K, Q5_K, Q6_K

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_AFFINE_STEPS = np.linspace(-1.0, 1.0, 13, dtype=np.float32)  # added to the number of levels
_SIX_BIT_STEPS = np.linspace(-0.9, 0.9, 11, dtype=np.float32)
_CODE_STEPS = np.linspace(-16.0, 12.0, 11, dtype=np.float32)  # added to the outermost code
_SMALLEST = 1e-15  # of a block's largest magnitude: fp16 scales of smaller ones are zero

# The nearest code of y is a step function whose steps are multiples of a half: a table by 2 y.
_MIDDLES = (CODEBOOK[1:] + CODEBOOK[:-1]).astype(np.int64)  # twice the middles
_NEAREST = np.searchsorted(_MIDDLES, np.arange(-256, 256), side="right").astype(np.uint8)
_NEAREST_VALUE = CODEBOOK.astype(np.float32)[_NEAREST]


def inverse(scale: Floats) -> Floats:
    """1 / scale, and 0 where the scale is so small that fp16 has none."""
    result: Floats = np.where(np.abs(scale) > _SMALLEST, np.float32(1) / scale, np.float32(0))
    return result


def half(scale: Floats) -> Bytes:
    """fp32 [n, g] as fp16, uint8 [n, 2 g].  ValueError: one is too large."""
    rounded = scale.astype("<f2")
    if not np.isfinite(rounded).all():
        raise ValueError("a value is too large for a scale in fp16")
    return rounded.view(np.uint8)


def pair(integers: Bytes, run: int) -> Bytes:
    """Integers below 16: of each 2 * run, one run in the low nibbles, the next in the high."""
    split = integers.reshape(len(integers), -1, 2, run)
    joined: Bytes = split[:, :, 0] | split[:, :, 1] << np.uint8(4)
    return joined.reshape(len(integers), -1)


def _dot(a: Floats, b: Floats) -> Floats:
    """Sums over the last axis, which stays with length 1."""
    result: Floats = np.einsum("...k,...k->...", a, b)[..., None]
    return result


def affine(x: Floats, top: int) -> tuple[Floats, Floats]:
    """Scales and minima (at most 0), [n, 1] each, for x [n, k] ~ scale * (0 to top) + minimum."""
    weight = np.abs(x)
    weight += np.sqrt(_dot(x, x) / np.float32(x.shape[1]))
    low = np.minimum(x.min(axis=1, keepdims=True), np.float32(0))
    span = x.max(axis=1, keepdims=True) - low
    shifted, unit = x - low, inverse(span)
    weighted = weight * x
    total, first = weight.sum(axis=1, keepdims=True), weighted.sum(axis=1, keepdims=True)
    best_scale, best_low = span / np.float32(top), low
    least = np.full_like(low, np.inf)
    for step in _AFFINE_STEPS:
        q = np.rint(shifted * (unit * (top + step)))
        np.clip(q, 0, top, out=q)
        wq = weight * q
        s1, s2, cross = wq.sum(axis=1, keepdims=True), _dot(wq, q), _dot(weighted, q)
        det = total * s2 - s1 * s1
        scale = (total * cross - first * s1) / det
        offset = (s2 * first - s1 * cross) / det
        above = offset > 0  # a minimum above zero cannot be stored
        scale = np.where(above, cross / s2, scale)
        offset = np.where(above, np.float32(0), offset)
        error = -scale * cross - offset * first  # less the square of x, the same for all
        better = (error < least) & (scale > 0) & (det > 0)
        best_scale = np.where(better, scale, best_scale)
        best_low = np.where(better, offset, best_low)
        least = np.where(better, error, least)
    return best_scale, best_low


def symmetric(x: Floats, middle: int) -> Floats:
    """Scales [n, 1] for x [n, k] ~ scale * (-middle to middle - 1)."""
    place = np.abs(x).argmax(axis=1, keepdims=True)
    unit = inverse(np.take_along_axis(x, place, axis=1))
    candidates = (-(middle + step) * unit for step in _SIX_BIT_STEPS)
    rounded = (np.clip(np.rint(x * c), -middle, middle - 1) for c in candidates)
    return _least(x, rounded)


def by_code(x: Floats) -> Floats:
    """Scales [n, 1] for x [n, k] ~ scale * a value of the codebook."""
    place = np.abs(x).argmax(axis=1, keepdims=True)
    unit = inverse(np.take_along_axis(x, place, axis=1))
    outer = np.float32(CODEBOOK[0])
    candidates = [(outer + step) * unit for step in _CODE_STEPS]
    candidates += [-c for c in candidates[2:7]]  # the largest by the codebook's shorter end
    return _least(x, (_NEAREST_VALUE[_index(x * c)] for c in candidates))


def _least(x: Floats, rounded: object) -> Floats:
    """The least-squares scale of the best of some roundings of x, weighted by x ** 2."""
    weighted = x * x * x
    best = np.zeros((len(x), 1), np.float32)
    gain = np.zeros((len(x), 1), np.float32)
    for q in rounded:  # type: ignore[attr-defined]
        cross, square = _dot(weighted, q), _dot(x * q, x * q)
        found = cross * cross / square  # by how much the error is less than without any
        better = found > gain
        best = np.where(better, cross / square, best)
        gain = np.where(better, found, gain)
    return best


def _index(y: Floats) -> npt.NDArray[np.int16]:
    return (np.floor(np.clip(2 * y, -256, 255)) + 256).astype(np.int16)


def _normal(x: Floats) -> tuple[Floats, Floats]:
    """x [n, k] divided by powers of two [n, 1] so that sums of its powers stay within fp32."""
    _, exponent = np.frexp(np.abs(x).max(axis=1, keepdims=True))
    return np.ldexp(x, -exponent), np.ldexp(np.float32(1), exponent)


def _rounded_half(scale: Floats) -> tuple[Bytes, Floats]:
    """fp16 bytes [n, 2] of scales [n, 1], and their values in fp32."""
    raw = half(scale)
    return raw, raw.view("<f2").astype(np.float32)


def _affine_super(x: Floats, top: int) -> tuple[Bytes, Bytes, Bytes, Bytes]:
    """d, dmin, the twelve bytes of scales and the integers [n, 256] of Q4_K and Q5_K."""
    n = len(x)
    groups = x.reshape(-1, 32)
    normal, unit = _normal(groups)
    scales, minima = ((a * unit).reshape(n, 8) for a in affine(normal, top))
    outer, d = _rounded_half(scales.max(axis=1, keepdims=True) / np.float32(63))
    outer_min, dmin = _rounded_half((-minima).max(axis=1, keepdims=True) / np.float32(63))
    small = np.rint(scales * inverse(d)).clip(0, 63).astype(np.uint8)
    small_min = np.rint(-minima * inverse(dmin)).clip(0, 63).astype(np.uint8)
    step, shift = (d * small).reshape(-1, 1), (dmin * small_min).reshape(-1, 1)
    q = np.rint((groups + shift) * inverse(step)).clip(0, top).astype(np.uint8)
    packed = [small[:, :4] | small[:, 4:] >> 4 << 6, small_min[:, :4] | small_min[:, 4:] >> 4 << 6]
    packed.append(small[:, 4:] & 15 | small_min[:, 4:] << 4)
    return outer, outer_min, np.concatenate(packed, axis=1), q.reshape(n, 256)


def q4_k(x: Floats) -> Bytes:
    """fp32 [n, 256] -> uint8 [n, 144]."""
    d, dmin, scales, q = _affine_super(x, 15)
    return _join(np.concatenate([d, dmin, scales, pair(q, 32)], axis=1), Q4_K)


def q5_k(x: Floats) -> Bytes:
    """fp32 [n, 256] -> uint8 [n, 176]."""
    d, dmin, scales, q = _affine_super(x, 31)
    fifth = (q >> 4).reshape(-1, 8, 32) << np.arange(8, dtype=np.uint8)[:, None]
    high: Bytes = np.bitwise_or.reduce(fifth, axis=1)
    return _join(np.concatenate([d, dmin, scales, high, pair(q & np.uint8(15), 32)], axis=1), Q5_K)


def q6_k(x: Floats) -> Bytes:
    """fp32 [n, 256] -> uint8 [n, 210]."""
    n = len(x)
    groups = x.reshape(-1, 16)
    normal, unit = _normal(groups)
    scales = (symmetric(normal, 32) * unit).reshape(n, 16)
    outer, d = _rounded_half(_largest(scales) / np.float32(-128))
    small = np.rint(scales * inverse(d)).clip(-128, 127)
    step = (d * small).reshape(-1, 1)
    q = (np.rint(groups * inverse(step)).clip(-32, 31) + 32).astype(np.uint8).reshape(n, 256)
    top = (q >> 4).reshape(n, 2, 4, 32) << np.array([0, 2, 4, 6], np.uint8)[:, None]
    high: Bytes = np.bitwise_or.reduce(top, axis=2).reshape(n, 64)
    small_bytes = small.astype(np.int8).view(np.uint8)
    return _join(np.concatenate([pair(q & 15, 64), high, small_bytes, outer], axis=1), Q6_K)


def iq4_nl(x: Floats) -> Bytes:
    """fp32 [n, 32] -> uint8 [n, 18]."""
    normal, unit = _normal(x)
    outer, d = _rounded_half(by_code(normal) * unit)
    codes = _NEAREST[_index(x * inverse(d))]
    return np.concatenate([outer, pair(codes, 16)], axis=1)


def iq4_xs(x: Floats) -> Bytes:
    """fp32 [n, 256] -> uint8 [n, 136]."""
    n = len(x)
    groups = x.reshape(-1, 32)
    normal, unit = _normal(groups)
    scales = (by_code(normal) * unit).reshape(n, 8)
    outer, d = _rounded_half(_largest(scales) / np.float32(-32))
    small = np.rint(scales * inverse(d)).clip(-32, 31)
    codes = _NEAREST[_index(groups * inverse((d * small).reshape(-1, 1)))]
    stored = (small + 32).astype(np.uint8)
    high = (stored >> 4).astype("<u2") << np.arange(0, 16, 2, dtype=np.uint16)
    top = np.bitwise_or.reduce(high, axis=1).astype("<u2")[:, None].view(np.uint8)
    low = (stored[:, ::2] & 15) | (stored[:, 1::2] & 15) << np.uint8(4)
    parts = [outer, top, low, pair(codes, 16).reshape(n, 128)]
    return _join(np.concatenate(parts, axis=1), IQ4_XS)


def _largest(x: Floats) -> Floats:
    place = np.abs(x).argmax(axis=1, keepdims=True)
    return np.take_along_axis(x, place, axis=1)


def _join(blocks: Bytes, layout: np.dtype[np.void]) -> Bytes:
    assert blocks.shape[1] == layout.itemsize
    return blocks
