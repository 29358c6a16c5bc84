"""Attention on the CPU by itself: `python -m benchmarks.attention [--isa NAME] [--threads N]`.

Per layer, medians: the time; floating-point operations of the two products, without those that
causal attention spares; and the bytes of keys and values that must be read, each once.  There are
as many layers as it takes for more keys and values than any cache holds, and each call takes the
next.  First what this machine can do at most: fp32 products and reading memory, by torch.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import time
from collections.abc import Callable
from ctypes import POINTER, byref, c_float, c_int, c_int64, c_void_p
from dataclasses import dataclass

import torch

from sgen.kernels import decoder, isa

PAGE = 16
BEYOND_CACHES = 128 << 20
"""Bytes of keys and values, at least, where memory is measured."""

MODELS = {"SmolLM2 135M": (9, 3, 64), "Qwen2.5 1.5B": (12, 2, 128)}
"""Query heads, KV heads, dimensions of a head."""


@dataclass(frozen=True)
class Workload:
    name: str
    rows: int  # new tokens of each request
    own: int  # keys of each request alone, the new ones among them
    requests: int = 1
    shared: int = 0  # keys of all requests together, before their own

    @property
    def length(self) -> int:
        return self.shared + self.own

    def table(self) -> torch.Tensor:
        """Page tables int32 [B, pages]; page 0 belongs to nobody."""
        shared, own = -(-self.shared // PAGE), -(-self.own // PAGE)
        pages = torch.arange(1, 1 + shared + self.requests * own, dtype=torch.int32)
        behind = pages[shared:].view(self.requests, own)
        return torch.cat([pages[:shared].expand(self.requests, -1), behind], 1).contiguous()

    def products(self) -> int:
        """Pairs of a row and a key that it sees."""
        first = self.length - self.rows
        return self.requests * sum(first + i + 1 for i in range(self.rows))


WORKLOADS = [
    Workload("decode, 500 keys", 1, 500),
    Workload("decode, 4,096 keys", 1, 4096),
    Workload("decode, 16,384 keys", 1, 16384),
    Workload("16 rows, 896 keys shared", 1, 20, 16, 896),
    Workload("16 rows, as long, not shared", 1, 916, 16),
    Workload("prefill, 512", 512, 512),
    Workload("prefill, 2,048", 2048, 2048),
]


def median(function: Callable[[], object], runs: int) -> float:
    """Seconds."""
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def load(name: str) -> ctypes.CDLL:
    loaded = isa.load(name)
    if loaded is None:
        raise SystemExit("no C compiler")
    lib = loaded.free
    lib.kv_block_bytes.restype, lib.kv_block_bytes.argtypes = c_int64, (POINTER(decoder.KV),)
    lib.attention_plan.restype = lib.pool_new.restype = c_void_p
    lib.attention_plan.argtypes = (
        POINTER(decoder.KV), POINTER(decoder.Step), c_int, c_int, c_int,
    )  # fmt: skip
    lib.attention.argtypes = (c_void_p, c_void_p, c_int, c_void_p, c_int64, c_float, c_void_p)
    lib.attention_free.argtypes = lib.pool_free.argtypes = (c_void_p,)
    lib.pool_new.argtypes = (c_int,)
    return lib


def measure(
    lib: ctypes.CDLL, work: Workload, model: tuple[int, int, int], kind: str, threads: int
) -> str:
    heads, kv_heads, dim = model
    table = work.table()
    kv = decoder.KV(decoder.KV_KINDS[kind], 1, kv_heads, dim, int(table.max()) + 1, None)
    page_bytes = kv_heads * int(lib.kv_block_bytes(kv))
    layer_bytes = int(kv.pages) * page_bytes
    kv.layers = -(-BEYOND_CACHES // layer_bytes) if work.rows == 1 else 2
    data = decoder.aligned_zeros(kv.layers * layer_bytes)
    data[:] = 1  # a small number, whatever the kind; and the memory is there
    kv.data = data.ctypes.data
    starts = torch.arange(work.requests + 1, dtype=torch.int32) * work.rows
    lens = torch.full((work.requests,), work.length, dtype=torch.int32)
    q = torch.randn(int(starts[-1]), heads * dim)
    out = torch.empty_like(q)
    step = decoder.Step(len(q), work.requests, table.shape[1], 0)
    step.starts, step.seq_lens = starts.data_ptr(), lens.data_ptr()
    step.page_table = table.data_ptr()
    pool = lib.pool_new(threads)

    def make_plan() -> c_void_p:
        return c_void_p(lib.attention_plan(byref(kv), byref(step), heads, 0, threads))

    plan = make_plan()
    layer = 0

    def run() -> None:
        nonlocal layer
        layer = (layer + 1) % kv.layers
        args = (q.data_ptr(), q.shape[1], dim**-0.5, out.data_ptr())
        lib.attention(pool, plan, layer, *args)

    run()
    seconds = median(run, 5 if work.rows > 1 else 2 * min(kv.layers, 200))
    planning = median(lambda: lib.attention_free(make_plan()), 50)
    lib.attention_free(plan)
    lib.pool_free(pool)
    flops = 4 * dim * heads * work.products() / seconds
    pages = -(-work.shared // PAGE) + work.requests * -(-work.own // PAGE)
    return (
        f"{seconds * 1e6:10.0f} us {flops / 1e9:8.1f} GFLOPS "
        f"{pages * page_bytes / seconds / 1e9:8.1f} GB/s {planning * 1e6:8.1f} us"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--isa", default=isa.supported()[0], choices=isa.supported())
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--kv", nargs="*", default=["bf16"], choices=list(decoder.KV_KINDS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lib = load(options.isa)
    x, big = torch.randn(1024, 1024), torch.ones(64 << 20)
    peak = 2 * 1024**3 / median(lambda: x @ x, 9)
    speed = big.nbytes / median(big.sum, 9)
    load_average = os.getloadavg()[0]
    print(f"{options.isa}, {options.threads} threads, load {load_average:.1f}; torch: products "
          f"{peak / 1e9:.0f} GFLOPS, reading {speed / 1e9:.1f} GB/s")  # fmt: skip
    for name, model in MODELS.items():
        for kind in options.kv:
            print(f"\n{name}, {kind}: a layer; operations; reading; planning of the step")
            for work in WORKLOADS:
                print(f"{work.name:30}", measure(lib, work, model, kind, options.threads))


if __name__ == "__main__":
    main()
