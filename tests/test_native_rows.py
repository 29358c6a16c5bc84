"""What the decoder's C code does to single rows, against numpy in float64.

AVX-512 and NEON are emulated too (tests/native_emulation).
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_void_p

import numpy as np
import pytest

from sgen.kernels import isa
from sgen.kernels.decoder import Rows
from tests.native_emulation import EMULATED, emulated

LIBRARIES = {name: isa.load(name) for name in isa.supported()}
NAMES = [*LIBRARIES, *EMULATED]

pytestmark = pytest.mark.skipif(LIBRARIES["portable"] is None, reason="there is no C compiler")
each_isa = pytest.mark.parametrize("name", NAMES)

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def free(name: str) -> ctypes.CDLL:
    if name in EMULATED:
        return emulated(name, "decoder_rows.c")
    library = LIBRARIES[name]
    assert library is not None
    return library.free


def at(x: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> c_void_p:
    return c_void_p(x.ctypes.data)


class Quantized:
    """Rows of x [T, K] quantized by the C code."""

    def __init__(self, name: str, x: Floats) -> None:
        count, columns = x.shape
        self.q = np.full((count, columns), 99, np.int8)
        self.scale = np.empty((count, columns // 32), np.float32)
        self.sums = [np.empty((count, columns // n), np.int32) for n in (16, 32)]
        self.scaled = [np.empty((count, columns // n), np.float32) for n in (16, 32)]
        x = np.ascontiguousarray(x)
        rows = Rows(columns, *map(at, (x, self.q, self.scale, *self.sums, *self.scaled)))
        function = free(name).quantize_row
        function.argtypes = (POINTER(Rows), ctypes.c_int64)
        for r in range(count):
            function(rows, r)


def normal(*shape: int, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@each_isa
def test_quantized_rows(name: str) -> None:
    x = normal(5, 96) * np.float32([[1], [1e-20], [1e20], [30], [0]])
    got = Quantized(name, x)
    top = np.abs(x.reshape(5, 3, 32)).max(-1)
    np.testing.assert_array_equal(got.scale, top / np.float32(127))
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = np.where(top[..., None] > 0, x.reshape(5, 3, 32) / (top[..., None] / 127.0), 0.0)
    # Within rounding of the nearest integer; a product of two rounded factors may cross a tie.
    assert np.abs(got.q.reshape(5, 3, 32) - exact).max() <= 0.5 + 1e-4
    for n, sums, scaled in zip((16, 32), got.sums, got.scaled, strict=True):
        want = got.q.reshape(5, 96 // n, n).sum(-1, dtype=np.int32)
        np.testing.assert_array_equal(sums, want)
        scale = got.scale.repeat(32 // n, axis=1)
        np.testing.assert_array_equal(scaled, scale * sums.astype(np.float32))


@each_isa
def test_the_least_numbers_are_zeros(name: str) -> None:
    x = np.zeros((3, 64), np.float32)
    x[0, :40] = 1e-38
    x[1, ::2] = -1e-40
    x[1, 1::2] = 3e-39
    x[2, 5] = 1e-31
    x[2, 40] = 1.0  # another group's size is its own
    got = Quantized(name, x)
    assert not got.q[:2].any()
    assert got.q[2].nonzero()[0].tolist() == [40]
    assert np.isfinite(got.scale).all()
    assert not any(s.any() for s in (got.sums[0][:2], got.scaled[0][:2], got.scaled[1][:2]))


@each_isa
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_stays_so(name: str, bad: float) -> None:
    x = normal(2, 64)
    x[1, 40] = bad
    got = Quantized(name, x)
    assert np.isfinite(got.scale[0]).all()
    assert np.isfinite(got.scale[1, 0])
    assert np.isnan(got.scale[1, 1])
    assert np.isnan(got.scaled[0][1, 2:]).all()
    assert np.isnan(got.scaled[1][1, 1])


@each_isa
@pytest.mark.parametrize("n", [1, 15, 16, 33, 64, 576])
def test_rms_norm(name: str, n: int) -> None:
    x, weight, out = normal(n), normal(n, seed=2), np.full(n + 1, 7, np.float32)
    function = free(name).rms_norm
    function.argtypes = (c_void_p, c_void_p, ctypes.c_float, ctypes.c_int64, c_void_p)
    function(at(x), at(weight), 1e-5, n, at(out))
    want = weight * (x / np.sqrt((x.astype(np.float64) ** 2).mean() + 1e-5))
    np.testing.assert_allclose(out[:n], want, rtol=1e-6)
    assert out[n] == 7, "nothing is written behind the row"


@each_isa
@pytest.mark.parametrize("n", [1, 16, 37])
def test_silu_mul(name: str, n: int) -> None:
    gate, up = normal(n) * 4, normal(n, seed=2)
    gate[:1] = -1000.0
    out = np.full(n + 1, 7, np.float32)
    free(name).silu_mul(at(gate), at(up), ctypes.c_int64(n), at(out))
    with np.errstate(over="ignore"):
        want = gate / (1 + np.exp(-gate.astype(np.float64))) * up
    # A few ulp of e^x and of the quotient; what is below fp32's least number is 0 to us.
    np.testing.assert_allclose(out[:n], want, rtol=1e-6, atol=1e-30)
    assert out[n] == 7


@each_isa
@pytest.mark.parametrize("half", [8, 16, 20, 32])
def test_rope(name: str, half: int) -> None:
    head, angle = normal(2 * half + 3), normal(half, seed=3)
    cosine, sine = np.cos(angle), np.sin(angle)
    a, b = head[:half].astype(np.float64), head[half : 2 * half].astype(np.float64)
    want = np.concatenate([a * cosine - b * sine, b * cosine + a * sine, head[2 * half :]])
    free(name).rope(at(head), at(cosine), at(sine), half)
    np.testing.assert_allclose(head, want, rtol=1e-6, atol=1e-6)


def test_every_instruction_set_computes_the_same_bits() -> None:
    x, other = normal(4, 160) * 3, normal(160, seed=5)
    results = []
    for name in NAMES:
        rows = Quantized(name, x)
        norm, silu, turned = np.empty(160, np.float32), np.empty(160, np.float32), x[0].copy()
        function = free(name).rms_norm
        function.argtypes = (c_void_p, c_void_p, ctypes.c_float, ctypes.c_int64, c_void_p)
        function(at(x), at(other), 1e-6, 157, at(norm))
        free(name).silu_mul(at(x), at(other), ctypes.c_int64(157), at(silu))
        free(name).rope(at(turned), at(np.cos(other)), at(np.sin(other)), 77)
        results.append(
            [rows.q, rows.scale, *rows.sums, *rows.scaled, norm[:157], silu[:157], turned]
        )
    for arrays in results[1:]:
        for got, want in zip(arrays, results[0], strict=True):
            assert got.tobytes() == want.tobytes()
