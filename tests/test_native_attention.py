"""Attention in C: what it computes, and that a row's bits hang on nothing but the row.

All pages are full of NaN before keys and values are written, so whatever is read of a page that
belongs to nobody, or lies behind what a row sees, shows.
"""

from __future__ import annotations

import ctypes
import itertools
from ctypes import POINTER, byref, c_float, c_int, c_int64, c_void_p
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sgen.kernels import decoder, isa, native, reference
from tests.native_emulation import EMULATED, emulated

pytestmark = pytest.mark.skipif(native.load("grammar") is None, reason="there is no C compiler")

PAGE = 16
KINDS = ["fp32", "bf16", "int8"]
BEST = isa.supported()[0]
SOURCES = ("decoder_attention.c", "decoder_attention_kv.c", "decoder_attention_plan.c",
           "decoder_pool.c")  # fmt: skip
TOLERANCE = 1e-5
"""Values are of size 1 and weights add up to 1.  Two fp32 ways to add up to 256 products for a
score differ by some 1e-6, and so, relatively, do the weights."""


@lru_cache
def library(name: str) -> ctypes.CDLL:
    if name in EMULATED:
        lib = emulated(name, *SOURCES)
    else:
        loaded = isa.load(name)
        assert loaded is not None
        lib = loaded.free
    lib.kv_block_bytes.restype, lib.kv_block_bytes.argtypes = c_int64, (POINTER(decoder.KV),)
    lib.kv_write.argtypes = (POINTER(decoder.KV), c_int, c_int64, c_void_p, c_void_p)
    lib.attention_plan.restype = lib.pool_new.restype = c_void_p
    lib.attention_plan.argtypes = (
        POINTER(decoder.KV), POINTER(decoder.Step), c_int, c_int, c_int,
    )  # fmt: skip
    lib.attention.argtypes = (c_void_p, c_void_p, c_int, c_void_p, c_int64, c_float, c_void_p)
    lib.attention_free.argtypes = lib.pool_free.argtypes = (c_void_p,)
    lib.pool_new.argtypes = (c_int,)
    for function in (lib.kv_write, lib.attention, lib.attention_free, lib.pool_free):
        function.restype = None
    return lib


class Cache:
    """Pages of two layers, of which tests use the second; NaN until written."""

    def __init__(self, lib: ctypes.CDLL, kind: str, pages: int, heads: int, dim: int) -> None:
        self.lib = lib
        self.kv = decoder.KV(decoder.KV_KINDS[kind], 2, heads, dim, pages, None)
        self.block = int(lib.kv_block_bytes(self.kv))
        self.data = decoder.aligned_zeros(2 * pages * heads * self.block)
        self.data[:] = 0xFF
        self.kv.data = self.data.ctypes.data

    def write(self, slot: int, k: Tensor, v: Tensor) -> None:
        self.lib.kv_write(self.kv, 1, slot, k.contiguous().data_ptr(), v.contiguous().data_ptr())

    def blocks(self) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        shape = (2, self.kv.pages, self.kv.heads, self.block)
        return self.data.reshape(shape)


@dataclass(frozen=True)
class Case:
    """Requests over pages: q [T, Hq, D]; k and v [P, page, Hkv, D]; which slots are written."""

    q: Tensor
    k: Tensor
    v: Tensor
    written: list[int]
    table: Tensor
    starts: Tensor
    lens: Tensor
    window: int | None = None

    @property
    def scale(self) -> float:
        return float(self.q.shape[-1] ** -0.5)

    def fill(self, name: str, kind: str) -> Cache:
        cache = Cache(library(name), kind, len(self.k), *self.k.shape[2:])
        k, v = self.k.flatten(0, 1), self.v.flatten(0, 1)
        for slot in self.written:
            cache.write(slot, k[slot], v[slot])
        return cache

    def expected(self, kind: str) -> Tensor:
        k, v = stored(self.k, kind), stored(self.v, kind)
        return reference.paged_attention(
            self.q, k, v, self.table, self.starts, self.lens, scale=self.scale, window=self.window
        )[0]


def stored(x: Tensor, kind: str) -> Tensor:
    """What is left of x [..., D] once it is in the cache."""
    if kind == "fp32":
        return x
    if kind == "bf16":
        return x.bfloat16().float()
    scale = x.abs().amax(-1, keepdim=True) / 127
    return (x / scale).round().nan_to_num() * scale


