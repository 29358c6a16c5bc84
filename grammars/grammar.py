"""A compiled grammar: the machine of its plan."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from sgen.errors import GrammarError
from sgen.grammars import native
from sgen.grammars.plan import Plan
from sgen.grammars.plan_reader import nodes_of
from sgen.grammars.pushdown import Plan as Nodes
from sgen.grammars.pushdown import Pushdown


class Grammar:
    """A grammar knows nothing of tokens; its plan's `digest` names it in caches.

    States are numbers; `start` is the first.  Every state can reach the end of a text.  States are
    made on demand under `lock`, which whoever walks the grammar from several threads must hold.
    `notes` are what its source says that is not enforced.
    """

    def __init__(self, plan: Plan, notes: Sequence[str] = (), *, in_c: bool = True) -> None:
        """The machine is the one in C, or, if that cannot be had or is not wanted, in Python.

        GrammarError if no text can satisfy the grammar, or the plan is broken.
        """
        self.plan = plan
        self.notes = tuple(notes)
        library = native.library() if in_c else None
        if library is not None:
            self.automaton: native.NativeMachine | Pushdown = native.NativeMachine(library, plan)
        else:
            nodes, root = nodes_of(plan)
            self.automaton = Pushdown(Nodes(nodes), root)
        if not self.automaton.possible:
            raise GrammarError(
                "no text can satisfy this grammar",
                keyword="unsatisfiable",
                hint="look for contradicting bounds, a required part that can never end, or more "
                "properties at least than are declared (others may repeat each other)",
            )
        self.start = self.automaton.start
        self.lock = threading.RLock()

    @property
    def digest(self) -> str:
        return self.plan.digest

    @property
    def num_states(self) -> int:
        return self.automaton.num_states

    @property
    def num_bytes(self) -> int:
        """What the machine takes, about."""
        return self.automaton.num_bytes

    def next(self, state: int, byte: int) -> int:
        """The state after one more byte, or DEAD."""
        return self.automaton.advance(state, bytes((byte,)))

    def accepts(self, state: int) -> bool:
        return self.automaton.accepts(state)

    def advance(self, state: int, text: bytes) -> int:
        """The state after some bytes, or DEAD."""
        return self.automaton.advance(state, text)

    def matches(self, text: bytes) -> bool:
        """Whether `text` is a complete text of the grammar."""
        with self.lock:
            state = self.advance(self.start, text)
            return state >= 0 and self.accepts(state)

    def forced(self, state: int, limit: int = 4096) -> bytes:
        """The bytes, at most `limit`, that every text of the grammar continues with from here."""
        return self.automaton.forced(state, limit)
