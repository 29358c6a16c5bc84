"""The work that compiling one grammar may take, counted in steps.

A short source can ask for a great deal: every part of the compilation that repeats something
spends from one count, so that the sum is bounded and the same source always ends the same way.
"""

from __future__ import annotations

from sgen.errors import GrammarError

MAX_STEPS = 100_000
"""A step takes about ten microseconds: a refusal comes within a second or two."""


class Work:
    """Steps left."""

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self._left = steps

    @property
    def left(self) -> int:
        return self._left

    def spend(self, steps: int) -> None:
        """GrammarError once they are used up."""
        self._left -= steps
        if self._left < 0:
            raise GrammarError(
                "the grammar takes too much work to compile",
                keyword="work",
                hint="use fewer or simpler constraints, or split it into several grammars",
            )
