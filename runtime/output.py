"""From sampled tokens to the text that a caller sees, and when it ends.

- Texts of all chunks concatenate to the final text; never half a character.  Bytes that cannot
  become a character turn into U+FFFD, as they do at the very end for a sequence cut short.
- Text that may be the beginning of a stop string is held back, and nothing else is.
- The token ids of all chunks spell the final text.  An id comes with the chunk that completes its
  text.  Tokens that end the output (EOS, stop tokens) are not among them.  Where a stop string
  begins inside a token, that token is replaced by tokens that spell the part before the stop.
- `Usage.completion_tokens` and `max_tokens` count every sampled token, those left out too.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sgen.errors import SgenError
from sgen.grammars.vocabulary import Vocabulary
from sgen.protocol import Chunk, FinishReason, SamplingParams, TokenLogprob
from sgen.runtime.request import Matcher
from sgen.runtime.sampling import Sampled
from sgen.runtime.stops import StopStrings


class Speller:
    """Spells bytes with a vocabulary's tokens, the longest first; not the tokenizer's own way."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        ids: dict[bytes, int] = {}
        for token, text in enumerate(self.vocabulary.token_bytes):
            if text:
                ids.setdefault(text, token)
        return ids

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._ids), default=0)

    def spell(self, data: bytes) -> tuple[int, ...] | None:
        """Tokens whose bytes are `data`; None where the vocabulary lacks the bytes for it."""
        tokens: list[int] = []
        start = 0
        while start < len(data):
            ends = range(min(len(data), start + self._longest), start, -1)
            end = next((e for e in ends if data[start:e] in self._ids), None)
            if end is None:
                return None
            tokens.append(self._ids[data[start:end]])
            start = end
        return tuple(tokens)


_Pending = tuple[int, int, TokenLogprob | None, bool]
"""A token whose text was not shown to its end yet, where that is (in characters from the start),
what is told of it, and whether it was the only one that its mask allowed."""


