"""What one step computes, and what a model must be able to do: extend requests by n tokens.

Prefill, decode and verification are one operation on a ragged batch; there are no modes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

PAGE_SIZE = 16
"""Tokens in a page of the KV cache."""


@dataclass(frozen=True, slots=True)
class Batch:
    """B requests extended by T tokens in all; one row per scheduled token.

    Request b owns rows `cu_seqlens_q[b]:cu_seqlens_q[b + 1]`, its last tokens; `seq_lens[b]` of
    its tokens have KV once this step is done.  Logits are made for `logit_rows` only.
    """

    tokens: Tensor  # int64 [T]
    positions: Tensor  # int64 [T], from 0 at the start of each request
    slots: Tensor  # int64 [T], page * PAGE_SIZE + offset, where the row's KV is written
    cu_seqlens_q: Tensor  # int32 [B + 1]
    page_table: Tensor  # int32 [B, max_pages], padded with 0
    seq_lens: Tensor  # int32 [B]
    logit_rows: Tensor  # int64 [R]


class KVCache(Protocol):
    """Keys and values of all layers, in `num_pages` pages."""

    @property
    def num_pages(self) -> int: ...

    def copy_page(self, source: int, target: int) -> None:
        """Copy a page's keys and values in all layers."""


class Model(Protocol):
    """A decoder.  `forward` writes KV at `batch.slots` and returns fp32 logits [R, vocab], which
    last until the next step of the same cache."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def context_length(self) -> int: ...

    def allocate(self, num_pages: int) -> KVCache: ...

    def forward(self, batch: Batch, cache: KVCache) -> torch.Tensor: ...
