"""The two kinds of work that a request can be for: to generate text, or to score tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import torch

from sgen.errors import CancelledError, SgenError
from sgen.protocol import Chunk, Usage
from sgen.runtime.output import OutputStream
from sgen.runtime.request import Request
from sgen.runtime.sampling import Sampled, Sampler

OnChunk = Callable[[Chunk], None]
OnError = Callable[[SgenError], None]
OnRow = Callable[[int, int, torch.Tensor], None]
OnDone = Callable[[Usage], None]


@dataclass(eq=False, slots=True)
class Generation:
    """Extend the request by sampled tokens and send chunks of text."""

    request: Request
    stream: OutputStream
    sampler: Sampler
    on_chunk: OnChunk
    on_error: OnError

    def push(self, sampled: Sampled) -> Chunk | None:
        """Add a sampled token; the chunk to send.  `stream.finish_reason` is set by the last."""
        chunk = self.stream.push(sampled)
        if self.stream.finish_reason is None:
            self.request.append(sampled.token)
            self.sampler.accept(sampled.token)
        return chunk

    def send(self, chunk: Chunk) -> None:
        if chunk.finish_reason is not None:
            request = self.request
            usage = Usage(request.num_prompt, request.num_cached or 0, self.stream.num_tokens)
            chunk = msgspec.structs.replace(chunk, usage=usage)
        self.on_chunk(chunk)

    def cancelled(self) -> None:
        """Tell the caller that the request was cancelled."""
        self.send(self.stream.end("cancelled"))


@dataclass(eq=False, slots=True)
class Scoring:
    """Hand out the logits of the last positions of one sequence of a request."""

    request: Request
    on_row: Callable[[int, torch.Tensor], None]
    on_done: OnDone
    on_error: OnError

    def hand_out(self, positions: range, logits: torch.Tensor) -> None:
        """logits fp32 [len(positions), V]."""
        for position, row in zip(positions, logits, strict=True):
            self.on_row(position, row)
            self.request.score_from = position + 1

    def finished(self) -> None:
        """Tell the caller that all rows have been handed out."""
        self.on_done(Usage(self.request.num_prompt, self.request.num_cached or 0, 0))

    def cancelled(self) -> None:
        """Tell the caller that the request was cancelled."""
        self.on_error(CancelledError(f"scoring request {self.request.id!r} was cancelled"))


Job = Generation | Scoring

Handle = tuple[Job, ...]
"""What one call submitted: one generation, or a scoring for each sequence.  All have one id."""
