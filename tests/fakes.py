"""Test doubles for the engine: a model that hashes what it reads, a vocabulary of bytes.

`HashModel` writes each token and its position into the pages and makes logits from a hash of the
history that it reads back through the page table.  So an error of paging, copying, eviction or
ordering trips an assert or changes the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from sgen.grammars.vocabulary import Vocabulary
from sgen.protocol import Chunk, SamplingParams, Usage
from sgen.runtime.batch import PAGE_SIZE, Batch
from sgen.runtime.sampling import Sampler

EOS = 256
WORDS = ("the ", "and ", "é", "日本", "END", "\n\n", "ab", "abc")


def byte_vocabulary() -> Vocabulary:
    """256 single bytes, EOS (256), a special token that adds nothing (257), and some words."""
    singles = [bytes([b]) for b in range(256)]
    return Vocabulary([*singles, b"", b"", *(w.encode() for w in WORDS)], eos_ids=[EOS])


VOCABULARY = byte_vocabulary()
VOCAB_SIZE = len(VOCABULARY)


def encode(text: str) -> list[int]:
    """A token for each byte."""
    return list(text.encode())


class HashCache:
    """Pages that remember which token at which position was written to each slot."""

    def __init__(self, num_pages: int) -> None:
        self._num_pages = num_pages
        self.tokens = np.full(num_pages * PAGE_SIZE, -1, dtype=np.int64)
        self.positions = np.full(num_pages * PAGE_SIZE, -1, dtype=np.int64)
        self.copies = 0

    @property
    def num_pages(self) -> int:
        return self._num_pages

    def copy_page(self, source: int, target: int) -> None:
        assert source != target
        self.copies += 1
        for values in (self.tokens, self.positions):
            pages = values.reshape(-1, PAGE_SIZE)
            pages[target] = pages[source]


def history_logits(history: Sequence[int] | NDArray[np.int64], vocab_size: int) -> torch.Tensor:
    """fp32 [V], a pure function of the token history: rounded, so that equals do occur."""
    state = 1469598103934665603
    for token in history:
        state = (state ^ int(token)) * 1099511628211 % 2**64
    noise = np.random.default_rng(state).standard_normal(vocab_size, dtype=np.float32)
    return torch.from_numpy(np.round(noise * 3, 1))


@dataclass
class HashModel:
    """A Model whose next token depends on every token before it, read from the pages.

    `fail_on` makes `forward` raise while that token is in the batch; `nan_on` gives NaN logits
    after it; `eos_bias` is added to the logit of EOS, which ends about one text in 30 tokens.
    """

    vocab_size: int = VOCAB_SIZE
    context_length: int = 4096
    fail_on: int | None = None
    nan_on: int | None = None
    eos_bias: float = 3.0
    batches: list[tuple[int, int]] = field(default_factory=list)  # (requests, rows) of each step
    max_logit_rows: int = 0

    def allocate(self, num_pages: int) -> HashCache:
        return HashCache(num_pages)

    def logits(self, history: Sequence[int] | NDArray[np.int64]) -> torch.Tensor:
        row = history_logits(history, self.vocab_size)
        if self.vocab_size > EOS:
            row[EOS] += self.eos_bias
        if history[-1] == self.nan_on:
            row[7] = float("nan")
        return row

    def forward(self, batch: Batch, cache: HashCache) -> torch.Tensor:  # type: ignore[override]
        _check_batch(batch)
        tokens, slots = batch.tokens.numpy(), batch.slots.numpy()
        if self.fail_on is not None and self.fail_on in tokens:
            raise RuntimeError("the device fell off the bus")
        self.batches.append((len(batch.seq_lens), len(tokens)))
        self.max_logit_rows = max(self.max_logit_rows, len(batch.logit_rows))
        cache.tokens[slots] = tokens
        cache.positions[slots] = batch.positions.numpy()
        owners = np.repeat(np.arange(len(batch.seq_lens)), np.diff(batch.cu_seqlens_q.numpy()))
        table = batch.page_table.numpy()
        rows = []
        for row in batch.logit_rows.tolist():
            length = int(batch.positions[row]) + 1
            at = np.arange(length)
            read = table[owners[row], at // PAGE_SIZE] * PAGE_SIZE + at % PAGE_SIZE
            assert (cache.positions[read] == at).all(), "KV of another position was read"
            rows.append(self.logits(cache.tokens[read]))
        return torch.stack(rows) if rows else torch.zeros((0, self.vocab_size))


def _check_batch(batch: Batch) -> None:
    """Shapes, dtypes and what Batch promises; and that nobody writes where another one reads."""
    T, B = len(batch.tokens), len(batch.seq_lens)
    assert batch.tokens.dtype == batch.positions.dtype == batch.slots.dtype == torch.int64
    assert batch.cu_seqlens_q.dtype == batch.page_table.dtype == torch.int32
    assert batch.seq_lens.dtype == torch.int32
    assert batch.logit_rows.dtype == torch.int64
    assert batch.positions.shape == batch.slots.shape == (T,)
    assert batch.page_table.shape[0] == B
    cu = batch.cu_seqlens_q.tolist()
    assert cu[0] == 0
    assert cu[-1] == T
    assert len(set(batch.slots.tolist())) == T, "two rows write to one slot"
    readers: dict[int, set[int]] = {}
    for b, length in enumerate(batch.seq_lens.tolist()):
        used = batch.page_table[b, : -(-length // PAGE_SIZE)].tolist()
        assert len(set(used)) == len(used)
        for page in used:
            readers.setdefault(page, set()).add(b)
    for b, length in enumerate(batch.seq_lens.tolist()):
        own = batch.positions[cu[b] : cu[b + 1]].tolist()
        assert own == list(range(length - len(own), length))
        assert own, "a request without rows"
        for position, slot in zip(own, batch.slots[cu[b] : cu[b + 1]].tolist(), strict=True):
            page = int(batch.page_table[b, position // PAGE_SIZE])
            assert slot == page * PAGE_SIZE + position % PAGE_SIZE
            assert readers[page] == {b}, "a page is written that another request reads"


def solo_tokens(model: HashModel, prompt: Sequence[int], params: SamplingParams) -> list[int]:
    """What a request must sample, computed with neither pages, batches nor scheduler.

    Ends with EOS (left out) or max_tokens; needs a seed unless greedy.
    """
    sampler = Sampler(params, params.seed or 0, prompt)
    history = list(prompt)
    assert params.max_tokens is not None
    for _ in range(params.max_tokens):
        token = sampler.sample(model.logits(history).numpy(), len(history)).token
        if token == EOS and not params.ignore_eos:
            break
        history.append(token)
        sampler.accept(token)
    return history[len(prompt) :]


@dataclass
class Sink:
    """Collects what a request's callbacks get."""

    chunks: list[Chunk] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    def on_chunk(self, chunk: Chunk) -> None:
        assert not self.done, "a call after the last one"
        self.chunks.append(chunk)

    def on_error(self, error: Exception) -> None:
        assert not self.done, "a call after the last one"
        self.errors.append(error)

    @property
    def done(self) -> bool:
        return bool(self.errors) or (bool(self.chunks) and self.finish is not None)

    @property
    def finish(self) -> str | None:
        return self.chunks[-1].finish_reason if self.chunks else None

    @property
    def text(self) -> str:
        return "".join(c.text for c in self.chunks)

    @property
    def tokens(self) -> list[int]:
        return [t for c in self.chunks for t in c.token_ids]

    @property
    def usage(self) -> Usage:
        usage = self.chunks[-1].usage
        assert usage is not None
        return usage


