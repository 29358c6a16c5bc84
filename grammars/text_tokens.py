"""What a vocabulary's tokens do inside a JSON string, between two of its characters.

A token may stay inside the string, whatever the string's maximum length, if it does not begin more
characters than there is room for.  Or it ends the string, and what it has after the quote is
looked up in a trie of such ends, which is small.  All other tokens cannot stand there.  The machine
in C makes the masks of strings of this.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgen.grammars.automata import DEAD
from sgen.grammars.text import FIRST, SUBSTATES, Text, TextStyle
from sgen.grammars.token_sets import TokenSet
from sgen.grammars.trie import Ints, Trie


@dataclass(frozen=True, slots=True)
class TextTokens:
    """Of one style.  `inside`: the tokens that stay inside.  `after`: those that end the string, by
    what they have after the quote; before [len(after.items)]: the characters ahead of it, for each
    of its items.  longer [max + 1]: for r characters the least number above r that any token has,
    inside or ahead of the quote, or a huge one.
    """

    inside: TokenSet
    after: Trie
    before: Ints
    longer: Ints

    @staticmethod
    def of(trie: Trie, texts: tuple[bytes, ...], style: TextStyle) -> TextTokens:
        state, closed = _states(trie, style)
        node = trie.node_of_items()
        chars = (state - FIRST) // SUBSTATES + ((state - FIRST) % SUBSTATES > 0)
        stays = state[node] >= FIRST
        inside = TokenSet.of(trie.items[stays], chars[node[stays]], len(texts))
        ends = closed[node] >= 0
        after: dict[int, bytes] = {}
        ahead = np.zeros(len(texts), np.int32)
        for token, at in zip(trie.items[ends].tolist(), closed[node[ends]].tolist(), strict=True):
            depth = int(np.searchsorted(trie.levels, at, side="right")) - 1
            after[token] = texts[token][depth:]
            ahead[token] = -2 - state[at]
        found = Trie.of(after)
        before = ahead[found.items]
        return TextTokens(
            inside=inside,
            after=found,
            before=before,
            longer=_longer(np.concatenate([inside.chars, before])),
        )

    def holds(self, num_tokens: int) -> bool:
        """Whether the arrays fit each other and the number of tokens."""
        return (
            self.inside.holds(num_tokens)
            and self.after.holds(num_tokens)
            and self.before.shape == self.after.items.shape
            and self.longer.size > 0
        )


def _states(trie: Trie, style: TextStyle) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each node the state of an endless string after the node's text, DEAD, or, where the
    quote ends it, -2 less the characters ahead; and, where one has ended it, the node where."""
    text = Text(1 << 20, None, style)  # a minimum makes it count
    state = np.full(len(trie), DEAD, np.int64)
    closed = np.full(len(trie), -1, np.int64)
    state[0] = FIRST
    after = np.full((SUBSTATES, 256), DEAD, np.int64)  # less the state's own count
    for place in range(SUBSTATES):
        classes, targets = text.row(FIRST + place)
        after[place] = np.array(targets)[np.frombuffer(classes, np.uint8)]
    for low, high, above in trie.by_level():
        source, byte = state[above], trie.byte[low:high]
        inside = source >= FIRST
        count, substate = np.divmod(source - FIRST, SUBSTATES)
        begun = after[np.where(inside, substate, 0), byte]
        target = np.where(begun >= FIRST, begun + count * SUBSTATES, DEAD)
        quote = inside & (substate == 0) & (byte == 0x22)
        state[low:high] = np.where(quote, -2 - count, np.where(inside, target, DEAD))
        closed[low:high] = np.where(quote, np.arange(low, high), closed[above])
    return state, closed


def _longer(lengths: Ints) -> Ints:
    present = np.unique(lengths)
    place = np.searchsorted(present, np.arange(int(lengths.max(initial=0)) + 1), side="right")
    return np.append(present, 1 << 30)[place].astype(np.int32)
