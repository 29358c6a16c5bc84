"""What is refused before a request is queued: by the model's limits and by the cache's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sgen.errors import CapacityError, InvalidRequestError
from sgen.protocol import SamplingParams
from sgen.runtime.batch import PAGE_SIZE
from sgen.runtime.pages import pages_for


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a model and `num_pages` pages of KV cache can hold."""

    vocab_size: int
    context_length: int
    num_pages: int

    def check_tokens(self, tokens: Sequence[int]) -> None:
        """InvalidRequestError if there are none, or one that the model does not know."""
        if len(tokens) == 0:
            raise InvalidRequestError(
                "the prompt has no tokens: nothing was said before this generation",
                param="prompt",
                hint="write text first, or a message and then generate as the assistant",
            )
        low, high = min(tokens), max(tokens)
        if low < 0 or high >= self.vocab_size:
            raise InvalidRequestError(
                f"token {low if low < 0 else high} is outside the model's vocabulary of "
                f"{self.vocab_size}",
                param="prompt",
            )

    def check_ids(self, params: SamplingParams) -> None:
        """InvalidRequestError if the parameters name a token that the model does not know."""
        for name in ("logit_bias", "stop_token_ids"):
            for token in getattr(params, name):
                if not 0 <= token < self.vocab_size:
                    raise InvalidRequestError(
                        f"{name} names token {token}, outside the model's vocabulary of "
                        f"{self.vocab_size}",
                        param=name,
                    )

    def room(self, num_prompt: int, max_tokens: int | None) -> int:
        """`max_tokens`, or what fits; CapacityError if prompt and output can never fit."""
        room = min(self.context_length, self.num_pages * PAGE_SIZE) - num_prompt
        wanted = max(1, room) if max_tokens is None else max_tokens
        total = num_prompt + wanted
        remedy = f"lower max_tokens to at most {room}" if room > 0 else "shorten the prompt"
        if total > self.context_length:
            raise CapacityError(
                f"{num_prompt} prompt tokens and {wanted} new ones are {total}, "
                f"but the model's context is {self.context_length} tokens",
                param="max_tokens",
                hint=remedy,
            )
        if pages_for(total) > self.num_pages:
            raise CapacityError(
                f"{num_prompt} prompt tokens and {wanted} new ones need {pages_for(total)} pages "
                f"of {PAGE_SIZE} tokens, but the KV cache has {self.num_pages}",
                param="max_tokens",
                hint=f"{remedy}, or give the engine a larger KV cache (cache_tokens)",
            )
        return wanted


def check_closes(shortest: int, max_tokens: int) -> None:
    """InvalidRequestError if a grammar's shortest output takes more than `max_tokens`."""
    if shortest > max_tokens:
        raise InvalidRequestError(
            f"the shortest output that the grammar allows takes {shortest} tokens, "
            f"but max_tokens is {max_tokens}",
            param="max_tokens",
            hint=f'set max_tokens to at least {shortest}, or finish to "truncate"',
        )
