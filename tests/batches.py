"""Batches for tests that call a model without a scheduler."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sgen.runtime.batch import PAGE_SIZE, Batch


def batch_of(
    requests: Sequence[Sequence[int]],
    *,
    computed: Sequence[int] | None = None,
    first_pages: Sequence[int] | None = None,
) -> Batch:
    """Requests in neighbouring pages, extended from `computed` on; logits of every new row."""
    starts = list(computed or [0] * len(requests))
    counts = [-(-len(r) // PAGE_SIZE) for r in requests]
    firsts = list(first_pages or [sum(counts[:b]) for b in range(len(requests))])
    tokens, positions, slots = [], [], []
    table = torch.zeros(len(requests), max(counts), dtype=torch.int32)
    for b, request in enumerate(requests):
        table[b, : counts[b]] = torch.arange(firsts[b], firsts[b] + counts[b])
        tokens += request[starts[b] :]
        positions += range(starts[b], len(request))
        slots += [firsts[b] * PAGE_SIZE + p for p in range(starts[b], len(request))]
    rows = [len(r) - s for r, s in zip(requests, starts, strict=True)]
    return Batch(
        tokens=torch.tensor(tokens),
        positions=torch.tensor(positions),
        slots=torch.tensor(slots),
        cu_seqlens_q=torch.tensor([0, *rows]).cumsum(0).int(),
        page_table=table,
        seq_lens=torch.tensor([len(r) for r in requests], dtype=torch.int32),
        logit_rows=torch.arange(len(tokens)),
    )
