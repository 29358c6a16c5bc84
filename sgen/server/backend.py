"""What the endpoints need of an engine: `Backend`, and what takes long in a form to be awaited.

`check_grammar` and `count_tokens`, which are plain methods of `Backend`, wait for the engine: they
are for other threads than the event loop's.  Endpoints await `check` and `tokenize` instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from sgen.protocol import Backend, GrammarSpec, PromptPart
from sgen.runtime.stats import EngineStats

EngineState = Literal["starting", "ready", "restarting", "failed", "closed"]
"""Requests are taken when it is "ready" only.  "restarting": the process died, another is on its
way; "failed": it could not be loaded, and trying again is no use; "closed": by us."""


class ServerBackend(Backend, Protocol):
    """An engine that may go away and come back.

    What is awaited raises EngineClosedError when the engine is not ready, or dies meanwhile.
    """

    @property
    def state(self) -> EngineState: ...

    async def check(self, grammar: GrammarSpec) -> int:
        """Compile it; the least number of tokens of an output.  GrammarError if refused."""

    async def tokenize(self, prompt: Sequence[PromptPart]) -> list[int]:
        """The tokens of a prompt.  InvalidRequestError if its roles make no sense."""

    async def detokenize(self, ids: Sequence[int]) -> str:
        """The text of tokens.  InvalidRequestError for ids outside the vocabulary."""

    async def apply_template(self, prompt: Sequence[PromptPart]) -> str:
        """The text of a prompt, special tokens by their names."""

    async def stats(self) -> EngineStats:
        """Counters since the engine's start, and pages as they are now."""
