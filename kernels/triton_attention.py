"""Paged ragged attention in Triton: `reference.general_attention` on a GPU.

What is true here:
- Any mix of 1 to thousands of new tokens a request is one call; the query heads of a KV head are
  rows of one tile, so that a key is loaded once for all of them.
- The keys of a row are summed in blocks, the blocks in splits of `SPLIT` keys, the splits in
  order: the company of a row changes none of its sums.  A request's own number of new tokens picks
  its tile (see `plan_attention`); `deterministic` uses one tile for all.  A shared prefix keeps the
  order of the sums, but moves rows within tiles: bit-equal only if a product's row does not
  depend on its place (NumPy's, in the interpreter, does).
- Configurations are fixed by the head's size: nothing is tuned at run time.
- Products of bf16 and fp16 accumulate in fp32.  Under Triton's interpreter bf16 is widened first,
  since its bf16 products are wrong there without an error.
"""

# Triton's decorators and kernels carry no types; the wrappers below do.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from sgen.kernels.reference import SPLIT

SMALL_TILE = 16
"""Rows of a decode tile: the least that a tensor core takes."""

LARGE_TILE = 64
"""Rows of a tile of long requests and of prefixes that several requests share."""

_FIELDS = 6  # q_start, q_rows, key_begin, key_end, offset, table_row: see `add` in `plan_attention`


@dataclass(frozen=True)
class Launch:
    """Tiles of one shape.  `parallel`: one program a split, merged afterwards."""

    tile: int
    parallel: bool
    tiles: Tensor  # [n, 2] int32: span, first row (a row is a query head of a token)
    splits: int


@dataclass(frozen=True)
class AttentionPlan:
    """What a step's attention launches; holds for every layer of the step."""

    spans: Tensor  # [R, 6] int32
    launches: tuple[Launch, ...]
    merged: Tensor  # [n, 3] int32: token, first split, end of splits
    splits: int  # in the buffer of partial sums


@dataclass(frozen=True)
class SharedPrefix:
    """Requests `first` to `first + count` have their first `length` keys in the same pages."""

    first: int
    count: int
    length: int


