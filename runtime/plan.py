"""A step's plan made into the tensors of a Batch."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import torch

from sgen.runtime.batch import PAGE_SIZE, Batch
from sgen.runtime.pages import pages_for
from sgen.runtime.scheduler import Extension


def build_batch(plan: Sequence[Extension]) -> Batch:
    """The Batch of a plan, in its order, on the CPU.

    Logit rows are in the order of the plan and, within a request, of positions.  The tensors are
    contiguous parts of two, one for each dtype: a tensor takes longer to make than to fill.
    """
    longest = max([e.request.num_computed + e.num_tokens for e in plan])
    padding = array("i", bytes(4 * pages_for(longest)))
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    logit_rows: list[int] = []
    cu_seqlens, seq_lens, page_table = array("i", [0]), array("i"), array("i")
    for extension in plan:
        request = extension.request
        start = request.num_computed
        end = start + extension.num_tokens
        shift = len(tokens) - start
        logit_rows += [position + shift for position in extension.logit_positions]
        tokens += request.tokens[start:end]
        positions += range(start, end)
        pages = request.pages[: pages_for(end)]
        slots += [pages[p // PAGE_SIZE] * PAGE_SIZE + p % PAGE_SIZE for p in range(start, end)]
        page_table += pages
        page_table += padding[len(pages) :]
        cu_seqlens.append(len(tokens))
        seq_lens.append(end)
    rows, requests = len(tokens), len(plan)
    long = torch.frombuffer(array("q", tokens + positions + slots + logit_rows), dtype=torch.int64)
    short = torch.frombuffer(cu_seqlens + seq_lens + page_table, dtype=torch.int32)
    long_parts = torch.split_with_sizes(long, [rows, rows, rows, len(logit_rows)])
    short_parts = torch.split_with_sizes(short, [requests + 1, requests, len(page_table)])
    return Batch(
        tokens=long_parts[0],
        positions=long_parts[1],
        slots=long_parts[2],
        cu_seqlens_q=short_parts[0],
        page_table=short_parts[2].view(requests, len(padding)),
        seq_lens=short_parts[1],
        logit_rows=long_parts[3],
    )
