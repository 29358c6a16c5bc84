"""Products of packed matrices: right to rounding, and the same bits on every code path.

Matrices are packed here, slowly, from the words of kernels/native/decoder.h.  AVX-512 and NEON run
here too: their code is compiled with the intrinsics of tests/native_emulation, which are C.
"""

from __future__ import annotations

import ctypes
import random
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from sgen.kernels import isa, native
from sgen.kernels.decoder import SPARE_ROWS, Rows
from sgen.kernels.packing import Matrix as CMatrix
from tests.native_emulation import EMULATED, emulated

SOURCES = ("decoder_linear.c", "decoder_pool.c", "decoder_rows.c")

pytestmark = pytest.mark.skipif(native.load("grammar") is None, reason="there is no C compiler")

Floats = NDArray[np.float32]


HALF, BFLOAT, SINGLE = 16, 17, 32


@dataclass(frozen=True)
class Format:
    bits: int
    group: int = 32
    zero: int = 0
    super: bool = False
    has_min: bool = False

    def __str__(self) -> str:
        words = [f"{self.bits}", f"g{self.group}", f"z{self.zero}"]
        return "-".join(words + ["super"] * self.super + ["min"] * self.has_min)


INTEGERS = [
    Format(bits, group, zero, super, has_min)
    for bits in (4, 5, 6, 8)
    for group, super in ((32, False), (32, True), (16, True))
    for zero, has_min in ((0, True), (1 << bits - 1, False), (1 << bits - 1, True))
]
FLOATS = [Format(bits) for bits in (HALF, BFLOAT, SINGLE)]


@dataclass
class Matrix:
    """A packed matrix, and what it stands for: `weights` float64 [N, K]."""

    packed: NDArray[np.uint8]
    weights: NDArray[np.float64]
    format: Format
    bias: Floats | None = None
    c: CMatrix = field(init=False)

    def __post_init__(self) -> None:
        rows, columns = self.weights.shape
        f = self.format
        bias = None if self.bias is None else self.bias.ctypes.data
        self.c = CMatrix(rows, columns, f.bits, f.group, f.zero, f.super, f.has_min, 0,
                         self.packed.ctypes.data, bias)  # fmt: skip


def integers_of_block(w: NDArray[np.uint8], bits: int) -> bytes:
    """A block's integers [16 outputs, 32 columns] as its bytes."""
    quads = [w[:, 4 * j : 4 * j + 4].reshape(64) for j in range(8)]
    if bits == 8:
        return b"".join(q.tobytes() for q in quads)
    out = [(quads[2 * i] & 15) | (quads[2 * i + 1] & 15) << 4 for i in range(4)]
    if bits == 5:
        out.append(sum((quads[j] >> 4) << j for j in range(8)).astype(np.uint8))  # type: ignore[union-attr]  # never 0
    if bits == 6:
        for h in range(2):
            out.append(sum((quads[4 * h + i] >> 4) << 2 * i for i in range(4)).astype(np.uint8))  # type: ignore[union-attr]  # never 0
    return b"".join(q.astype(np.uint8).tobytes() for q in out)


def aligned(data: bytes) -> NDArray[np.uint8]:
    room = np.zeros(len(data) + 64, np.uint8)
    start = -room.ctypes.data % 64
    found = room[start : start + len(data)]
    found[:] = np.frombuffer(data, np.uint8)
    return found


