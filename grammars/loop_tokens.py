"""What a vocabulary's tokens do in a state that reads some characters again and again.

In such a state all tokens of these characters alone are allowed at once, and only what leaves them
must be walked: from the places in the trie where it does.  A few alphabets serve most patterns,
since any that lies within the characters of the state is right.  The machine in C uses them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgen.grammars.token_sets import TokenSet
from sgen.grammars.trie import Ints, Trie

_DIGITS, _LOWER, _UPPER = "0123456789", "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_PRINTABLE = "".join(map(chr, range(0x20, 0x80)))
_PLAIN = _PRINTABLE.replace('"', "").replace("\\", "")
_NAMES = _DIGITS + _LOWER + _UPPER

ALPHABETS: tuple[tuple[str, bool], ...] = (
    (_PRINTABLE, True),
    (_PLAIN, True),
    (_PLAIN.replace(" ", ""), True),
    (_PLAIN, False),
    (_NAMES + " ,.'()-_", True),
    (_NAMES + " ", True),
    (_NAMES + "!$&',-.;=_~+*:@/", False),
    (_NAMES + " ", False),
    (_NAMES + "-_", False),
    (_NAMES, False),
    (_LOWER + _UPPER, False),
    (_LOWER + _DIGITS, False),
    (_LOWER, False),
    (_UPPER + _DIGITS, False),
)
"""The characters below U+0080, and whether those of WIDE belong to it too; alphabets that more
tokens are made of come first."""

WIDE = (
    (0, 0xC2, 0xC2, 8),
    (0, 0xC3, 0xDF, 1),
    (0, 0xE0, 0xE0, 2),
    (0, 0xE1, 0xE1, 9),
    (0, 0xE2, 0xE2, 11),
    (0, 0xE3, 0xE3, 14),
    (0, 0xE4, 0xEC, 3),
    (0, 0xED, 0xED, 4),
    (0, 0xEE, 0xEE, 3),
    (0, 0xEF, 0xEF, 16),
    (0, 0xF0, 0xF0, 5),
    (0, 0xF1, 0xF3, 6),
    (0, 0xF4, 0xF4, 7),
    (1, 0x80, 0xBF, 0),
    (2, 0xA0, 0xBF, 1),
    (3, 0x80, 0xBF, 1),
    (4, 0x80, 0x9F, 1),
    (5, 0x90, 0xBF, 3),
    (6, 0x80, 0xBF, 3),
    (7, 0x80, 0x8F, 3),
    (8, 0x80, 0x84, 0),
    (8, 0x86, 0x9F, 0),
    (8, 0xA1, 0xBF, 0),
    (9, 0x80, 0x99, 1),
    (9, 0x9A, 0x9A, 10),
    (9, 0x9B, 0xBF, 1),
    (10, 0x81, 0xBF, 0),
    (11, 0x80, 0x80, 12),
    (11, 0x81, 0x81, 13),
    (11, 0x82, 0xBF, 1),
    (12, 0x8B, 0xA7, 0),
    (12, 0xAA, 0xAE, 0),
    (12, 0xB0, 0xBF, 0),
    (13, 0x80, 0x9E, 0),
    (13, 0xA0, 0xBF, 0),
    (14, 0x80, 0x80, 15),
    (14, 0x81, 0xBF, 1),
    (15, 0x81, 0xBF, 0),
    (16, 0x80, 0xBA, 1),
    (16, 0xBB, 0xBB, 17),
    (16, 0xBC, 0xBF, 1),
    (17, 0x80, 0xBE, 0),
)
"""The characters from U+0080 on in UTF-8: substate, bytes from and to, the substate after them.
Those that patterns tell apart from all others are left out: white space and ends of lines."""

MIDDLE = 1 << 20
"""Instead of the number of characters ahead of an exit, where it is inside a character."""

DEEP = 24
"""Characters: longer tokens are few, and cost too much where each length is counted."""

SUBSTATES = 32
"""No fewer than there are in WIDE."""


@dataclass(frozen=True, slots=True)
class LoopTokens:
    """Of one alphabet, and of the tokens below node `base` of the trie, from there on: the root, or
    the node of a space, with which half of a vocabulary's tokens may begin.  `alphabet` is its
    number; `base` and `alphabet` are int32 [1].

    `inside`: the tokens of its characters, the last of which may be begun only.  exits [E]: the
    nodes of the trie to which another byte leads, by that byte and then by the characters before
    it, which are exit_chars [E], or MIDDLE; those of byte b are exits[exit_first[b]] to
    exits[exit_first[b + 1]].  deep [D]: the nodes after DEEP characters that have others below
    them.
    """

    alphabet: Ints
    base: Ints
    inside: TokenSet
    exits: Ints
    exit_chars: Ints
    exit_first: Ints
    deep: Ints

    @staticmethod
    def of(trie: Trie, num_tokens: int, alphabet: int, base: int = 0) -> LoopTokens:
        after_byte = steps(*ALPHABETS[alphabet])
        # Where a node's text is within the alphabet: substate + SUBSTATES * characters; else -1.
        state = np.full(len(trie), -1, np.int64)
        leaves = np.zeros(len(trie), np.bool_)
        state[base] = 0
        for low, high, above in trie.by_level():
            source, byte = state[above], trie.byte[low:high]
            count, substate = np.divmod(source, SUBSTATES)
            after = after_byte[substate, byte].astype(np.int64)
            within = (source >= 0) & (after >= 0)
            found = np.where(within, SUBSTATES * (count + (after == 0)) + after, -1)
            state[low:high] = np.where(np.arange(low, high) == base, 0, found)
            leaves[low:high] = (source >= 0) & (after < 0)
        node = trie.node_of_items()
        within = (state[node] >= 0) & (node != base)
        ending = state[node[within]]
        counts = ending // SUBSTATES + (ending % SUBSTATES > 0)
        deep = np.flatnonzero((state == SUBSTATES * DEEP) & (np.diff(trie.first) > 0))
        exits = np.flatnonzero(leaves)
        ahead = state[trie.parents()[exits]]
        chars = np.where(ahead % SUBSTATES > 0, MIDDLE, ahead // SUBSTATES)
        order = np.lexsort((chars, trie.byte[exits]))
        exits, chars = exits[order], chars[order]
        return LoopTokens(
            alphabet=np.array([alphabet], np.int32),
            base=np.array([base], np.int32),
            inside=TokenSet.of(trie.items[within], counts, num_tokens),
            exits=exits.astype(np.int32),
            exit_chars=chars.astype(np.int32),
            exit_first=np.searchsorted(trie.byte[exits], np.arange(257)).astype(np.int32),
            deep=deep.astype(np.int32),
        )

    @property
    def longest(self) -> int:
        """The most characters of a token inside, or ahead of an exit."""
        ahead = self.exit_chars[self.exit_chars < MIDDLE]
        return int(max(self.inside.chars.max(initial=0), ahead.max(initial=0)))

    def holds(self, num_tokens: int, num_nodes: int) -> bool:
        """Whether the arrays fit each other and the numbers of tokens and nodes."""
        n = len(self.exits)
        return bool(
            self.inside.holds(num_tokens)
            and self.alphabet.shape == self.base.shape == (1,)
            and 0 <= self.alphabet[0] < len(ALPHABETS)
            and 0 <= self.base[0] < num_nodes
            and (self.deep.size == 0 or 0 < self.deep.min() <= self.deep.max() < num_nodes)
            and (n == 0 or 0 < self.exits.min() <= self.exits.max() < num_nodes)
            and self.exit_chars.shape == (n,)
            and self.exit_first.shape == (257,)
            and self.exit_first[0] == 0
            and self.exit_first[-1] == n
            and (np.diff(self.exit_first) >= 0).all()
        )


def steps(characters: str, wide: bool) -> NDArray[np.int8]:
    """[SUBSTATES, 256]: the substate inside a character after each byte: 0 between two; -1: the
    byte does not fit."""
    found = np.full((SUBSTATES, 256), -1, np.int8)
    found[0, np.frombuffer(characters.encode(), np.uint8)] = 0
    for substate, low, high, after in WIDE if wide else ():
        found[substate, low : high + 1] = after
    return found
