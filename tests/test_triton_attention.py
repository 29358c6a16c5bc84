"""kernels/triton_attention.py against the reference, under Triton's interpreter."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sgen.kernels import reference

PAGE = 16
FP8 = torch.float8_e4m3fn


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    """The module, as conftest.py has Triton interpret it."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed (the extra `gpu`)")
    from sgen.kernels import triton_attention

    return triton_attention


@dataclass
class Case:
    q: Tensor
    k: Tensor
    v: Tensor
    table: Tensor
    new: list[int]
    lens: list[int]
    scales: tuple[Tensor, Tensor] | None = None

    @property
    def starts(self) -> Tensor:
        return torch.tensor([0, *self.new]).cumsum(0).int()


def make_case(
    new: list[int],
    lens: list[int],
    *,
    heads: tuple[int, int] = (2, 1),
    dim: int = 64,
    dtype: torch.dtype = torch.float32,
    kv: torch.dtype | None = None,
    shared: int = 0,
    seed: int = 0,
) -> Case:
    """Random pages in random order; free places hold NaN where the type has it."""
    gen = torch.Generator().manual_seed(seed)
    width = -(-max(lens) // PAGE)
    table = torch.randperm(len(lens) * width + 1, generator=gen)[:-1].view(len(lens), width)
    table[:, : shared // PAGE] = table[0, : shared // PAGE].clone()
    shape = (len(lens) * width + 1, PAGE, heads[1], dim)
    q = torch.randn(sum(new), heads[0], dim, generator=gen).to(dtype)
    pages = [torch.randn(shape, generator=gen) for _ in range(2)]
    scales = None
    if kv == torch.int8:
        top = [x.abs().amax(-1) / 127 for x in pages]
        pages = [(x / s[..., None]).round() for x, s in zip(pages, top, strict=True)]
        scales = (top[0], top[1])
    else:
        used = torch.zeros(shape[:2], dtype=torch.bool)
        for b, length in enumerate(lens):
            at = torch.arange(length)
            used[table[b, at // PAGE], at % PAGE] = True
        pages = [x.masked_fill(~used[:, :, None, None], torch.nan) for x in pages]
    k, v = (x.to(kv or dtype) for x in pages)
    return Case(q, k, v, table.int(), new, lens, scales)


def both(
    kernels: ModuleType,
    case: Case,
    *,
    window: int | None = None,
    soft_cap: float | None = None,
    tree: Tensor | None = None,
    **plan: object,
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    group = case.q.shape[1] // case.k.shape[2]
    k_scales, v_scales = case.scales or (None, None)
    options = {
        "scale": case.q.shape[2] ** -0.5,
        "window": window,
        "soft_cap": soft_cap,
        "k_scales": k_scales,
        "v_scales": v_scales,
        "tree_mask": tree,
    }
    made = kernels.plan_attention(
        case.new, case.lens, group=group, device="cpu", window=window, **plan
    )
    got = kernels.paged_attention(case.q, case.k, case.v, case.table, made, **options)
    k, v = (x.float().nan_to_num(0.0) for x in (case.k, case.v))
    lens = torch.tensor(case.lens)
    want = reference.general_attention(case.q, k, v, case.table, case.starts, lens, **options)
    return got, want


def check(
    pair: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]], tolerance: float = 2e-5
) -> None:
    for got, want in zip(*pair, strict=True):
        torch.testing.assert_close(got.float(), want, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dim", [64, 80, 96, 128, 256])
def test_head_sizes(kernels: ModuleType, dim: int) -> None:
    check(both(kernels, make_case([1, 3], [40, 3], heads=(6, 2), dim=dim)))


@pytest.mark.parametrize(
    ("dtype", "kv", "tolerance"),
    [
        (torch.float16, None, 2e-3),
        (torch.bfloat16, None, 1e-2),
        (torch.float16, FP8, 2e-3),
        (torch.float16, torch.int8, 2e-3),
        (torch.bfloat16, torch.int8, 1e-2),
    ],
)
def test_types(
    kernels: ModuleType, dtype: torch.dtype, kv: torch.dtype | None, tolerance: float
) -> None:
    case = make_case([1, 5], [70, 9], dtype=dtype, kv=kv)
    got, want = both(kernels, case)
    assert got[0].dtype == dtype
    assert got[1].dtype == torch.float32
    check((got, want), tolerance)


@pytest.mark.parametrize("window", [None, 7, 300])
def test_long_and_short_requests_in_one_call(kernels: ModuleType, window: int | None) -> None:
    check(both(kernels, make_case([1, 40, 0, 2], [600, 290, 5, 258]), window=window))


def test_soft_cap(kernels: ModuleType) -> None:
    case = make_case([2, 1], [30, 8])
    case.q *= 20
    check(both(kernels, case, soft_cap=5.0))


def test_tree(kernels: ModuleType) -> None:
    """Nodes beyond one word of the mask, each seeing a chain of ancestors."""
    n = 40
    parents = [-1, *((j * 7 + 3) % j for j in range(1, n))]
    mask = [0] * n
    for j, parent in enumerate(parents):
        mask[j] = (mask[parent] if parent >= 0 else 0) | 1 << j
    words = [[m & 0xFFFFFFFF, m >> 32] for m in [*mask, 1]]
    tree = torch.tensor(words, dtype=torch.int64).to(torch.int32)
    case = make_case([n, 1], [n + 250, 20])
    check(both(kernels, case, tree=tree))
    with pytest.raises(ValueError, match="window"):
        both(kernels, case, tree=tree, window=9)


def test_shared_prefix(kernels: ModuleType) -> None:
    """Near to flat, not bit-equal here: NumPy's products depend on a row's place in its tile."""
    case = make_case([1, 2, 1], [530, 600, 300], shared=272)
    shared = [kernels.SharedPrefix(0, 3, 272)]
    flat, _ = both(kernels, case, deterministic=True)
    got, want = both(kernels, case, deterministic=True, shared=shared)
    check((got, want))
    check((got, flat), 1e-6)
    plan = kernels.plan_attention([1, 2, 1], case.lens, group=2, device="cpu", shared=shared)
    assert plan.spans[0].tolist() == [0, 4, 0, 256, 256, 0]
    assert plan.spans[:, 2].tolist() == [0, 256, 256, 256]


def test_rows_do_not_depend_on_company(kernels: ModuleType) -> None:
    case = make_case([1, 3, 40], [300, 40, 300])
    together, _ = both(kernels, case)
    for b in range(3):
        rows = slice(int(case.starts[b]), int(case.starts[b + 1]))
        alone = Case(
            case.q[rows], case.k, case.v, case.table[b : b + 1], [case.new[b]], [case.lens[b]]
        )
        got, _ = both(kernels, alone)
        assert torch.equal(got[0], together[0][rows])
        assert torch.equal(got[1], together[1][rows])


def test_int8_needs_scales(kernels: ModuleType) -> None:
    case = make_case([1], [5], kv=torch.int8)
    case.scales = None
    with pytest.raises(ValueError, match="scales"):
        both(kernels, case)


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    requests=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40)), min_size=1, max_size=4),
    heads=st.sampled_from([(1, 1), (2, 2), (4, 1), (6, 2)]),
    dim=st.sampled_from([16, 24, 64]),
    window=st.none() | st.integers(1, 30),
    soft_cap=st.none() | st.just(3.0),
    deterministic=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_mix(
    kernels: ModuleType,
    requests: list[tuple[int, int]],
    heads: tuple[int, int],
    dim: int,
    window: int | None,
    soft_cap: float | None,
    deterministic: bool,
    seed: int,
) -> None:
    new = [n for n, _ in requests]
    lens = [n + max(1, before) for n, before in requests]
    case = make_case(new, lens, heads=heads, dim=dim, seed=seed)
    check(both(kernels, case, window=window, soft_cap=soft_cap, deterministic=deterministic))
