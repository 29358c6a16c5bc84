"""What an engine counts and holds.  A leaf module, for those who look at an engine from another
process too."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Tokens since the start.  While nothing is preempted, prompt = cached + prefilled."""

    prompt_tokens: int = 0  # prompts of the requests admitted so far
    cached_tokens: int = 0  # whose KV was found in the tree at an admission, first or repeated
    prefilled_tokens: int = 0  # computed, but for those decoded: prompts, and what was preempted
    decoded_tokens: int = 0  # sampled
    preemptions: int = 0


@dataclass(frozen=True, slots=True)
class EngineStats:
    """`num_running` + `num_waiting` are all that has not ended: both 0 means that it is idle.

    Pages and counters are read while steps go on, so they agree with each other (free + tree +
    private = all pages) only when nothing runs.  See Counters for the tokens.
    """

    num_running: int
    num_waiting: int
    num_pages: int
    free_pages: int
    tree_pages: int
    evictions: int
    counters: Counters