def plan_attention(
    query_lens: Sequence[int],
    seq_lens: Sequence[int],
    *,
    group: int,
    device: torch.device | str,
    window: int | None = None,
    shared: Sequence[SharedPrefix] = (),
    deterministic: bool = False,
) -> AttentionPlan:
    """Cut a step into tiles; `group` is query heads per KV head.

    A shared prefix is read once for all its requests, as far as whole splits reach; it is left to
    each request where a window is set or a request is long.  Prefixes must not overlap.
    """
    starts = [0]
    for n in query_lens:
        starts.append(starts[-1] + n)
    is_short = [0 < n * group <= LARGE_TILE for n in query_lens]
    begin = [0] * len(query_lens)
    spans: list[tuple[int, ...]] = []
    work: dict[tuple[int, bool], list[tuple[int, int]]] = {}
    splits: dict[tuple[int, bool], int] = {}

    def add(span: tuple[int, ...], tile: int, parallel: bool) -> None:
        key = (tile, parallel)
        work.setdefault(key, []).extend(
            (len(spans), row) for row in range(0, span[1] * group, tile)
        )
        splits[key] = max(splits.get(key, 0), -(-span[3] // SPLIT) - span[2] // SPLIT)
        spans.append(span)

    for prefix in shared:
        members = range(prefix.first, prefix.first + prefix.count)
        length = min([prefix.length, *(seq_lens[b] - query_lens[b] for b in members)])
        length -= length % SPLIT
        if window is not None or length <= 0 or not all(is_short[b] for b in members):
            continue
        rows = starts[members.stop] - starts[members.start]
        tile = LARGE_TILE if deterministic or rows * group > SMALL_TILE else SMALL_TILE
        add((starts[members.start], rows, 0, length, length, members.start), tile, True)
        for b in members:
            assert begin[b] == 0, "shared prefixes overlap"
            begin[b] = length
    merged: list[tuple[int, int, int]] = []
    for b, (n, length) in enumerate(zip(query_lens, seq_lens, strict=True)):
        if n == 0:
            continue
        first = begin[b]
        if window is not None:
            first = max(0, length - n + 1 - window) // SPLIT * SPLIT
        tile = SMALL_TILE if n * group <= SMALL_TILE and not deterministic else LARGE_TILE
        add((starts[b], n, first, length, length - n, b), tile, is_short[b])
        if is_short[b]:
            low = 0 if begin[b] else first // SPLIT
            merged += [(t, low, -(-length // SPLIT)) for t in range(starts[b], starts[b + 1])]

    def table(rows: Sequence[tuple[int, ...]], width: int) -> Tensor:
        return torch.tensor(rows, dtype=torch.int32, device=device).view(-1, width)

    launches = tuple(
        Launch(tile, parallel, table(tiles, 2), splits[tile, parallel])
        for (tile, parallel), tiles in sorted(work.items())
    )
    last = max((end for _, _, end in merged), default=0)
    return AttentionPlan(table(spans, _FIELDS), launches, table(merged, 3), last)


def paged_attention(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    page_table: Tensor,
    plan: AttentionPlan,
    *,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
    k_scales: Tensor | None = None,
    v_scales: Tensor | None = None,
    tree_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention as `reference.general_attention` states it, over the step that `plan` cuts.

    q [T, Hq, D] fp32, fp16 or bf16; pages [P, page, Hkv, D] of q's type, fp8 (e4m3) or int8, the
    latter two with scales [P, page, Hkv] fp32 (fp8 may go without); page_table [B, max_pages]
    int32; tree_mask [T, words] int32.  The plan was made with the same window.  Returns out
    [T, Hq, D] of q's type and lse [T, Hq] fp32 (natural log).  ValueError: a window with a tree,
    int8 without scales.
    """
    if window is not None and tree_mask is not None:
        raise ValueError("a sliding window and a tree mask in one call are not supported")
    if (k_scales is None) != (v_scales is None):
        raise ValueError("keys and values have scales both, or neither")
    if k_pages.dtype == torch.int8 and k_scales is None:
        raise ValueError("int8 keys and values need scales")
    tokens, hq, dim = q.shape
    page, hkv = k_pages.shape[1], k_pages.shape[2]
    q, page_table = q.contiguous(), page_table.contiguous()
    assert k_pages.is_contiguous()
    assert v_pages.is_contiguous()
    out, lse = torch.empty_like(q), q.new_empty(tokens, hq, dtype=torch.float32)
    padded = triton.next_power_of_2(dim)
    acc = q.new_empty(tokens, hq, plan.splits, dim, dtype=torch.float32)
    tops = q.new_empty(tokens, hq, plan.splits, 2, dtype=torch.float32)
    product = tl.bfloat16 if q.dtype == torch.bfloat16 else tl.float16
    if q.dtype == torch.float32 or (triton.knobs.runtime.interpret and product is tl.bfloat16):
        product = tl.float32
    for launch in plan.launches:
        grid = (len(launch.tiles), hkv, launch.splits if launch.parallel else 1)
        _attend[grid](
            q, k_pages, v_pages, k_scales, v_scales, page_table, tree_mask,
            plan.spans, launch.tiles, out, lse, acc, tops,
            scale, soft_cap or 0.0, window or 0, page_table.shape[1],
            0 if tree_mask is None else tree_mask.shape[1], plan.splits,
            PAGE=page, HKV=hkv, GROUP=hq // hkv, DIM=dim, PADDED=padded, TILE=launch.tile,
            BLOCK=64 if padded <= 128 else 32, SPLIT=SPLIT, PARALLEL=launch.parallel,
            PRODUCT=product, SCALED=k_scales is not None, TREE=tree_mask is not None,
            WINDOWED=window is not None, CAPPED=soft_cap is not None, FIELDS=_FIELDS,
            num_warps=8 if launch.tile == LARGE_TILE and padded > 128 else 4,
            num_stages=3 if padded <= 128 else 2,
        )  # fmt: skip
    if len(plan.merged):
        _merge[(len(plan.merged), hq)](
            plan.merged, acc, tops, out, lse, plan.splits,
            HQ=hq, DIM=dim, PADDED=padded, num_warps=2,
        )  # fmt: skip
    return out, lse


@triton.jit
def _attend(
    q, k_pages, v_pages, k_scales, v_scales, page_table, tree_mask,
    spans, tiles, out, lse, part_acc, part_top,
    scale, soft_cap, window, table_width, tree_words, num_splits,
    PAGE: tl.constexpr, HKV: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr,
    PADDED: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, SPLIT: tl.constexpr,
    PARALLEL: tl.constexpr, PRODUCT: tl.constexpr, SCALED: tl.constexpr, TREE: tl.constexpr,
    WINDOWED: tl.constexpr, CAPPED: tl.constexpr, FIELDS: tl.constexpr,
):  # fmt: skip
    """One tile of rows of one KV head, over one split or over all of them."""
    head = tl.program_id(1)
    span = spans + tl.load(tiles + 2 * tl.program_id(0)) * FIELDS
    q_start, q_rows = tl.load(span), tl.load(span + 1)
    key_begin, key_end = tl.load(span + 2), tl.load(span + 3)
    offset, table_row = tl.load(span + 4), tl.load(span + 5)
    row = tl.load(tiles + 2 * tl.program_id(0) + 1) + tl.arange(0, TILE)
    is_row = row < q_rows * GROUP
    local = row // GROUP
    token = (q_start + local).to(tl.int64)
    q_head = head * GROUP + row % GROUP
    column = tl.arange(0, PADDED)
    is_column = column < DIM
    place = token * (HKV * GROUP) + q_head
    x = tl.load(
        q + place[:, None] * DIM + column[None, :],
        mask=is_row[:, None] & is_column[None, :],
        other=0.0,
    ).to(PRODUCT)
    position = offset + local

    first, end = key_begin // SPLIT, tl.cdiv(key_end, SPLIT)
    if PARALLEL:
        first = first + tl.program_id(2)
        end = tl.minimum(end, first + 1)
    elif not TREE:  # no row of the tile sees beyond its last
        end = tl.minimum(end, tl.cdiv(tl.max(tl.where(is_row, position, 0)) + 1, SPLIT))
    top = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    acc = tl.zeros([TILE, PADDED], tl.float32)
    for split in range(first, end):
        split_top = tl.full([TILE], float("-inf"), tl.float32)
        split_total = tl.zeros([TILE], tl.float32)
        split_acc = tl.zeros([TILE, PADDED], tl.float32)
        for base in range(split * SPLIT, tl.minimum(split * SPLIT + SPLIT, key_end), BLOCK):
            key = base + tl.arange(0, BLOCK)
            is_key = key < key_end
            page = tl.load(page_table + table_row * table_width + key // PAGE, mask=is_key, other=0)
            slot = (page.to(tl.int64) * PAGE + key % PAGE) * HKV + head
            here = slot[:, None] * DIM + column[None, :]
            is_here = is_key[:, None] & is_column[None, :]
            k = tl.load(k_pages + here, mask=is_here, other=0.0).to(PRODUCT)
            score = tl.dot(x, tl.trans(k), input_precision="ieee") * scale
            if SCALED:
                score *= tl.load(k_scales + slot, mask=is_key, other=0.0)[None, :]
            if CAPPED:  # tanh(y) by exp(-2 |y|), which cannot overflow
                y = score / soft_cap
                small = tl.exp(-2.0 * tl.abs(y))
                tanh = (1.0 - small) / (1.0 + small)
                score = soft_cap * tl.where(y < 0, -tanh, tanh)
            if TREE:
                node = key - offset
                word = tl.load(
                    tree_mask + token[:, None] * tree_words + node[None, :] // 32,
                    mask=is_row[:, None] & (is_key & (node >= 0))[None, :],
                    other=-1,
                )
                seen = ((word >> (node & 31)[None, :]) & 1) != 0
            else:
                seen = key[None, :] <= position[:, None]
            if WINDOWED:
                seen = seen & (key[None, :] > position[:, None] - window)
            score = tl.where(seen & is_key[None, :], score, float("-inf"))
            new_top = tl.maximum(split_top, tl.max(score, 1))
            finite = tl.where(new_top == float("-inf"), 0.0, new_top)
            p = tl.exp(score - finite[:, None])
            shrink = tl.exp(split_top - finite)
            split_total = split_total * shrink + tl.sum(p, 1)
            if SCALED:
                p *= tl.load(v_scales + slot, mask=is_key, other=0.0)[None, :]
            v = tl.load(v_pages + here, mask=is_here, other=0.0).to(PRODUCT)
            split_acc = split_acc * shrink[:, None]
            split_acc += tl.dot(p.to(PRODUCT), v, input_precision="ieee")
            split_top = new_top
        new_top = tl.maximum(top, split_top)
        finite = tl.where(new_top == float("-inf"), 0.0, new_top)
        old, new = tl.exp(top - finite), tl.exp(split_top - finite)
        total = total * old + split_total * new
        acc = acc * old[:, None] + split_acc * new[:, None]
        top = new_top
    if PARALLEL:
        if first < end:
            part = place * num_splits + first
            here = part[:, None] * DIM + column[None, :]
            tl.store(part_acc + here, acc, mask=is_row[:, None] & is_column[None, :])
            tl.store(part_top + 2 * part, top, mask=is_row)
            tl.store(part_top + 2 * part + 1, total, mask=is_row)
    else:
        here = place[:, None] * DIM + column[None, :]
        value = (acc / total[:, None]).to(out.dtype.element_ty)
        tl.store(out + here, value, mask=is_row[:, None] & is_column[None, :])
        tl.store(lse + place, top + tl.log(total), mask=is_row)


@triton.jit
def _merge(
    rows, part_acc, part_top, out, lse, num_splits,
    HQ: tl.constexpr, DIM: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """The splits of one token and head, in order, as `_attend` adds them in its own loop."""
    entry = rows + 3 * tl.program_id(0)
    place = tl.load(entry).to(tl.int64) * HQ + tl.program_id(1)
    column = tl.arange(0, PADDED)
    is_column = column < DIM
    # Blocks of one, since a loop's scalars must keep one type.
    one = tl.arange(0, 1)
    top = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    acc = tl.zeros([PADDED], tl.float32)
    for split in range(tl.load(entry + 1), tl.load(entry + 2)):
        part = place * num_splits + split
        split_top = tl.load(part_top + 2 * part + one)
        new_top = tl.maximum(top, split_top)
        finite = tl.where(new_top == float("-inf"), 0.0, new_top)
        old, new = tl.exp(top - finite), tl.exp(split_top - finite)
        total = total * old + tl.load(part_top + 2 * part + 1 + one) * new
        acc = acc * old + tl.load(part_acc + part * DIM + column, mask=is_column, other=0.0) * new
        top = new_top
    value = (acc / total).to(out.dtype.element_ty)
    tl.store(out + place * DIM + column, value, mask=is_column)
    tl.store(lse + place + one, top + tl.log(total))
