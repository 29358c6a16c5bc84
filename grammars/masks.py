"""Which tokens may come next in a state of a grammar.

Masks are made when they are asked for, in C or in Python, and kept per state within a budget of
bytes: in two generations, so that those which were used lately stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sgen.errors import GrammarError
from sgen.grammars.automata import DEAD
from sgen.grammars.closing import NEVER_CLOSES
from sgen.grammars.forced import Forced
from sgen.grammars.grammar import Grammar
from sgen.grammars.native import NativeMachine, NativeWalker
from sgen.grammars.vocabulary import Vocabulary
from sgen.grammars.walker import Walker

Mask = NDArray[np.uint32]
"""[ceil(V / 32)], bit t % 32 of word t // 32 (little-endian) for token t; not to be written."""

MASK_BYTES = 3 << 20
"""Of the masks of one grammar that are kept."""

OUTGROWN = 100_000
"""States; each takes about 100 bytes in C, half a KiB in Python."""

OUTGROWN_BYTES = 32 << 20

Known = tuple[Mask, int]
"""A mask, and no less than the tokens that close the text after any token in it."""


class Masker:
    """The masks of one grammar over one vocabulary of V tokens, for any number of matchers.

    A token is allowed in a state exactly when its bytes can follow and the text can then still be
    closed with the vocabulary's tokens; a token that ends a text, when the text is complete.
    `min_tokens` is enough, whatever is generated, to close a text within the budget that
    `mask` is given.  For any thread.  GrammarError if the vocabulary cannot spell any text.
    """

    def __init__(
        self, grammar: Grammar, vocabulary: Vocabulary, *, mask_bytes: int = MASK_BYTES
    ) -> None:
        self.grammar = grammar
        self.vocabulary = vocabulary
        self.forced = Forced(grammar, vocabulary)
        self.num_words = (len(vocabulary) + 31) // 32
        self._texts = vocabulary.walk_bytes
        machine = grammar.automaton
        self._walker: NativeWalker | Walker = (
            NativeWalker(machine, vocabulary)
            if isinstance(machine, NativeMachine)
            else Walker(machine, vocabulary)
        )
        self._lock = grammar.lock
        self._keeper = _Keeper(self.num_words, mask_bytes)
        self._young = self._keeper.young
        self.min_tokens = self._walker.tokens_to_close(grammar.start)
        if self.min_tokens >= NEVER_CLOSES:
            raise GrammarError(
                "the model's tokens cannot write any text of this grammar",
                keyword="vocabulary",
                hint="it asks for bytes that no token has, or for a text without end",
            )

    @property
    def num_bytes(self) -> int:
        """What the grammar and its masks take, about."""
        return self.grammar.num_bytes + self._keeper.num_bytes

    @property
    def outgrown(self) -> bool:
        """So many states have been met that new texts had better start from a fresh compile.

        Only strings with large maximum lengths come to that: each length is a state of its own.
        """
        grammar = self.grammar
        return grammar.num_states > OUTGROWN or grammar.num_bytes > OUTGROWN_BYTES

    def shortest_close(self, state: int) -> int:
        """Tokens that are enough to complete the text from here."""
        with self._lock:
            return self._walker.tokens_to_close(state)

    def advance(self, state: int, token: int) -> int:
        """The state after a token that adds text, or DEAD if it is not allowed."""
        text = self._texts[token]
        if not text:
            return DEAD
        with self._lock:
            return self._walker.take(state, text)

    def mask(self, state: int, remaining: int | None = None) -> Mask:
        """The tokens allowed in a state.

        With `remaining`, only those after which at most `remaining - 1` more tokens complete the
        text.  A token that ends the text is not counted: what is complete needs none.
        """
        known = self._young.get(state)
        if known is None:
            with self._lock:
                known = self._find(state)
        if remaining is None or known[1] < remaining:
            return known[0]
        return self._within(state, remaining, known[0])

    def fill(
        self, states: Sequence[int], remaining: Sequence[int | None], out: NDArray[np.uint32]
    ) -> None:
        """Write the masks of several states, as `mask` has them, to the rows of `out`, which is
        uint32 [n, ceil(V / 32)].

        Those that are not known yet are made in one call, during which other threads run.
        """
        missing = []
        for row, (state, tokens) in enumerate(zip(states, remaining, strict=True)):
            known = self._young.get(state)
            if known is not None and (tokens is None or known[1] < tokens):
                out[row] = known[0]
            else:
                missing.append(row)
        if not missing:
            return
        with self._lock:
            made = np.empty((len(missing), self.num_words), np.uint32)
            budgets = [remaining[row] for row in missing]
            numbers = [NEVER_CLOSES if b is None else b for b in budgets]
            self._walker.masks([states[row] for row in missing], numbers, made)
        out[missing] = made

    def _find(self, state: int) -> Known:
        keeper = self._keeper
        known = keeper.old.get(state)
        if known is not None:
            return keeper.renew(state, known)
        if keeper.used == keeper.size:
            keeper.grow()
        place = keeper.address + keeper.stride * keeper.used
        same, highest = self._walker.make(state, place)
        if same == state:
            known = self._young[state] = keeper.slab[keeper.used], highest
            keeper.used += 1
            return known
        known = self._young.get(same) or keeper.old.get(same)
        if known is None:
            if highest < 0:  # it was made before, and then dropped
                _, highest = self._walker.make(state, place, force=True)
            known = self._young[same] = keeper.slab[keeper.used], highest
            keeper.used += 1
        self._young[state] = known
        return known

    def _within(self, state: int, remaining: int, mask: Mask) -> Mask:
        """The mask of a budget that may be too small for some of the tokens."""
        with self._lock:
            found = np.empty(self.num_words, np.uint32)
            self._walker.masks([state], [remaining], found[None])
            if np.array_equal(found, mask):  # so it will be for all larger budgets
                self._young[state] = mask, remaining - 1
                return mask
        found.flags.writeable = False
        return found


class _Keeper:
    """Masks by their states, in slabs of many.  What was not used while half of the budget was
    filled is dropped.

    There is room for masks at `slab[used]` to `slab[size - 1]`, `stride` bytes each, from `address`
    on.
    """

    def __init__(self, num_words: int, max_bytes: int) -> None:
        self.young: dict[int, Known] = {}
        self.old: dict[int, Known] = {}
        self.stride = 4 * num_words
        self._num_words = num_words
        self._most = max(1, max_bytes // (2 * self.stride))  # masks of one generation
        self._young_room = self._old_room = 0
        self.size = self.used = self.address = 0
        self.slab = np.empty((0, num_words), np.uint32)

    @property
    def num_bytes(self) -> int:
        return self.stride * (self._young_room + self._old_room)

    def renew(self, state: int, known: Known) -> Known:
        """Keep a mask of the older generation in the younger one."""
        if self.used == self.size:
            self.grow()
        self.slab.flags.writeable = True
        self.slab[self.used] = known[0]
        self.slab.flags.writeable = False
        known = self.young[state] = self.slab[self.used], known[1]
        self.used += 1
        return known

    def grow(self) -> None:
        """Make room for more masks."""
        if self._young_room == self._most:
            self.old = dict(self.young)
            self.young.clear()
            self._old_room, self._young_room = self._young_room, 0
        size = min(max(8, 2 * self._young_room), 64, self._most - self._young_room)
        self.slab = np.empty((size, self._num_words), np.uint32)
        self.address = self.slab.ctypes.data
        self.slab.flags.writeable = False
        self.size, self.used = size, 0
        self._young_room += size
