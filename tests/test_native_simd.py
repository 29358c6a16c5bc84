"""The vectors of kernels/native: every operation has the same bits on every instruction set.

AVX-512 and NEON are emulated where they cannot run (tests/native_emulation).
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from numpy.typing import NDArray

from sgen.kernels import native
from tests.native_emulation import HERE, compiled

pytestmark = pytest.mark.skipif(native.load("grammar") is None, reason="there is no C compiler")

Array = NDArray[np.generic]
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-40, 3.4e38, -3.4e38, 0.5, 1.5, 2.5, -2.5,
           8388609.0, 1 / 3, -1.0]  # fmt: skip
OPERATIONS = ("add", "sub", "mul", "div", "max", "min", "abs", "fma", "nmadd", "round",
              "zero_below", "load_first", "keep_first", "store_first", "sum", "top")  # fmt: skip


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ctypes.CDLL]:
    return compiled(tmp_path_factory.mktemp("simd"), [HERE / "simd_checks.c"])


def at(x: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.ctypes.data)


def bits(x: NDArray[np.float32]) -> bytes:
    """Of floats, with all NaNs alike: which of two a sum keeps is left open by IEEE 754."""
    return np.where(np.isnan(x), np.float32(np.nan), x).tobytes()


def same(libraries: dict[str, ctypes.CDLL], function: str, given: Array, *outs: np.dtype) -> Array:  # type: ignore[type-arg]
    """What a function over 16 values makes of `given`, on all instruction sets alike."""
    wanted: list[Array] = []
    for name, lib in libraries.items():
        results = [np.zeros(16, d) for d in outs]
        getattr(lib, function)(at(given), *map(at, results))
        wanted = wanted or results
        for got, want in zip(results, wanted, strict=True):
            assert got.tobytes() == want.tobytes(), name
            assert got.tobytes() == results[0].tobytes(), "one value alone"
    return wanted[0]


@pytest.mark.parametrize("op", range(len(OPERATIONS)), ids=OPERATIONS)
def test_operations(op: int, libraries: dict[str, ctypes.CDLL]) -> None:
    rng = np.random.default_rng(op)
    special = np.array(SPECIAL, np.float32)
    for k in range(48):
        if k < 16:
            a, b, c = special, np.roll(special, k), np.roll(special, 3 * k + 1)
        else:
            a, b, c = (rng.normal(scale=4, size=(3, 16))).astype(np.float32)
        wanted = None
        for name, lib in libraries.items():
            out = np.full(16, 7, np.float32)
            lib.floats(op, at(a), at(b), at(c), k % 17, at(out))
            wanted = wanted or bits(out)
            assert bits(out) == wanted, (name, k)


def test_some_results(libraries: dict[str, ctypes.CDLL]) -> None:
    """That the bits, which all have alike, are right."""
    a = np.arange(16, dtype=np.float32) - 7.25
    b = np.float32(2) ** -np.arange(16, dtype=np.float32)
    want = {
        "nmadd": a - a * b, "round": np.rint(a), "zero_below": np.where(b >= 1, a, 0),
        "load_first": [*a[:5], *[1] * 11], "keep_first": [*a[:5], *[1] * 11],
        "store_first": [*a[:5], *[7] * 11], "sum": np.full(16, 4), "top": np.full(16, 7.75),
    }  # fmt: skip
    lib = libraries["portable"]
    for name, expected in want.items():
        c = np.ones(16, np.float32) if name == "zero_below" else a
        out = np.full(16, 7, np.float32)
        lib.floats(OPERATIONS.index(name), at(a), at(b), at(c), 5, at(out))
        assert out.tolist() == np.asarray(expected, np.float32).tolist(), name


def test_scale2(libraries: dict[str, ctypes.CDLL]) -> None:
    a = np.linspace(-3, 3, 16, dtype=np.float32)
    for n in (np.arange(16) - 8, np.full(16, -126), np.full(16, 127), np.arange(16) * 8 - 126):
        powers = n.astype(np.float32)
        with np.errstate(over="ignore"):
            wanted = np.ldexp(a, n)
        for name, lib in libraries.items():
            out = np.zeros(16, np.float32)
            lib.scale2(at(a), at(powers), at(out))
            assert out.tobytes() == wanted.tobytes(), name


def test_exp(libraries: dict[str, ctypes.CDLL]) -> None:
    single = np.dtype(np.float32)
    for x in np.random.default_rng(0).uniform(-95, 88, (100, 16)).astype(np.float32):
        got = same(libraries, "exponential", x, single)
        want = np.where(x >= -87, np.exp(x.astype(np.float64)), 0)
        assert np.allclose(got, want, rtol=3 * 2.0**-23, atol=0)  # 2 ulp and the last rounding
    odd = np.array([-np.inf, np.nan, -87.0, -87.1, 88.0, *[0.0] * 11], np.float32)
    got = same(libraries, "exponential", odd, single)
    assert got[[0, 1, 3]].tolist() == [0, 0, 0]


@pytest.mark.parametrize("function", ["from_half", "from_bfloat"])
def test_narrow_floats(function: str, libraries: dict[str, ctypes.CDLL]) -> None:
    """All that are not NaNs, in steps."""
    every = np.arange(1 << 16, dtype=np.uint16)[::7]
    infinity = 0x7C00 if function == "from_half" else 0x7F80
    values = every[(every & 0x7FFF) <= infinity]
    values = np.concatenate([values, np.array([0, 1, 0x8000, 0x8001, infinity, infinity | 0x8000,
                                               0x3FF, 0x400], np.uint16)])  # fmt: skip
    single = np.dtype(np.float32)
    for part in values[: len(values) // 16 * 16].reshape(-1, 16)[::5]:
        same(libraries, function, part, single, single)
    tail = values[-16:].copy()
    got = same(libraries, function, tail, single, single)
    want = (tail.view(np.float16).astype(np.float32) if function == "from_half"
            else (tail.astype(np.uint32) << 16).view(np.float32))  # fmt: skip
    assert got.tobytes() == want.tobytes()


def test_to_bfloat(libraries: dict[str, ctypes.CDLL]) -> None:
    ties = (np.arange(16, dtype=np.uint32) << 15 | 0x3F800000).view(np.float32)
    got = same(libraries, "to_bfloat", ties, np.dtype(np.uint16), np.dtype(np.uint16))
    assert got.tolist() == [0x3F80 + (i + (i & 2) // 2) // 2 for i in range(16)]
    for x in np.random.default_rng(1).normal(size=(50, 16)).astype(np.float32):
        same(libraries, "to_bfloat", x, np.dtype(np.uint16), np.dtype(np.uint16))


def test_bytes(libraries: dict[str, ctypes.CDLL]) -> None:
    for start in range(-128, 128, 16):
        signed = np.arange(start, start + 16, dtype=np.int64).astype(np.int8)
        got = same(libraries, "from_i8", signed, np.dtype(np.float32))
        assert got.tolist() == signed.tolist()
        unsigned = signed.view(np.uint8).copy()
        got = same(libraries, "from_u8", unsigned, np.dtype(np.float32))
        assert got.tolist() == unsigned.tolist()
        back = np.maximum(signed, np.int8(-127)).astype(np.float32)
        assert same(libraries, "to_i8", back, np.dtype(np.int8)).tolist() == back.tolist()
