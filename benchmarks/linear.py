"""The decoder's products alone: `python -m benchmarks.linear [--isa NAME] [--threads N]`.

For each packed format, and all linears of a layer of SmolLM2 135M and of Qwen2.5 1.5B, prints what
one row reads in a second, and the operations (two for each weight and row) of 4, 16, 64 and 512
rows.  What the weights are does not matter to the time; there are enough layers of them that the
caches do not hold them.  Medians.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from sgen.kernels import isa, native
from sgen.kernels.decoder import SPARE_ROWS, Rows
from sgen.kernels.packing import Matrix

SHAPES = {
    "SmolLM2": (576, 192, 1536),
    "Qwen2.5 1.5B": (1536, 256, 8960),
}
"""Hidden, key and value, and inner size."""

BYTES = 200 << 20
"""Of weights that a run of one row reads."""


@dataclass(frozen=True)
class Format:
    name: str
    bits: int
    group: int
    zero: int
    super: bool
    has_min: bool

    def tile_bytes(self, columns: int) -> int:
        kinds = 2 if self.has_min else 1
        if self.bits >= 16:
            return columns * 16 * self.bits // 8
        scales = 32 // self.group * 16 * kinds if self.super else 32 * kinds
        runs = columns // 256 * 32 * kinds if self.super else 0
        return columns // 32 * (64 * self.bits + scales) + runs


FORMATS = (
    Format("Q4_0", 4, 32, 8, False, False),
    Format("Q4_1", 4, 32, 0, False, True),
    Format("Q4_K", 4, 32, 0, True, True),
    Format("Q5_1", 5, 32, 0, False, True),
    Format("Q6_K", 6, 16, 32, True, False),
    Format("Q8_0", 8, 32, 128, False, False),
    Format("fp32", 32, 32, 0, False, False),
)


class Layers:
    """Layers of random weights of a format, and inputs for their linears."""

    def __init__(self, f: Format, shape: tuple[int, int, int], most_rows: int) -> None:
        hidden, kv, inner = (-(-n // 256) * 256 if f.super else n for n in shape)
        rng = np.random.default_rng(0)
        linears = (
            ((hidden, kv, kv), hidden), ((hidden,), hidden), ((inner, inner), hidden),
            ((hidden,), inner),
        )  # fmt: skip
        size = sum(-(-n // 16) * f.tile_bytes(k) for ns, k in linears for n in ns)
        self.count = -(-BYTES // size)
        self.bytes, self.outputs = self.count * size, 2 * inner
        self.weights = sum(n * k for ns, k in linears for n in ns) * self.count
        data = np.full(self.bytes + 64, 0x21, np.uint8)  # halves of about 0.01
        self.keep: list[object] = [data]
        at = data.ctypes.data + -data.ctypes.data % 64
        self.calls: list[tuple[ctypes.Array[ctypes.c_void_p], int, Rows]] = []
        inputs = {k: self._rows(rng, most_rows, k) for k in {k for _, k in linears}}
        for _ in range(self.count):
            for ns, k in linears:
                made = []
                for n in ns:
                    made.append(Matrix(n, k, f.bits, f.group, f.zero, f.super, f.has_min, 0, at))
                    at += -(-n // 16) * f.tile_bytes(k)
                self.keep.append(made)
                pointers = (ctypes.c_void_p * len(made))(*(ctypes.addressof(m) for m in made))
                self.calls.append((pointers, len(made), inputs[k]))
        self.y = np.zeros((most_rows, self.outputs), np.float32)

    def _rows(self, rng: np.random.Generator, count: int, k: int) -> Rows:
        room = count + SPARE_ROWS
        arrays: list[NDArray[np.generic]] = [
            rng.normal(size=(room, k)).astype(np.float32),
            rng.integers(-127, 128, (room, k), dtype=np.int8),
            np.full((room, k // 32), 0.01, np.float32),
            *(np.zeros((room, k // n), np.int32) for n in (16, 32)),
            *(np.zeros((room, k // n), np.float32) for n in (16, 32)),
        ]
        self.keep.append(arrays)
        return Rows(k, *(a.ctypes.data for a in arrays))

    def run(self, lib: ctypes.CDLL, pool: ctypes.c_void_p, rows: int, layers: int) -> None:
        y = ctypes.c_void_p(self.y.ctypes.data)
        for pointers, n, x in self.calls[: 4 * layers]:
            lib.linear(pool, pointers, n, ctypes.byref(x), ctypes.c_int64(rows), y,
                       ctypes.c_int64(self.outputs), 0)  # fmt: skip


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def table(library: native.Library, threads: int, names: Sequence[str], repeats: int) -> None:
    lib = library.free
    lib.pool_new.restype = ctypes.c_void_p
    pool = ctypes.c_void_p(lib.pool_new(threads))
    for model, shape in SHAPES.items():
        print(f"\n{model}, {threads} threads   GB/s at 1 row |  GOPS at 4    16    64   512 rows")
        for f in FORMATS:
            if names and f.name not in names:
                continue
            layers = Layers(f, shape, 512)
            one = median_seconds(partial(layers.run, lib, pool, 1, layers.count), repeats)
            line = f"{f.name:8} {layers.bytes / one / 1e9:32.1f} |"
            for rows in (4, 16, 64, 512):
                some = max(1, layers.count * 8 // max(rows, 8))
                took = median_seconds(partial(layers.run, lib, pool, rows, some), repeats)
                line += f" {2e-9 * layers.weights * some / layers.count * rows / took:6.0f}"
            print(line, flush=True)
    lib.pool_free(pool)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--isa", default=isa.chosen() or "portable", choices=isa.supported())
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--format", action="append", default=[], help="only this one (repeatable)")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    library = isa.load(given.isa)
    if library is None:
        raise SystemExit("there is no C compiler")
    table(library, given.threads, given.format, given.repeats)


if __name__ == "__main__":
    main()