def attend(cache: Cache, case: Case, threads: int = 2) -> Tensor:
    """The rows' results; q stands in wider rows, as it does in a step."""
    lib, (rows, heads, dim) = cache.lib, case.q.shape
    wide = torch.full((rows, heads * dim + 32), torch.nan)
    wide[:, : heads * dim] = case.q.flatten(1)
    out = torch.full((rows, heads, dim), torch.nan)
    step = decoder.Step(num_tokens=rows, num_requests=len(case.lens), max_pages=case.table.shape[1])
    step.starts, step.seq_lens = case.starts.data_ptr(), case.lens.data_ptr()
    step.page_table = case.table.data_ptr()
    pool = lib.pool_new(threads)
    plan = lib.attention_plan(byref(cache.kv), byref(step), heads, case.window or 0, threads)
    assert plan
    for _ in range(2):  # a plan serves one layer after the other
        out.fill_(torch.nan)
        args = (wide.data_ptr(), wide.shape[1], case.scale, out.data_ptr())
        lib.attention(pool, plan, 1, *args)
    lib.attention_free(plan)
    lib.pool_free(pool)
    return out


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


Request = tuple[int, int, int, int]
"""New rows; keys before them of its own; which of the prefixes comes before; how much of it."""


def case_of(
    requests: list[Request],
    heads: tuple[int, int] = (6, 2),
    dim: int = 64,
    window: int | None = None,
    seed: int = 0,
) -> Case:
    """Requests that may begin with whole pages of one of a few prefixes; pages lie in any order."""
    gen = torch.Generator().manual_seed(seed)
    hq, hkv = heads
    longest: dict[int, int] = {}
    for _, _, which, pages in requests:
        longest[which] = max(pages, longest.get(which, 0))
    lens = [PAGE * pages + own + rows for rows, own, _, pages in requests]
    counts = [-(-length // PAGE) for length in lens]
    total = sum(longest.values()) + sum(counts) + 2
    order = torch.randperm(total, generator=gen).tolist()
    prefixes = {which: [order.pop() for _ in range(n)] for which, n in longest.items()}
    table = torch.zeros(len(requests), max(counts) + 1, dtype=torch.int32)
    written = [
        page * PAGE + i for pages in prefixes.values() for page in pages for i in range(PAGE)
    ]
    for b, (_, _, which, pages) in enumerate(requests):
        own = [order.pop() for _ in range(counts[b] - pages)]
        table[b, : counts[b]] = torch.tensor(prefixes[which][:pages] + own)
        written += [own[j // PAGE] * PAGE + j % PAGE for j in range(lens[b] - PAGE * pages)]
    rows = [r[0] for r in requests]
    return Case(
        q=2 * torch.randn(sum(rows), hq, dim, generator=gen),
        k=torch.randn(total, PAGE, hkv, dim, generator=gen),
        v=torch.randn(total, PAGE, hkv, dim, generator=gen),
        written=written,
        table=table,
        starts=torch.tensor([0, *rows]).cumsum(0).int(),
        lens=torch.tensor(lens, dtype=torch.int32),
        window=window,
    )


MIXED: list[Request] = [
    (1, 0, 0, 0), (1, 70, 0, 9), (1, 3, 0, 9), (5, 20, 0, 14), (1, 0, 0, 14), (70, 33, 0, 9),
    (1, 400, 1, 0), (2, 63, 1, 4), (1, 0, 1, 4), (17, 0, 2, 0),
]  # fmt: skip
"""Lone rows and chunks, alone and behind prefixes of 144 and 224 keys; one ends with its prefix."""


def picked(case: Case, requests: list[int]) -> tuple[Case, list[int]]:
    """Only some requests, in that order, and their rows in the case."""
    bounds = case.starts.tolist()
    rows = [i for b in requests for i in range(bounds[b], bounds[b + 1])]
    counts = [bounds[b + 1] - bounds[b] for b in requests]
    part = replace(
        case,
        q=case.q[rows],
        table=case.table[requests].contiguous(),
        starts=torch.tensor([0, *counts]).cumsum(0).int(),
        lens=case.lens[requests].contiguous(),
    )
    return part, rows


def check(case: Case, kind: str) -> None:
    got = attend(case.fill(BEST, kind), case)
    torch.testing.assert_close(got, case.expected(kind), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [16, 80, 256])
def test_written_where_the_layout_says(kind: str, dim: int) -> None:
    gen = torch.Generator().manual_seed(dim)
    k, v = torch.randn(2, 3, dim, generator=gen), torch.randn(2, 3, dim, generator=gen)
    v[1, 0] = 0  # its scale is 0
    k[0, 1] *= 1e-41  # its scale is one of the least numbers there are
    cache = Cache(library(BEST), kind, 4, 3, dim)
    for i, slot in enumerate((2 * PAGE + 5, 3 * PAGE + 15)):
        cache.write(slot, k[i], v[i])
    blocks, changed = cache.blocks(), np.full(cache.blocks().shape, 0xFF, np.uint8)
    kinds: dict[str, np.dtype[Any]] = {
        "fp32": np.dtype(np.float32),
        "bf16": np.dtype(np.uint16),
        "int8": np.dtype(np.int8),
    }
    dtype = kinds[kind]
    half = PAGE * dim * dtype.itemsize
    assert cache.block == 2 * half + (128 if kind == "int8" else 0)
    for i, (page, offset) in enumerate(((2, 5), (3, 15))):
        for h in range(3):
            for at, x in enumerate((k[i, h], v[i, h])):
                place = changed[1, page, h, at * half : (at + 1) * half].view(dtype)
                where = np.s_[offset::PAGE] if at == 0 else np.s_[offset * dim : (offset + 1) * dim]
                if kind == "int8":
                    scale = x.abs().max() / 127
                    ints = (x / scale).round().nan_to_num().clamp(-127, 127)
                    place[where] = ints.to(torch.int8).numpy()
                    scales = changed[1, page, h, 2 * half :].view(np.float32)
                    scales[at * PAGE + offset] = scale
                elif kind == "bf16":
                    place[where] = x.bfloat16().view(torch.uint16).numpy()
                else:
                    place[where] = x.numpy()
    np.testing.assert_array_equal(blocks, changed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [None, 1, 16, 100])
def test_mixed_requests(kind: str, window: int | None) -> None:
    check(case_of(MIXED, window=window), kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [16, 64, 80, 128, 256])
@pytest.mark.parametrize("heads", [(2, 2), (3, 1), (6, 1), (14, 2), (50, 1)])
def test_heads_and_dimensions(kind: str, dim: int, heads: tuple[int, int]) -> None:
    requests = [(1, 130, 0, 8), (2, 5, 0, 8), (20, 50, 0, 0)]
    check(case_of(requests, heads, dim, seed=dim), kind)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    requests=st.lists(
        st.tuples(
            st.sampled_from([1, 1, 2, 9, 40]),
            st.integers(0, 150),
            st.integers(0, 1),
            st.integers(0, 20),
        ),
        min_size=1,
        max_size=8,
    ),
    heads=st.sampled_from([(1, 1), (6, 2), (7, 1)]),
    window=st.sampled_from([None, None, 7, 130]),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 99),
)
def test_any_requests(
    requests: list[Request], heads: tuple[int, int], window: int | None, kind: str, seed: int
) -> None:
    case = case_of(requests, heads, 32, window, seed)
    cache = case.fill(BEST, kind)
    together = attend(cache, case, 2)
    torch.testing.assert_close(together, case.expected(kind), rtol=0, atol=TOLERANCE)
    for b in range(len(requests)):
        alone, rows = picked(case, [b])
        assert same_bits(attend(cache, alone, 1), together[rows])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [None, 100])
def test_bits_in_any_company(kind: str, window: int | None) -> None:
    case = case_of(MIXED, window=window)
    cache = case.fill(BEST, kind)
    together = attend(cache, case, 1)
    for threads in (2, 3):
        assert same_bits(attend(cache, case, threads), together)
    for requests in ([9, 3, 1], [8, 7], [5, 2], *([b] for b in range(len(MIXED)))):
        some, rows = picked(case, requests)
        assert same_bits(attend(cache, some, 2), together[rows])


@pytest.mark.parametrize(
    "requests",
    [
        [(1, 1, 0, 8), (1, 149, 0, 8)],
        [(1, 149, 0, 8), (1, 1, 0, 8)],
        [(1, 7 * b, 0, 8) for b in range(40)],
        [(3, 60 * (b % 3), 0, 8) for b in range(20)],
    ],
)
def test_a_window_that_hides_a_shared_prefix_from_some(requests: list[Request]) -> None:
    """Some rows see nothing of what they share with others, and begin in a later split."""
    case = case_of(requests, window=7)
    cache = case.fill(BEST, "fp32")
    for threads in (1, 2):
        attend(case_of(MIXED).fill(BEST, "fp32"), case_of(MIXED))  # leaves memory behind
        together = attend(cache, case, threads)
        torch.testing.assert_close(together, case.expected("fp32"), rtol=0, atol=TOLERANCE)
        for b in range(len(requests)):
            alone, rows = picked(case, [b])
            assert same_bits(attend(cache, alone, 1), together[rows])


@pytest.mark.parametrize("kind", KINDS)
def test_bits_of_copied_pages(kind: str) -> None:
    """Requests that share pages, and the same ones with pages of their own."""
    case = case_of([(1, 9, 0, 20), (3, 70, 0, 20), (1, 0, 0, 24), (1, 200, 0, 12)])
    count, width = case.table.shape
    own = torch.arange(count * width, dtype=torch.int32).view(count, width)
    apart = replace(
        case,
        k=case.k[case.table.long().flatten()],
        v=case.v[case.table.long().flatten()],
        written=[
            int(own[b, i // PAGE]) * PAGE + i % PAGE
            for b in range(count)
            for i in range(int(case.lens[b]))
        ],
        table=own,
    )
    shared = attend(case.fill(BEST, kind), case)
    assert same_bits(attend(apart.fill(BEST, kind), apart), shared)


@pytest.mark.parametrize("window", [None, 50])
def test_bits_in_chunks(window: int | None) -> None:
    """A prompt at once, and in chunks: nothing is written behind a chunk when it is computed."""
    case = case_of([(150, 0, 0, 0)], window=window)
    whole = attend(case.fill(BEST, "bf16"), case)
    bounds = [0, 1, 2, 40, 41, 64, 65, 130, 150]
    for begin, end in itertools.pairwise(bounds):
        part = replace(
            case,
            q=case.q[begin:end],
            written=case.written[:end],
            starts=torch.tensor([0, end - begin], dtype=torch.int32),
            lens=torch.tensor([end], dtype=torch.int32),
        )
        assert same_bits(attend(part.fill(BEST, "bf16"), part), whole[begin:end])


@pytest.mark.parametrize("name", isa.supported())
@pytest.mark.parametrize("kind", KINDS)
def test_bits_on_every_instruction_set(name: str, kind: str) -> None:
    case = case_of(MIXED, (7, 1), 48, window=200)
    cache, best = case.fill(name, kind), case.fill(BEST, kind)
    assert np.array_equal(cache.data, best.data)
    assert same_bits(attend(cache, case), attend(best, case))


@pytest.mark.parametrize("name", EMULATED)
@pytest.mark.parametrize("kind", KINDS)
def test_bits_on_what_is_not_here(name: str, kind: str) -> None:
    """AVX-512 and NEON, emulated: blocks of 1 to 12 queries, what is shared and what is stored."""
    requests = [(n, 6 * n, 0, 0) for n in range(1, 13)]
    requests += [(1, 70, 0, 9), (2, 3, 0, 9), (1, 130, 1, 0)]
    for window in (None, 50):
        case = case_of(requests, (1, 1), 48, window)
        cache, portable = case.fill(name, kind), case.fill("portable", kind)
        assert np.array_equal(cache.data, portable.data)
        assert same_bits(attend(cache, case), attend(portable, case))


def test_a_zero_has_no_sign() -> None:
    """The first of two rows ends with -0 if the key behind it, of weight 0, is not added."""
    case = case_of([(3, 0, 0, 0)], (1, 1), 16)
    k, v = case.k.flatten(0, 1), case.v.flatten(0, 1)
    first, second, third = case.written
    k[first], k[second], k[third] = case.q[1, 0] * 0.1, 0, 0
    v[first], v[second], v[third] = -0.0, -1.4e-45, 1
    cache = case.fill(BEST, "fp32")
    together = attend(cache, case)
    alone = replace(
        case,
        q=case.q[1:2],
        starts=torch.tensor([0, 1], dtype=torch.int32),
        lens=torch.tensor([2], dtype=torch.int32),
    )
    assert same_bits(attend(cache, alone), together[1:2])


def test_one_key_far_above_the_others() -> None:
    """Weights that vanish beside it are 0, none is NaN, whatever the order of the splits."""
    case = case_of([(1, 299, 0, 0), (1, 299, 1, 0)], (2, 2), 16)
    slots = [case.table[b, at // PAGE] * PAGE + at % PAGE for b, at in ((0, 10), (1, 290))]
    for b, slot in enumerate(slots):
        case.k.flatten(0, 1)[slot] = 100 * case.q[b]
    out = attend(case.fill(BEST, "fp32"), case)
    for b, slot in enumerate(slots):
        assert torch.equal(out[b], case.v.flatten(0, 1)[slot])
