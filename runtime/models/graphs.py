"""Decode steps as CUDA graphs: captured once for each bucket of sizes, replayed afterwards.

- A step qualifies if each of its requests has one new token.  It is padded to the next bucket: a
  power of two of requests, and a power of two of attention splits for the longest of them.
- A bucket has tensors of its own, whose addresses the graph holds; a step copies itself into them.
- Padding requests have one token, written to and read from a scratch page that nobody else reads.
- Attention has a program for each request and split of the bucket; those behind a request's end
  return at once, so the launch does not depend on lengths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from sgen.kernels.reference import SPLIT
from sgen.kernels.triton_attention import LARGE_TILE, SMALL_TILE, AttentionPlan, Launch
from sgen.runtime.batch import PAGE_SIZE, Batch

MAX_REQUESTS = 256
"""Larger decode steps keep the GPU busy by themselves."""


class Inputs(NamedTuple):
    """What a step reads besides its plan, on the device; the fields are those of Batch."""

    tokens: Tensor
    positions: Tensor
    slots: Tensor
    page_table: Tensor
    logit_rows: Tensor


Compute: TypeAlias = Callable[[Inputs, AttentionPlan], Tensor]
Capture: TypeAlias = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]
"""Of a computation: what repeats it, and the tensor that each repetition overwrites."""


class CudaCapture:
    """Captures on the current GPU, whose graphs share the memory of what they compute between.

    They are replayed one after another, and each result is read before the next is asked for.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """The computation runs once before it is captured, to compile its kernels."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch has none for it
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            compute()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = compute()
        return graph.replay, result


def bucket(count: int) -> int:
    """The least power of two that is not below `count`."""
    return 1 << max(0, count - 1).bit_length()


@dataclass(frozen=True, slots=True)
class _Graph:
    inputs: Inputs
    plan: AttentionPlan
    replay: Callable[[], None]
    logits: Tensor


class DecodeGraphs:
    """The graphs of one KV cache, each captured when it is first needed."""

    def __init__(
        self,
        compute: Compute,
        capture: Capture,
        *,
        scratch_page: int,
        group: int,
        window: int | None,
        deterministic: bool,
        device: torch.device,
    ) -> None:
        """`group`: query heads per KV head.  The rest is as in `plan_attention`."""
        self._compute, self._capture = compute, capture
        self._scratch = scratch_page
        self._group, self._window = group, window
        self._tile = SMALL_TILE if group <= SMALL_TILE and not deterministic else LARGE_TILE
        self._device = device
        self._graphs: dict[tuple[int, int], _Graph] = {}

    @property
    def captured(self) -> list[tuple[int, int]]:
        """The buckets of (requests, splits) so far, in the order of their first use."""
        return list(self._graphs)

    def takes(self, batch: Batch) -> bool:
        """Is this a decode step of a size and a model that graphs are made for?"""
        requests = len(batch.seq_lens)
        one_each = len(batch.tokens) == requests and bool((batch.cu_seqlens_q.diff() == 1).all())
        return one_each and requests <= MAX_REQUESTS and self._group <= LARGE_TILE

    def step(self, batch: Batch) -> Tensor:
        """fp32 logits [R, vocab] of `batch.logit_rows`, on the device."""
        longest = int(batch.seq_lens.max())
        key = bucket(len(batch.seq_lens)), bucket(-(-longest // SPLIT))
        inputs, plan = self._padded(batch, *key)
        graph = self._graphs.get(key)
        if graph is None:
            graph = self._graphs[key] = self._captured(inputs, plan)
        else:
            for target, source in zip(graph.inputs, inputs, strict=True):
                target.copy_(source, non_blocking=True)
            graph.plan.spans.copy_(plan.spans, non_blocking=True)
            graph.plan.merged.copy_(plan.merged, non_blocking=True)
        graph.replay()
        return graph.logits[batch.logit_rows.to(self._device)]

    def _captured(self, inputs: Inputs, plan: AttentionPlan) -> _Graph:
        inputs = Inputs(*(x.to(self._device, copy=True) for x in inputs))
        launches = tuple(
            Launch(x.tile, x.parallel, x.tiles.to(self._device), x.splits) for x in plan.launches
        )
        spans, merged = (x.to(self._device, copy=True) for x in (plan.spans, plan.merged))
        plan = AttentionPlan(spans, launches, merged, plan.splits)
        return _Graph(inputs, plan, *self._capture(lambda: self._compute(inputs, plan)))

    def _padded(self, batch: Batch, requests: int, splits: int) -> tuple[Inputs, AttentionPlan]:
        """The step at the size of its bucket, on the CPU; the last requests are padding."""
        real, width = batch.page_table.shape
        extra = requests - real
        pages_per_split = SPLIT // PAGE_SIZE
        table = torch.full((requests, splits * pages_per_split), self._scratch, dtype=torch.int32)
        width = min(width, table.shape[1])
        table[:real, :width] = batch.page_table[:, :width]
        inputs = Inputs(
            tokens=_extended(batch.tokens, extra, 0),
            positions=_extended(batch.positions, extra, 0),
            slots=_extended(batch.slots, extra, self._scratch * PAGE_SIZE),
            page_table=table,
            logit_rows=torch.arange(requests),
        )
        lens = _extended(batch.seq_lens, extra, 1)
        first = torch.zeros_like(lens)
        if self._window is not None:
            first = (lens - self._window).clamp(min=0) // SPLIT * SPLIT
        row = torch.arange(requests, dtype=torch.int32)
        one = torch.ones_like(row)
        spans = torch.stack([row, one, first, lens, lens - 1, row], dim=1).int()
        merged = torch.stack([row, first // SPLIT, (lens + SPLIT - 1) // SPLIT], dim=1).int()
        tiles = torch.stack([row, torch.zeros_like(row)], dim=1)
        launch = Launch(self._tile, True, tiles, splits)
        return inputs, AttentionPlan(spans, (launch,), merged, splits)


def _extended(x: Tensor, count: int, value: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, count), value=value)
