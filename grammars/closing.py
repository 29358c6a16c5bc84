"""How many tokens are enough to complete a text.

The bound follows one text from each point: lexeme by lexeme the one of fewest bytes, each cut
into as few tokens as possible.  So it is never too low, and after the first token of that text
it is lower by at least one: whoever keeps the bound within a budget is never cut off.
"""

from __future__ import annotations

from sgen.grammars.automata import DEAD
from sgen.grammars.frames import INFINITE, Cost
from sgen.grammars.pushdown import END, Costs, Pushdown
from sgen.grammars.vocabulary import Vocabulary

NEVER_CLOSES = 2**31 - 1
"""The bound where the vocabulary cannot write the rest, or no output could ever be so long."""

LONGEST_TOKEN = 96
"""Longer tokens are not considered; fewer choices only raise the bound."""


LONGEST_LEXEME = 65_536
"""Bytes: what takes more to end is as good as without end, and no time is spent on it."""


class ClosingCosts:
    """Tokens to close, per state of an automaton, up to NEVER_CLOSES."""

    def __init__(self, automaton: Pushdown, vocabulary: Vocabulary) -> None:
        self._automaton = automaton
        self._texts = vocabulary.texts
        self._longest = min(LONGEST_TOKEN, max(map(len, self._texts), default=0))
        self._lexemes = {0: 0}
        self._conts = {END: 0}
        self._states: dict[int, int] = {}
        self._nodes = Costs(automaton.nodes, self._lexeme_cost)

    def of(self, state: int) -> int:
        known = self._states.get(state)
        if known is None:
            known = self._states[state] = min(
                min(self._lexeme(lexeme) + self._continuation(cont), NEVER_CLOSES)
                for lexeme, cont in self._automaton.configurations(state)
            )
        return known

    def _lexeme_cost(self, node: int) -> Cost:
        start = self._automaton.lexeme_start(node)
        return Cost(self._automaton.lexeme_distance(start), 0, self._lexeme(start))

    def _continuation(self, number: int) -> int:
        path = []
        while number not in self._conts:
            path.append(number)
            number = self._automaton.continuation(number)[2]
        total = self._conts[number]
        for number in reversed(path):
            node, arg, _ = self._automaton.continuation(number)
            total = min(total + self._nodes.at(node, arg).tokens, INFINITE)
            self._conts[number] = total
        return total

    def _lexeme(self, number: int) -> int:
        """Tokens of the shortest way to the end of a lexeme."""
        known = self._lexemes.get(number)
        if known is not None:
            return known
        if self._automaton.lexeme_distance(number) > LONGEST_LEXEME:
            return INFINITE
        path, text = self._shortest(number)
        for state, cost in zip(path, self._fewest(text), strict=False):
            self._lexemes[state] = cost
        return self._lexemes.get(number, 0)

    def _fewest(self, text: bytes) -> list[int]:
        """The fewest tokens that write `text` from each place in it on."""
        fewest = [INFINITE] * len(text) + [0]
        for i in reversed(range(len(text))):
            for j in range(i + 1, min(i + self._longest, len(text)) + 1):
                if fewest[j] + 1 < fewest[i] and text[i:j] in self._texts:
                    fewest[i] = fewest[j] + 1
        return fewest

    def _shortest(self, number: int) -> tuple[list[int], bytes]:
        """The states on the shortest way to the lexeme's end, and its bytes.

        The next step depends on the state alone, so every state's way is the rest of the ways
        through it.
        """
        automaton = self._automaton
        path: list[int] = []
        text = bytearray()
        while automaton.lexeme_distance(number) > 0:
            byte, after = self._step(number)
            path.append(number)
            text.append(byte)
            number = after
        return path, bytes(text)

    def _step(self, number: int) -> tuple[int, int]:
        """A byte that leads nearer to the lexeme's end: the least that is a token, else the
        least."""
        classes, targets = self._automaton.lexeme_row(number)
        nearer = self._automaton.lexeme_distance(number) - 1
        leads = [t != DEAD and self._automaton.lexeme_distance(t) == nearer for t in targets]
        found = [byte for byte in range(256) if leads[classes[byte]]]
        byte = next((b for b in found if bytes((b,)) in self._texts), found[0])
        return byte, targets[classes[byte]]
