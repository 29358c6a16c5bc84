"""A compiled grammar: its automaton, and dense rows of it for walking many tokens at once."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sgen.errors import GrammarError
from sgen.grammars.automata import DEAD
from sgen.grammars.pushdown import Node, Plan, Pushdown

MAX_ROWS = 8_192
"""Dense rows kept: 1 KiB each.  Beyond, all are dropped, and made again as they are needed."""


class Grammar:
    """A grammar knows nothing of tokens; `digest` names it in caches.

    States are numbers; `start` is the first.  Every state can reach the end of a text.  Rows are
    made on demand under `lock`, which whoever walks the grammar from several threads must hold.
    """

    def __init__(self, nodes: Sequence[Node], root: int, digest: str) -> None:
        self.digest = digest
        self.automaton = Pushdown(Plan(nodes), root)
        if not self.automaton.possible:
            raise GrammarError(
                "no text can satisfy this grammar",
                keyword="unsatisfiable",
                hint="look for contradicting bounds, or a required part that can never end",
            )
        self.start = self.automaton.start
        self.lock = threading.RLock()
        self.rows: NDArray[np.int32] = np.full(64 * 256, DEAD, np.int32)
        self._offsets: NDArray[np.int64] = np.full(1024, -1, np.int64)  # by state + 1
        self._offsets[0] = 0  # the row of DEAD
        self._used = 1

    @property
    def num_states(self) -> int:
        return self.automaton.num_states

    def next(self, state: int, byte: int) -> int:
        """The state after one more byte, or DEAD."""
        classes, targets = self.automaton.row(state)
        return targets[classes[byte]]

    def accepts(self, state: int) -> bool:
        return self.automaton.accepts(state)

    def advance(self, state: int, text: bytes) -> int:
        """The state after some bytes, or DEAD."""
        row = self.automaton.row
        for byte in text:
            classes, targets = row(state)
            state = targets[classes[byte]]
            if state == DEAD:
                return DEAD
        return state

    def matches(self, text: bytes) -> bool:
        """Whether `text` is a complete text of the grammar."""
        with self.lock:
            state = self.advance(self.start, text)
            return state != DEAD and self.accepts(state)

    def forced(self, state: int, limit: int = 4096) -> bytes:
        """The bytes, at most `limit`, that every text of the grammar continues with from here."""
        found = bytearray()
        while len(found) < limit and not self.automaton.accepts(state):
            classes, targets = self.automaton.row(state)
            if classes.count(0) != 255:
                break
            found.append(len(classes) - len(classes.lstrip(b"\0")))
            state = targets[classes[found[-1]]]
        return bytes(found)

    def row_offsets(self, states: NDArray[np.int32]) -> NDArray[np.int64]:
        """Where in `rows` the row of each state begins; that of DEAD is all DEAD.

        Offsets hold until the next call.
        """
        if self.num_states >= len(self._offsets):
            grown = np.full(2 * self.num_states, -1, np.int64)
            grown[: len(self._offsets)] = self._offsets
            self._offsets = grown
        offsets = self._offsets[states + 1]
        missing = states[offsets < 0]
        if missing.size:
            missing = np.unique(missing)
            if self._used + missing.size > MAX_ROWS:
                self._offsets[1:] = -1
                self._used = 1
                missing = np.unique(states[states != DEAD])
            for state in missing.tolist():
                self._make_row(state)
            offsets = self._offsets[states + 1]
        return offsets

    def _make_row(self, state: int) -> None:
        classes, targets = self.automaton.row(state)
        start, end = 256 * self._used, 256 * (self._used + 1)
        if end > len(self.rows):
            grown = np.empty(2 * len(self.rows), np.int32)
            grown[:start] = self.rows[:start]
            self.rows = grown
        row = np.array(targets, np.int32)
        np.take(row, np.frombuffer(classes, np.uint8), out=self.rows[start:end])
        self._offsets[state + 1] = start
        self._used += 1
