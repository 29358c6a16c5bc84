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
"""The characters below U+0080, and whether all others belong to it too; those that more tokens
are made of come first."""


_WIDE = (
    (0, 0xC2, 0xDF, 1),
    (0, 0xE0, 0xE0, 2),
    (0, 0xE1, 0xEF, 3),
    (0, 0xED, 0xED, 4),
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
)
"""UTF-8 from U+0080 on: substate, bytes from and to, the substate after them."""


@dataclass(frozen=True, slots=True)
class LoopTokens:
    """Of one alphabet.  bytes uint8 [B]: its characters below U+0080; `wide`: and all others.

    `inside`: the tokens of its characters, the last of which may be begun only.  exits [E]: the
    nodes of the trie to which another byte leads, by that byte and then by the characters before
    it, which are exit_chars [E]; those of byte b are exits[exit_first[b]] to
    exits[exit_first[b + 1]].
    """

    bytes: NDArray[np.uint8]
    wide: NDArray[np.bool_]
    inside: TokenSet
    exits: Ints
    exit_chars: Ints
    exit_first: Ints

    @staticmethod
    def of(trie: Trie, num_tokens: int, characters: str, wide: bool) -> LoopTokens:
        steps = _steps(characters, wide)
        # Where a node's text is within the alphabet: substate + 8 * characters; else -1.
        state = np.full(len(trie), -1, np.int64)
        leaves = np.zeros(len(trie), np.bool_)
        state[0] = 0
        for low, high, above in trie.by_level():
            source, byte = state[above], trie.byte[low:high]
            count, substate = np.divmod(source, 8)
            after = steps[substate, byte]
            within = (source >= 0) & (after >= 0)
            state[low:high] = np.where(within, 8 * (count + (after == 0)) + after, -1)
            leaves[low:high] = (source >= 0) & (substate == 0) & (after < 0)
        node = trie.node_of_items()
        within = state[node] >= 0
        ending = state[node[within]]
        exits = np.flatnonzero(leaves)
        chars = state[trie.parents()[exits]] // 8
        order = np.lexsort((chars, trie.byte[exits]))
        exits, chars = exits[order], chars[order]
        return LoopTokens(
            bytes=np.frombuffer(characters.encode(), np.uint8),
            wide=np.array([wide]),
            inside=TokenSet.of(trie.items[within], ending // 8 + (ending % 8 > 0), num_tokens),
            exits=exits.astype(np.int32),
            exit_chars=chars.astype(np.int32),
            exit_first=np.searchsorted(trie.byte[exits], np.arange(257)).astype(np.int32),
        )

    def holds(self, num_tokens: int, num_nodes: int) -> bool:
        """Whether the arrays fit each other and the numbers of tokens and nodes."""
        n = len(self.exits)
        return bool(
            self.inside.holds(num_tokens)
            and self.wide.shape == (1,)
            and (n == 0 or 0 < self.exits.min() <= self.exits.max() < num_nodes)
            and self.exit_chars.shape == (n,)
            and self.exit_first.shape == (257,)
            and self.exit_first[0] == 0
            and self.exit_first[-1] == n
            and (np.diff(self.exit_first) >= 0).all()
        )


def _steps(characters: str, wide: bool) -> NDArray[np.int64]:
    """The substate inside a character after each byte: 0 between two; -1: it does not fit."""
    steps = np.full((8, 256), -1, np.int64)
    steps[0, np.frombuffer(characters.encode(), np.uint8)] = 0
    for substate, low, high, after in _WIDE if wide else ():
        steps[substate, low : high + 1] = after
    return steps
