"""Masks in Python: what the machine in C must equal, and what does its work where it is missing.

A mask is one walk of the token trie through the grammar's rows, level by level, all nodes of a
level at once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from ctypes import c_uint32

import numpy as np
from numpy.typing import NDArray

from sgen.grammars.automata import DEAD
from sgen.grammars.closing import NEVER_CLOSES, ClosingCosts
from sgen.grammars.pushdown import Pushdown
from sgen.grammars.vocabulary import Vocabulary

MAX_ROWS = 8_192
"""Dense rows kept: 1 KiB each.  Beyond, all are dropped, and made again as they are needed."""

RECENT_WALKS = 8


class Walker:
    """A machine walked with a vocabulary's tokens.  The grammar's lock must be held."""

    def __init__(self, machine: Pushdown, vocabulary: Vocabulary) -> None:
        self._machine = machine
        self._vocabulary = vocabulary
        self._trie = vocabulary.tables.trie
        self._closing = ClosingCosts(machine, vocabulary)
        self._rows = DenseRows(machine)
        self._costs: NDArray[np.int32] = np.full(256, -1, np.int32)
        self._walks: OrderedDict[int, NDArray[np.int32]] = OrderedDict()

    def tokens_to_close(self, state: int) -> int:
        return self._closing.of(state)

    def take(self, state: int, text: bytes) -> int:
        """The state after a token, or DEAD if that cannot follow or can then not be closed."""
        after = self._machine.advance(state, text)
        return after if after != DEAD and self._closing.of(after) < NEVER_CLOSES else DEAD

    def make(self, state: int, address: int, force: bool = False) -> tuple[int, int]:
        """Write the mask of a state to an address; the state, and the most tokens that close a
        text after any that is allowed.  `force` means nothing here."""
        words = (len(self._vocabulary) + 31) // 32
        out = np.ctypeslib.as_array((c_uint32 * words).from_address(address))
        return state, self._write(state, NEVER_CLOSES, out)

    def masks(
        self, states: Sequence[int], remaining: Sequence[int], out: NDArray[np.uint32]
    ) -> None:
        """Write the masks of states within budgets to the rows of `out` [n, ceil(V / 32)]."""
        for row, (state, tokens) in enumerate(zip(states, remaining, strict=True)):
            self._write(state, tokens, out[row])

    def _write(self, state: int, remaining: int, out: NDArray[np.uint32]) -> int:
        costs = self._walk_costs(state)
        allowed = costs < min(remaining, NEVER_CLOSES)
        bits = np.zeros(32 * len(out), np.bool_)
        bits[: len(allowed)] = allowed
        if self._machine.accepts(state):
            bits[list(self._vocabulary.eos_ids)] = True
        out[:] = np.packbits(bits, bitorder="little").view("<u4")
        return int(costs[allowed].max(initial=0))

    def _walk_costs(self, state: int) -> NDArray[np.int32]:
        """[V]: tokens that close the text after each token; NEVER_CLOSES where it cannot
        follow."""
        known = self._walks.get(state)
        if known is not None:
            self._walks.move_to_end(state)
            return known
        nodes, states = self._walk(state)
        size = self._machine.num_states
        seen = np.zeros(size, np.bool_)
        seen[states] = True
        if size > len(self._costs):
            grown = np.full(2 * size, -1, np.int32)
            grown[: len(self._costs)] = self._costs
            self._costs = grown
        for number in np.flatnonzero(seen & (self._costs[:size] < 0)).tolist():
            self._costs[number] = self._closing.of(number)
        at_node = np.full(len(self._trie), NEVER_CLOSES, np.int32)
        at_node[nodes] = self._costs[states]
        costs = np.full(len(self._vocabulary), NEVER_CLOSES, np.int32)
        costs[self._trie.items] = np.repeat(at_node, np.diff(self._trie.ends))
        self._walks[state] = costs
        if len(self._walks) > RECENT_WALKS:
            self._walks.popitem(last=False)
        return costs

    def _walk(self, state: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """The nodes where tokens can end, and the states there."""
        trie = self._trie
        nodes, states = np.zeros(1, np.int64), np.array([state], np.int32)
        ending: list[NDArray[np.int64]] = []
        reached: list[NDArray[np.int32]] = []
        while nodes.size:
            counts = trie.first[nodes + 1] - trie.first[nodes]
            alive = counts > 0
            nodes, states, counts = nodes[alive], states[alive], counts[alive]
            if not nodes.size:
                break
            last = np.cumsum(counts)
            children = np.arange(last[-1]) + np.repeat(trie.first[nodes] - (last - counts), counts)
            states = self._rows.after(states, counts, trie.byte[children])
            lives = states != DEAD
            nodes, states = children[lives], states[lives]
            ends = trie.ends[nodes + 1] > trie.ends[nodes]
            ending.append(nodes[ends])
            reached.append(states[ends])
        if not ending:
            return np.zeros(0, np.int64), np.zeros(0, np.int32)
        return np.concatenate(ending), np.concatenate(reached)


class DenseRows:
    """The rows of a machine's states as 256 states each, made as they are needed."""

    def __init__(self, machine: Pushdown) -> None:
        self._machine = machine
        self._rows: NDArray[np.int32] = np.full(64 * 256, DEAD, np.int32)
        self._offsets: NDArray[np.int64] = np.full(1024, -1, np.int64)  # by state
        self._used = 0

    def after(
        self, states: NDArray[np.int32], counts: NDArray[np.int32], bytes_: NDArray[np.uint8]
    ) -> NDArray[np.int32]:
        """The states after bytes, of which the first counts[0] follow states[0], and so on."""
        offsets = self._find(states)
        return self._rows.take(np.repeat(offsets, counts) + bytes_)

    def _find(self, states: NDArray[np.int32]) -> NDArray[np.int64]:
        if self._machine.num_states > len(self._offsets):
            grown = np.full(2 * self._machine.num_states, -1, np.int64)
            grown[: len(self._offsets)] = self._offsets
            self._offsets = grown
        missing = np.unique(states[self._offsets[states] < 0])
        if missing.size:
            if self._used + missing.size > MAX_ROWS:
                self._offsets[:] = -1
                self._used = 0
                missing = np.unique(states)
            for state in missing.tolist():
                self._make(state)
        return self._offsets[states]

    def _make(self, state: int) -> None:
        classes, targets = self._machine.row(state)
        start, end = 256 * self._used, 256 * (self._used + 1)
        if end > len(self._rows):
            grown = np.empty(2 * len(self._rows), np.int32)
            grown[:start] = self._rows[:start]
            self._rows = grown
        row = np.array(targets, np.int32)
        np.take(row, np.frombuffer(classes, np.uint8), out=self._rows[start:end])
        self._offsets[state] = start
        self._used += 1
