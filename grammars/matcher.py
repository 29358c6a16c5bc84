"""One text on its way through a grammar, token by token."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sgen.grammars.automata import DEAD
from sgen.grammars.masks import Masker


class _Step:
    """The state after a token, and the step before it; steps are shared by forks."""

    __slots__ = ("ended", "previous", "state")

    def __init__(self, state: int, ended: bool, previous: _Step | None) -> None:
        self.state = state
        self.ended = ended
        self.previous = previous


class Matcher:
    """A text so far.  A fork costs O(1) and a rollback O(1) a token: states are numbers.

    A matcher is for one thread at a time; matchers of one masker may be in different threads.
    """

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._step = _Step(masker.grammar.start, False, None)

    def allowed(self, remaining: int | None = None) -> NDArray[np.uint32]:
        """Which tokens `accept` would take: uint32 [ceil(V / 32)], read-only, bit t % 32 of word
        t // 32 for token t.  A token that ends the text is among them when it is complete.

        With `remaining`, only tokens after which the text can still be completed with at most
        `remaining - 1` more; an end token is not counted, for a complete text needs none.  While
        `shortest_close()` was at most `remaining` before the first token, following any allowed
        tokens, with `remaining` less by one each time, comes to a complete text in time.
        """
        if self._step.ended:
            nothing = np.zeros(self._masker.num_words, np.uint32)
            nothing.flags.writeable = False
            return nothing
        return self._masker.mask(self._step.state, remaining)

    def accept(self, token: int) -> bool:
        """Go on by one token; False, and nothing changes, if it is not allowed."""
        step = self._step
        vocabulary = self._masker.vocabulary
        if step.ended or not 0 <= token < len(vocabulary):
            return False
        if token in vocabulary.eos_ids:
            if self.is_accepting():
                self._step = _Step(step.state, True, step)
                return True
            return False
        state = self._masker.advance(step.state, token)
        if state == DEAD:
            return False
        self._step = _Step(state, False, step)
        return True

    def rollback(self, num_tokens: int) -> None:
        """Take back the last tokens, end tokens too."""
        step = self._step
        for _ in range(num_tokens):
            assert step.previous is not None, "cannot take back more tokens than were accepted"
            step = step.previous
        self._step = step

    def fork(self) -> Matcher:
        """An independent matcher at the same place."""
        other = Matcher(self._masker)
        other._step = self._step
        return other

    def is_accepting(self) -> bool:
        """The text so far is complete, and may go on."""
        return self._masker.grammar.accepts(self._step.state)

    def is_finished(self) -> bool:
        """The text is complete and nothing can follow, or an end token was accepted."""
        return self._step.ended or (
            self.is_accepting() and not self._masker.grammar.automaton.live(self._step.state)
        )

    def shortest_close(self) -> int:
        """Tokens that are enough to complete the text from here (an upper bound of the least)."""
        return 0 if self._step.ended else self._masker.shortest_close(self._step.state)

    def forced(self, remaining: int | None = None) -> list[int]:
        """Tokens that the text will most likely go on with, since the grammar forces their bytes
        (see forced.py).  `accept` takes them one after the other; with `remaining`, each is also
        in its mask, as in `allowed`."""
        masker, state = self._masker, self._step.state
        tokens: list[int] = []
        if self._step.ended:
            return tokens
        for token in masker.forced.tokens(state):
            state = masker.advance(state, token)
            if state == DEAD:
                break
            if remaining is not None and masker.shortest_close(state) >= remaining - len(tokens):
                break
            tokens.append(token)
        return tokens
