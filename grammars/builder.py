"""Collects the nodes of a grammar, equal lexemes once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from sgen.errors import GrammarError
from sgen.grammars.automata import Automaton, Literal, Words
from sgen.grammars.frames import Alternatives, Frame, Sequence
from sgen.grammars.pushdown import Node
from sgen.grammars.work import Work

MAX_NODES = 100_000


class Builder:
    """Nodes by number.  A reserved one is defined later, which is how recursion is written."""

    def __init__(self, work: Work | None = None) -> None:
        """`work` is what the parts of one compilation share."""
        self.work = work or Work()
        self.notes: list[str] = []
        """What the source says without its being enforced, in sentences for its author."""
        self._nodes: list[Node | None] = []
        self._known: dict[Hashable, int] = {}

    def nodes(self) -> list[Node]:
        """All nodes; every reserved one must have been defined."""
        defined = [node for node in self._nodes if node is not None]
        assert len(defined) == len(self._nodes), "a reserved node was not defined"
        return defined

    def reserve(self) -> int:
        if len(self._nodes) >= MAX_NODES:
            raise GrammarError(f"the grammar has more than {MAX_NODES:,} parts", keyword="size")
        self.work.spend(1)
        self._nodes.append(None)
        return len(self._nodes) - 1

    def define(self, number: int, node: Node) -> None:
        assert self._nodes[number] is None, "a node is defined once"
        self._nodes[number] = node

    def frame(self, frame: Frame) -> int:
        number = self._known.get(frame)
        if number is None:
            number = self._known[frame] = self.reserve()
            self.define(number, frame)
        return number

    def lexeme(self, key: Hashable, automaton: Automaton) -> int:
        """`key` names the lexeme: the second of the same name is dropped."""
        number = self._known.get(key)
        if number is None:
            number = self._known[key] = self.reserve()
            self.define(number, automaton)
        return number

    def find(self, key: Hashable) -> int | None:
        """The lexeme of that name, if there is one."""
        return self._known.get(key)

    def words(self, words: Iterable[bytes]) -> int:
        """One of some words; none of them: nothing fits."""
        key = tuple(words)
        if not key:
            return self.never()
        number = self._known.get(key)
        if number is None:
            number = self.lexeme(key, Words(key) if len(set(key)) > 1 else Literal(key[0]))
        return number

    def literal(self, word: bytes) -> int:
        return self.words((word,))

    def sequence(self, items: Iterable[int]) -> int:
        key = tuple(items)
        return key[0] if len(key) == 1 else self.frame(Sequence(key))

    def alternatives(self, items: Iterable[int]) -> int:
        key = tuple(dict.fromkeys(items))
        return key[0] if len(key) == 1 else self.frame(Alternatives(key))

    def never(self) -> int:
        return self.frame(Alternatives(()))