class OutputStream:
    """One request's output.  `push` takes each sampled token and gives the chunk to send, if any.

    With a grammar and `finish="valid"` the mask keeps room to close within the tokens that are
    left.  With a grammar, EOS always ends the output: the mask lets it through only where the
    text is complete.  There, any other token that the grammar does not go on with ends it too: a
    model that wants a line's end behind "12" has said its number, and must not be made to add
    digits because no line's end is allowed.  Only the first token is always one of the grammar's.
    A stop string ends constrained output wherever it appears (requests that must end valid have
    none).
    """

    def __init__(
        self,
        speller: Speller,
        params: SamplingParams,
        max_tokens: int,
        matcher: Matcher | None = None,
    ) -> None:
        self.num_tokens = 0  # sampled, all of them
        self.finish_reason: FinishReason | None = None
        self._speller = speller
        self._vocabulary = speller.vocabulary
        self._max_tokens = max_tokens
        self._matcher = matcher
        self._keep_valid = params.finish == "valid"
        self._leaving_mask: NDArray[np.uint32] | None = (
            None  # set while the text may end by leaving
        )
        self._forced = False  # the mask allows one token
        self._eos = () if params.ignore_eos and matcher is None else self._vocabulary.eos_ids
        self._stop_tokens = frozenset(params.stop_token_ids)
        self._stops = StopStrings(params.stop)
        self._half = b""  # the beginning of a character, whose other bytes have not come
        self._num_decoded = 0  # characters out of whole ones, and out of what can be none
        self._num_shown = 0  # characters in chunks
        self._pending: deque[_Pending] = deque()
        self._unspelled = ""  # shown since the end of the last token id sent

    @property
    def constrained(self) -> bool:
        """Whether there is a grammar; without one, `allowed` need not be called."""
        return self._matcher is not None

    def allowed(self) -> NDArray[np.uint32] | None:
        """The mask of the next token (see Matcher.allowed); None where any may be chosen: without
        a grammar, and where a token that is not the grammar's would end the output."""
        if self._matcher is None:
            return None
        remaining = self._max_tokens - self.num_tokens
        mask = self._matcher.allowed(remaining if self._keep_valid else None)
        may_leave = self.num_tokens > 0 and self._matcher.is_accepting()
        self._leaving_mask = mask if may_leave else None
        self._forced = not may_leave and _is_single(mask)
        return None if may_leave else mask

    def push(self, sampled: Sampled) -> Chunk | None:
        """Add a sampled token.  Sets `finish_reason` when the output ends with it."""
        assert self.finish_reason is None
        token = sampled.token
        self.num_tokens += 1
        if token in self._stop_tokens:
            return self.end("stop")
        leaving = self._leaving_mask
        if leaving is not None and not int(leaving[token >> 5]) >> (token & 31) & 1:
            return self.end("stop")
        if self._matcher is not None and not self._matcher.accept(token):
            raise SgenError(f"the grammar's mask allowed token {token}, but it cannot accept it")
        if token in self._eos:
            return self.end("stop")
        text = self._decode(self._bytes(token))
        half = bool(self._half)  # its character will be shown with a later token
        end = self._num_decoded + half
        self._pending.append((token, end, self._logprob(sampled), self._forced))
        shown, stop = self._stops.push(text)
        if stop is not None:
            return self._finish("stop", shown, stop)
        reason = self._complete()
        if reason is not None:
            return self.end(reason, shown)
        return self._chunk(shown)

    def end(self, reason: FinishReason, shown: str = "") -> Chunk:
        """Nothing follows: show `shown`, then what was held back."""
        rest, stop = self._stops.push(self._decode(b"", final=True))
        if stop is not None:
            return self._finish("stop", shown + rest, stop)
        return self._finish(reason, shown + rest + self._stops.flush(), None)

    def _decode(self, data: bytes, *, final: bool = False) -> str:
        """The characters that `data` completes; at the end also what is left of half a one."""
        data = self._half + data
        text, used = codecs.utf_8_decode(data, "replace", final)
        self._half = data[used:]
        self._num_decoded += len(text)
        return text

    def _complete(self) -> FinishReason | None:
        """Has the output come to its end by itself, or to its last token?"""
        if self._matcher is not None and self._matcher.is_finished():
            return "stop"
        if self.num_tokens < self._max_tokens:
            return None
        return "stop" if self._matcher is not None and self._matcher.is_accepting() else "length"

    def _take_ids(self, shown: str) -> list[_Pending]:
        """Count `shown` as shown; the tokens whose text is complete by that."""
        taken: list[_Pending] = []
        base = self._num_shown - len(self._unspelled)
        self._num_shown += len(shown)
        self._unspelled += shown
        while self._pending and self._pending[0][1] <= self._num_shown:
            taken.append(self._pending.popleft())
        if taken:
            self._unspelled = self._unspelled[taken[-1][1] - base :]
        return taken

    def _chunk(self, shown: str) -> Chunk | None:
        taken = self._take_ids(shown)
        if not taken and not shown:
            return None
        return Chunk(
            text=shown,
            token_ids=tuple([token for token, _, _, _ in taken]),
            forced=_forced_places(taken),
            logprobs=tuple([logprob for _, _, logprob, _ in taken if logprob is not None]),
        )

    def _finish(self, reason: FinishReason, shown: str, stop: str | None) -> Chunk:
        self.finish_reason = reason
        taken = self._take_ids(shown)
        spelled = self._speller.spell(self._unspelled.encode()) or ()
        self._pending.clear()
        return Chunk(
            text=shown,
            token_ids=(*[token for token, _, _, _ in taken], *spelled),
            forced=_forced_places(taken),
            logprobs=tuple([logprob for _, _, logprob, _ in taken if logprob is not None]),
            finish_reason=reason,
            stop=stop,
        )

    def _bytes(self, token: int) -> bytes:
        """What a token adds to the text; models may have more rows than the tokenizer tokens.
        A special token that a grammar asked for shows its name: the text is the grammar's."""
        known = self._vocabulary.token_bytes
        text = known[token] if token < len(known) else b""
        if not text and self._matcher is not None:
            return self._vocabulary.special.get(token, "").encode()
        return text

    def _logprob(self, sampled: Sampled) -> TokenLogprob | None:
        if sampled.logprob is None:
            return None
        data = self._bytes(sampled.token)
        return TokenLogprob(
            sampled.token,
            data.decode("utf-8", "replace"),
            sampled.logprob,
            sampled.top,
            data,
            tuple([self._bytes(token) for token, _ in sampled.top]),
        )


def _is_single(mask: NDArray[np.uint32]) -> bool:
    """Whether a mask allows exactly one token.  It takes a microsecond."""
    return np.count_nonzero(mask) == 1 and int(mask.max()).bit_count() == 1


def _forced_places(taken: Sequence[_Pending]) -> tuple[int, ...]:
    """The places of tokens that were the only ones allowed."""
    return tuple([i for i, (_, _, _, forced) in enumerate(taken) if forced])