class DigitsMatcher:
    """A Matcher for `[0-9]{low,high}`, then EOS (or the end by itself at `high`)."""

    def __init__(self, low: int, high: int, vocab_size: int = VOCAB_SIZE) -> None:
        self.low, self.high, self.vocab_size = low, high, vocab_size
        self.seen = 0
        self.ended = False
        self.asked: list[int | None] = []  # what `allowed` was given

    def allowed(self, remaining: int | None = None) -> NDArray[np.uint32]:
        self.asked.append(remaining)
        bits = np.zeros(-(-self.vocab_size // 32) * 32, dtype=np.uint8)
        if not self.ended:
            room = remaining is None or self.low - self.seen <= remaining
            bits[48:58] = self.seen < self.high and room
            bits[EOS] = self.seen >= self.low
        return np.packbits(bits, bitorder="little").view(np.uint32)

    def accept(self, token: int) -> bool:
        words = self.allowed(None)
        self.asked.pop()
        if not words[token // 32] >> np.uint32(token % 32) & 1:
            return False
        if token == EOS:
            self.ended = True
        else:
            self.seen += 1
        return True

    def rollback(self, num_tokens: int) -> None:
        self.seen -= num_tokens

    def fork(self) -> DigitsMatcher:
        other = DigitsMatcher(self.low, self.high, self.vocab_size)
        other.seen, other.ended = self.seen, self.ended
        return other

    def is_accepting(self) -> bool:
        return self.seen >= self.low

    def is_finished(self) -> bool:
        return self.ended or self.seen == self.high

    def shortest_close(self) -> int:
        return max(0, self.low - self.seen)