def random_matrix(f: Format, rows: int, columns: int, seed: int, bias: bool = False) -> Matrix:
    rng = np.random.default_rng(seed)
    added = rng.normal(size=rows).astype(np.float32) if bias else None
    if f.bits >= HALF:
        return float_matrix(f, rng.normal(size=(rows, columns)).astype(np.float32), added)
    tiles, parts = -(-rows // 16), 32 // f.group
    w = rng.integers(0, 1 << f.bits, (tiles * 16, columns), dtype=np.uint8)
    w[:, :64] = rng.choice([0, (1 << f.bits) - 1], (tiles * 16, 64))
    w[:8, :64] = (1 << f.bits) - 1  # what overflows first, with rows of the same sign
    w[8:16, :64] = 0
    w[rows:] = 0
    groups = columns // f.group
    values = w.reshape(-1, groups, f.group).astype(np.float64) - f.zero
    if f.super:
        d = rng.uniform(-1e-3, 1e-3, (tiles * 16, columns // 256)).astype(np.float16)
        dmin = rng.uniform(0, 1e-2, d.shape).astype(np.float16)
        scale = rng.integers(-128, 128, (tiles * 16, groups), dtype=np.int8)
        low = rng.integers(0, 256, scale.shape, dtype=np.uint8)
        runs = 256 // f.group
        weights = np.repeat(d.astype(np.float64), runs, 1)[..., None] * scale[..., None] * values
        if f.has_min:
            weights -= np.repeat(dmin.astype(np.float64), runs, 1)[..., None] * low[..., None]
    else:
        d = rng.uniform(-0.1, 0.1, (tiles * 16, groups)).astype(np.float16)
        dmin = rng.uniform(-1, 1, d.shape).astype(np.float16)
        weights = d.astype(np.float64)[..., None] * values
        if f.has_min:
            weights += dmin.astype(np.float64)[..., None]
    out: list[bytes] = []
    for t in range(tiles):
        mine = slice(16 * t, 16 * t + 16)
        for b in range(columns // 32):
            if f.super and b % 8 == 0:
                out.append(d[mine, b // 8].tobytes())
                out += [dmin[mine, b // 8].tobytes()] * f.has_min
            out.append(integers_of_block(w[mine, 32 * b : 32 * b + 32], f.bits))
            if f.super:
                here = slice(b * parts, (b + 1) * parts)
                out.append(scale[mine, here].T.tobytes())
                out += [low[mine, here].T.tobytes()] * f.has_min
            else:
                out.append(d[mine, b].tobytes())
                out += [dmin[mine, b].tobytes()] * f.has_min
    return Matrix(aligned(b"".join(out)), weights.reshape(-1, columns)[:rows], f, added)


def float_matrix(f: Format, weights: Floats, bias: Floats | None) -> Matrix:
    rows, columns = weights.shape
    tiles = -(-rows // 16)
    padded = np.zeros((tiles * 16, columns), np.float32)
    padded[:rows] = weights
    if f.bits == HALF:
        stored = padded.astype(np.float16)
        exact = stored.astype(np.float64)
    elif f.bits == BFLOAT:
        top = (padded.view(np.uint32) >> 16).astype(np.uint32)
        stored, exact = top.astype(np.uint16), (top << 16).view(np.float32).astype(np.float64)
    else:
        stored, exact = padded, padded.astype(np.float64)
    packed = np.ascontiguousarray(stored.reshape(tiles, 16, columns).transpose(0, 2, 1))
    return Matrix(aligned(packed.tobytes()), exact[:rows], f, bias)


class Inputs:
    """Rows of a linear's input: random, quantized by the library's quantize_row."""

    def __init__(self, lib: ctypes.CDLL, x: Floats) -> None:
        count, columns = x.shape
        room = count + SPARE_ROWS
        self._room = np.zeros((room, columns), np.float32)
        self._room[:count] = x
        self._room[count:] = np.nan  # read, but nothing may come of it
        self._q = np.full((room, columns), -127, np.int8)
        self._scale = np.full((room, max(columns // 32, 1)), np.nan, np.float32)
        self._sums = [np.zeros((room, max(columns // n, 1)), np.int32) for n in (16, 32)]
        self._scaled = [np.zeros((room, max(columns // n, 1)), np.float32) for n in (16, 32)]
        self.x, self.q, self.scale = self._room[:count], self._q[:count], self._scale[:count]
        arrays = (self._room, self._q, self._scale, *self._sums, *self._scaled)
        self.c = Rows(columns, *(a.ctypes.data for a in arrays))
        for r in range(count if columns % 32 == 0 else 0):
            lib.quantize_row(ctypes.byref(self.c), ctypes.c_int64(r))

    def dequantized(self) -> NDArray[np.float64]:
        q = self.q.astype(np.float64).reshape(len(self.q), -1, 32)
        return (q * self.scale[..., None].astype(np.float64)).reshape(self.q.shape)


def random_rows(count: int, columns: int, seed: int = 0) -> Floats:
    rng = np.random.default_rng(1000 + seed)
    x = rng.normal(size=(count, columns)).astype(np.float32)
    x[:, : columns // 3] = np.sign(x[:, : columns // 3])  # q is 127 or -127: the largest products
    x[0, : columns // 3] = 1.0
    x[1:2, : columns // 3] = -1.0
    return x


def multiply(
    lib: ctypes.CDLL,
    pool: ctypes.c_void_p,
    matrices: list[Matrix],
    inputs: Inputs,
    out: Floats,
    add: bool = False,
) -> None:
    """`linear` into the first rows and columns of `out`."""
    pointers = (ctypes.POINTER(CMatrix) * len(matrices))(*(ctypes.pointer(m.c) for m in matrices))
    lib.linear(pool, pointers, len(matrices), ctypes.byref(inputs.c),
               ctypes.c_int64(len(inputs.x)), ctypes.c_void_p(out.ctypes.data),
               ctypes.c_int64(out.shape[1]), int(add))  # fmt: skip


def product(
    lib: ctypes.CDLL,
    matrices: list[Matrix],
    inputs: Inputs,
    threads: int = 1,
    y: Floats | None = None,
) -> Floats:
    """What `linear` writes; added to y, if there is one.  Asserts that it writes nothing else."""
    count, outputs = len(inputs.x), sum(len(m.weights) for m in matrices)
    room = np.full((count + 1, outputs + 3), 7.0, np.float32)
    if y is not None:
        room[:count, :outputs] = y
    pool = ctypes.c_void_p(lib.pool_new(threads))
    multiply(lib, pool, matrices, inputs, room, y is not None)
    lib.pool_free(pool)
    assert (room[:count, outputs:] == 7).all()
    assert (room[count] == 7).all()
    return room[:count, :outputs].copy()


@pytest.fixture(scope="module")
def libraries() -> dict[str, ctypes.CDLL]:
    """The best first, those that are emulated last."""
    loaded = {name: isa.load(name) for name in isa.supported()}
    libraries = {name: library.free for name, library in loaded.items() if library is not None}
    libraries |= {name: emulated(name, *SOURCES) for name in EMULATED}
    for lib in libraries.values():
        lib.pool_new.restype = ctypes.c_void_p
    return libraries


@pytest.fixture(scope="module")
def lib(libraries: dict[str, ctypes.CDLL]) -> ctypes.CDLL:
    """The best that this machine can run."""
    return next(iter(libraries.values()))


def check(got: Floats, matrix: Matrix, x: NDArray[np.float64], y: Floats | None = None) -> None:
    """Against float64.  Each term of the sum is rounded three times (products of scales, minima,
    and at most K additions of a partial sum), each by 2^-24 of what is at most the sum of the
    absolute products; the additions' errors add up like a random walk, so sqrt(K) of them suffice
    for 3 standard deviations where there are more than 9."""
    want = x @ matrix.weights.T
    size = np.abs(x) @ np.abs(matrix.weights).T
    if matrix.bias is not None:
        want, size = want + matrix.bias, size + np.abs(matrix.bias)
    if y is not None:
        want, size = want + y, size + np.abs(y)
    assert (np.abs(got - want) <= (4 + x.shape[1] ** 0.5) * 2.0**-24 * size).all()


@pytest.mark.parametrize("f", INTEGERS, ids=str)
def test_integers(f: Format, libraries: dict[str, ctypes.CDLL], lib: ctypes.CDLL) -> None:
    """Every format: the right numbers, and the same bits whatever the instruction set."""
    columns = 768 if f.super else 608  # more than a stretch, and not a whole one
    matrix = random_matrix(f, 37, columns, seed=f.bits + f.zero, bias=True)
    inputs = Inputs(lib, random_rows(15, columns))
    got = product(lib, [matrix], inputs)
    check(got, matrix, inputs.dequantized())
    for name, other in libraries.items():
        for few in (1, 3, 15):
            these = Inputs(lib, inputs.x[:few])
            assert product(other, [matrix], these).tobytes() == got[:few].tobytes(), (name, few)


@pytest.mark.parametrize("f", FLOATS, ids=str)
@pytest.mark.parametrize("columns", [1, 31, 96])
def test_floats(
    f: Format, columns: int, libraries: dict[str, ctypes.CDLL], lib: ctypes.CDLL
) -> None:
    matrix = random_matrix(f, 35, columns, seed=columns, bias=True)
    inputs = Inputs(lib, random_rows(7, columns))
    got = product(lib, [matrix], inputs)
    check(got, matrix, inputs.x.astype(np.float64))
    for name, other in libraries.items():
        assert product(other, [matrix], inputs).tobytes() == got.tobytes(), name


@pytest.mark.parametrize(
    "f", [Format(4, has_min=True), Format(8, zero=128), Format(SINGLE)], ids=str
)
def test_every_number_of_rows(f: Format, libraries: dict[str, ctypes.CDLL]) -> None:
    """A row has the bits that it has alone, in a batch of any size, on any number of threads."""
    matrix = random_matrix(f, 40, 96, seed=1)
    for name, lib in libraries.items():
        x = random_rows(200, 96)
        alone = np.concatenate([product(lib, [matrix], Inputs(lib, row[None])) for row in x])
        for count in (*range(1, 41), 64, 65, 130, 200):
            inputs = Inputs(lib, x[:count])
            for threads in (1, 2, 3):
                got = product(lib, [matrix], inputs, threads)
                assert got.tobytes() == alone[:count].tobytes(), (name, count, threads)


def test_one_pool_for_many_short_products(lib: ctypes.CDLL) -> None:
    """More threads than cores, most still awake from one run when the next begins; some asleep."""
    matrix = random_matrix(Format(8, zero=128), 300, 64, seed=8)
    inputs = [Inputs(lib, random_rows(count, 64, seed=count)) for count in (1, 2, 3)]
    wanted = [product(lib, [matrix], these) for these in inputs]
    pool, rng = ctypes.c_void_p(lib.pool_new(4)), random.Random(0)
    for k in range(3000):
        i = rng.randrange(3)
        got = np.full_like(wanted[i], np.nan)
        multiply(lib, pool, [matrix], inputs[i], got)
        assert np.array_equal(got, wanted[i]), f"product {k}"
        if rng.random() < 0.01:
            time.sleep(0.001)
    lib.pool_free(pool)


def test_many_columns(lib: ctypes.CDLL) -> None:
    """More columns than the sums of a few rows' groups are kept for."""
    matrix = random_matrix(Format(4, 16, super=True, has_min=True), 16, 11008, seed=3)
    inputs = Inputs(lib, random_rows(12, 11008))
    got = product(lib, [matrix], inputs)
    check(got, matrix, inputs.dequantized())
    few = Inputs(lib, inputs.x[:3])
    assert product(lib, [matrix], few).tobytes() == got[:3].tobytes()


@pytest.mark.parametrize("outputs", [1, 15, 16, 17, 33, 300])
@pytest.mark.parametrize("count", [1, 9])
def test_tails_of_outputs(outputs: int, count: int, lib: ctypes.CDLL) -> None:
    matrix = random_matrix(Format(4, zero=8), outputs, 64, seed=outputs, bias=True)
    inputs = Inputs(lib, random_rows(count, 64))
    check(product(lib, [matrix], inputs, 2), matrix, inputs.dequantized())


@pytest.mark.parametrize("count", [1, 5, 70])
def test_matrices_side_by_side(count: int, lib: ctypes.CDLL) -> None:
    """Of different formats and sizes, with and without a bias; then added to what is there."""
    matrices = [
        random_matrix(Format(6, 16, 32, super=True), 40, 256, 1, bias=True),
        random_matrix(Format(4, has_min=True), 9, 256, 2),
        random_matrix(Format(BFLOAT), 200, 256, 3, bias=True),
        random_matrix(Format(8, zero=128), 24, 256, 4),
    ]
    inputs = Inputs(lib, random_rows(count, 256))
    y = np.random.default_rng(5).normal(size=(count, 273)).astype(np.float32)
    plain, added = product(lib, matrices, inputs, 2), product(lib, matrices, inputs, 2, y)
    assert added.tobytes() == (plain + y).tobytes()
    start = 0
    for matrix in matrices:
        here = slice(start, start + len(matrix.weights))
        is_float = matrix.format.bits >= HALF
        x = inputs.x.astype(np.float64) if is_float else inputs.dequantized()
        check(plain[:, here], matrix, x)
        assert product(lib, [matrix], inputs).tobytes() == plain[:, here].tobytes()
        start = here.stop


@pytest.mark.parametrize("f", [*INTEGERS, *FLOATS], ids=str)
def test_a_row_of_weights(f: Format, libraries: dict[str, ctypes.CDLL]) -> None:
    """To the rounding of d * scale, and of the sum with the minimum."""
    matrix = random_matrix(f, 18, 256, seed=6)
    for lib in libraries.values():
        for j in (0, 15, 17):
            out = np.zeros(256, np.float32)
            lib.matrix_row(
                ctypes.byref(matrix.c), ctypes.c_int64(j), ctypes.c_void_p(out.ctypes.data)
            )
            most = np.abs(matrix.weights[j]).max()
            assert np.abs(out - matrix.weights[j]).max() <= 3 * 2.0**-24 * (most + 2.55 * 127)
