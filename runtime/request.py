"""A request: tokens that grow, and how many of them have keys and values."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from enum import Enum, auto
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sgen.runtime.batch import PAGE_SIZE
from sgen.runtime.radix import PAGE_BYTES, Node, page_key


class Matcher(Protocol):
    """Walks a grammar along one request's tokens.  `eos` counts as a token of the grammar."""

    def allowed(self, remaining: int | None = None) -> NDArray[np.uint32]:
        """Which tokens may come next: [ceil(V / 32)], bit t % 32 of word t // 32.

        With `remaining`, only tokens after which the text can still be completed within that
        many tokens, this one included.
        """

    def accept(self, token: int) -> bool:
        """Advance by a token; False (and nothing changes) if it is not allowed."""

    def rollback(self, num_tokens: int) -> None: ...

    def fork(self) -> Matcher: ...

    def is_accepting(self) -> bool:
        """The text so far is complete, and may go on."""

    def is_finished(self) -> bool:
        """The text is complete and nothing can follow."""

    def shortest_close(self) -> int:
        """The least number of tokens that completes the text from here."""


class State(Enum):
    WAITING = auto()
    RUNNING = auto()
    FINISHED = auto()


class Request:
    """What the scheduler knows of a request.

    `0 <= num_computed <= len(tokens)`, and `tokens[:num_computed]` have KV in `pages`.  The first
    `node.depth` of these pages are the tree's, held through `node`; the others are private.  Only
    a running request has pages.  A scoring request (`score_from` given) is never sampled: it
    wants the logits of every position from `score_from` on.
    """

    def __init__(
        self,
        request_id: str,
        tokens: Sequence[int],
        *,
        salt: str = "",
        score_from: int | None = None,
    ) -> None:
        assert tokens
        assert score_from is None or 0 <= score_from < len(tokens)
        self.id = request_id
        self.salt = salt
        self.tokens = list(tokens)
        self.num_prompt = len(self.tokens)
        self.keys = _page_keys(self.tokens)  # one for each full page of tokens
        self.state = State.WAITING
        self.num_computed = 0
        self.num_cached: int | None = None  # prompt tokens found in the cache when first admitted
        self.pages = array("i")
        self.node: Node | None = None  # the deepest tree page it holds; None unless running
        self.root: Node | None = None  # its salt's root; None before it is queued and at the end
        self.match: Node | None = None  # where its match ended when last looked up
        self.arrival = 0  # order of arrival; the greatest is the youngest
        self.queued_at = 0  # the step in which it came
        self.score_from = score_from  # the first position whose logits were not handed out yet

    def append(self, token: int) -> None:
        """Add a sampled token; it has no KV yet."""
        self.tokens.append(token)
        if len(self.tokens) % PAGE_SIZE == 0:
            self.keys.append(page_key(self.tokens[-PAGE_SIZE:]))

    @property
    def num_remaining(self) -> int:
        """Tokens that have no KV yet."""
        return len(self.tokens) - self.num_computed

    @property
    def scores(self) -> bool:
        return self.score_from is not None

    @property
    def first_logit(self) -> int:
        """The first position whose logits are still wanted.

        It has to be computed, so no more than the tokens before it may come from the cache.
        """
        return len(self.tokens) - 1 if self.score_from is None else self.score_from

    def tail(self, start: int, end: int) -> bytes:
        """The key of a page that holds `tokens[start:end]`."""
        return page_key(self.tokens[start:end])

    @property
    def private_pages(self) -> array[int]:
        return self.pages[self.node.depth :] if self.node is not None else self.pages


def _page_keys(tokens: Sequence[int]) -> list[bytes]:
    raw = np.asarray(tokens, dtype=np.int32).tobytes()
    return [raw[i : i + PAGE_BYTES] for i in range(0, len(raw) - PAGE_BYTES + 1, PAGE_BYTES)]
