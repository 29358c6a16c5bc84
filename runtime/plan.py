"""A step's plan made into the tensors of a Batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sgen.runtime.batch import PAGE_SIZE, Batch
from sgen.runtime.pages import pages_for
from sgen.runtime.scheduler import Extension


def build_batch(plan: Sequence[Extension]) -> Batch:
    """The Batch of a plan, in its order, on the CPU.

    Logit rows are in the order of the plan and, within a request, of positions.
    """
    starts = np.array([e.request.num_computed for e in plan], dtype=np.int64)
    counts = np.array([e.num_tokens for e in plan], dtype=np.int64)
    seq_lens = starts + counts
    cu_seqlens = np.zeros(len(plan) + 1, dtype=np.int32)
    np.cumsum(counts, out=cu_seqlens[1:])
    page_table = np.zeros((len(plan), pages_for(int(seq_lens.max()))), dtype=np.int32)
    tokens: list[int] = []
    logit_rows: list[int] = []
    for b, extension in enumerate(plan):
        request, num_tokens = extension
        start = request.num_computed
        used = pages_for(start + num_tokens)
        page_table[b, :used] = request.pages[:used]
        tokens += request.tokens[start : start + num_tokens]
        shift = int(cu_seqlens[b]) - start
        logit_rows += [position + shift for position in extension.logit_positions]
    owner = np.repeat(np.arange(len(plan)), counts)
    positions = np.arange(len(tokens)) + (starts - cu_seqlens[:-1])[owner]
    slots = page_table[owner, positions // PAGE_SIZE] * PAGE_SIZE + positions % PAGE_SIZE
    return Batch(
        tokens=torch.from_numpy(np.array(tokens, dtype=np.int64)),
        positions=torch.from_numpy(positions),
        slots=torch.from_numpy(slots.astype(np.int64)),
        cu_seqlens_q=torch.from_numpy(cu_seqlens),
        page_table=torch.from_numpy(page_table),
        seq_lens=torch.from_numpy(seq_lens.astype(np.int32)),
        logit_rows=torch.from_numpy(np.array(logit_rows, dtype=np.int64)),
    )
