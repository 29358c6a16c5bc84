"""Which tokens may come next in a state of a grammar.

A mask is one walk of the token trie through the grammar's rows, level by level, all nodes of a
level at once; it is then kept per state, the latest used, within a budget of bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sgen.errors import GrammarError
from sgen.grammars.automata import DEAD
from sgen.grammars.closing import NEVER_CLOSES, ClosingCosts
from sgen.grammars.grammar import Grammar
from sgen.grammars.vocabulary import Vocabulary

Mask = NDArray[np.uint32]
"""[ceil(V / 32)], bit t % 32 of word t // 32 (little-endian) for token t; not to be written."""

RECENT_WALKS = 8

OUTGROWN = 100_000
"""States; each takes about half a KiB."""


class Masker:
    """The masks of one grammar over one vocabulary of V tokens, for any number of matchers.

    A token is allowed in a state exactly when its bytes can follow and the text can then still be
    closed with the vocabulary's tokens; a token that ends a text, when the text is complete.
    `min_tokens` is enough, whatever is generated, to close a text within the budget that
    `mask` is given.  For any thread.  GrammarError if the vocabulary cannot spell any text.
    """

    def __init__(
        self, grammar: Grammar, vocabulary: Vocabulary, *, mask_bytes: int = 32 << 20
    ) -> None:
        self.grammar = grammar
        self.vocabulary = vocabulary
        self._trie = vocabulary.trie
        self._closing = ClosingCosts(grammar.automaton, vocabulary)
        self._masks: OrderedDict[int, tuple[Mask, int]] = OrderedDict()
        self._max_masks = max(1, mask_bytes // (4 * self.num_words))
        self._walks: OrderedDict[int, NDArray[np.int32]] = OrderedDict()
        self._costs: NDArray[np.int32] = np.full(256, -1, np.int32)
        self.min_tokens = self._closing.of(grammar.start)
        if self.min_tokens >= NEVER_CLOSES:
            raise GrammarError(
                "the model's tokens cannot write any text of this grammar",
                keyword="vocabulary",
                hint="it asks for bytes that no token has, or for a text without end",
            )

    @property
    def num_words(self) -> int:
        return (len(self.vocabulary) + 31) // 32

    @property
    def outgrown(self) -> bool:
        """So many states have been met that new texts had better start from a fresh compile.

        Only strings with large maximum lengths come to that: each length is a state of its own.
        """
        return self.grammar.num_states > OUTGROWN

    def shortest_close(self, state: int) -> int:
        """Tokens that are enough to complete the text from here."""
        with self.grammar.lock:
            return self._closing.of(state)

    def advance(self, state: int, token: int) -> int:
        """The state after a token that adds text, or DEAD if it is not allowed."""
        text = self.vocabulary.token_bytes[token]
        if not text:
            return DEAD
        with self.grammar.lock:
            after = self.grammar.advance(state, text)
            return after if after != DEAD and self._closing.of(after) < NEVER_CLOSES else DEAD

    def mask(self, state: int, remaining: int | None = None) -> Mask:
        """The tokens allowed in a state.

        With `remaining`, only those after which at most `remaining - 1` more tokens complete the
        text.  A token that ends the text is not counted: what is complete needs none.
        """
        with self.grammar.lock:
            known = self._masks.get(state)
            if known is None:
                costs = self._walk_costs(state)
                possible = costs[costs < NEVER_CLOSES]
                known = self._pack(state, costs < NEVER_CLOSES), int(possible.max(initial=0))
                self._masks[state] = known
                if len(self._masks) > self._max_masks:
                    self._masks.popitem(last=False)
            else:
                self._masks.move_to_end(state)
            mask, highest = known
            if remaining is None or highest < remaining:
                return mask
            return self._pack(state, self._walk_costs(state) < remaining)

    def _pack(self, state: int, allowed: NDArray[np.bool_]) -> Mask:
        bits = np.zeros(32 * self.num_words, np.bool_)
        bits[: len(allowed)] = allowed
        if self.grammar.accepts(state):
            bits[list(self.vocabulary.eos_ids)] = True
        words = np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32, copy=False)
        words.flags.writeable = False
        return words

    def _walk_costs(self, state: int) -> NDArray[np.int32]:
        """[V]: tokens that close the text after each token; NEVER_CLOSES where it cannot
        follow."""
        known = self._walks.get(state)
        if known is not None:
            self._walks.move_to_end(state)
            return known
        ends = self._walk(state)
        follows = ends >= 0
        seen = np.zeros(self.grammar.num_states, np.bool_)
        seen[ends[follows]] = True
        if self.grammar.num_states > len(self._costs):
            grown = np.full(2 * self.grammar.num_states, -1, np.int32)
            grown[: len(self._costs)] = self._costs
            self._costs = grown
        for number in np.flatnonzero(seen & (self._costs[: len(seen)] < 0)).tolist():
            self._costs[number] = self._closing.of(number)
        costs = np.where(follows, self._costs[ends], NEVER_CLOSES)
        self._walks[state] = costs
        if len(self._walks) > RECENT_WALKS:
            self._walks.popitem(last=False)
        return costs

    def _walk(self, state: int) -> NDArray[np.int32]:
        """[V]: the state after each token, or DEAD."""
        grammar, levels = self.grammar, self._trie.levels
        reached = np.full(len(self._trie), DEAD, np.int32)
        inner = np.array([state], np.int32)  # the states at the inner nodes of the level above
        for above, level in pairwise(levels):
            alive = np.flatnonzero(inner >= 0)
            if not alive.size:
                break
            if 2 * alive.size > inner.size:  # all nodes at once
                offsets = grammar.row_offsets(inner)
                states = grammar.rows.take(offsets[level.parent] + level.byte)
                reached[level.start : level.end] = states
            else:  # the children of living nodes only
                offsets = grammar.row_offsets(inner[alive])
                first, counts = above.children[alive], np.diff(above.children)[alive]
                ends = np.cumsum(counts)
                nodes = np.arange(ends[-1]) + np.repeat(first - (ends - counts), counts)
                states = np.full(len(level.byte), DEAD, np.int32)
                states[nodes] = grammar.rows.take(np.repeat(offsets, counts) + level.byte[nodes])
                reached[level.start + nodes] = states[nodes]
            inner = states[level.inner]
        return reached[self._trie.node_of]
