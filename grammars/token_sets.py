"""Tokens by the characters that they begin, and ready bit sets of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgen.grammars.trie import Ints

RUNGS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24)
"""Characters for which there are bit sets, beside one for all tokens."""

ENDLESS = 1 << 20


@dataclass(frozen=True, slots=True)
class TokenSet:
    """tokens [I], by their `chars` [I].  bits uint32 [R, ceil(V / 32)]: those with at most
    rungs [R] characters; ends [R]: how many these are.  The last rung has all."""

    tokens: Ints
    chars: Ints
    rungs: Ints
    ends: Ints
    bits: NDArray[np.uint32]

    @staticmethod
    def of(tokens: Ints, chars: NDArray[np.int64], num_tokens: int) -> TokenSet:
        order = np.argsort(chars, kind="stable")
        tokens, counts = tokens[order], chars[order].astype(np.int32)
        rungs = np.array([r for r in RUNGS if r < counts.max(initial=0)] + [ENDLESS], np.int32)
        ends = np.searchsorted(counts, rungs, side="right").astype(np.int32)
        bits = np.zeros((len(rungs), 32 * ((num_tokens + 31) // 32)), np.bool_)
        for i, end in enumerate(ends.tolist()):
            bits[i, tokens[:end]] = True
        packed = np.packbits(bits, axis=1, bitorder="little").view("<u4").astype(np.uint32)
        return TokenSet(tokens=tokens, chars=counts, rungs=rungs, ends=ends, bits=packed)

    def holds(self, num_tokens: int) -> bool:
        """Whether the arrays fit each other and the number of tokens."""
        n, words = len(self.tokens), (num_tokens + 31) // 32
        return bool(
            (n == 0 or 0 <= self.tokens.min() <= self.tokens.max() < num_tokens)
            and self.chars.shape == (n,)
            and self.rungs.size > 0
            and self.ends.shape == self.rungs.shape
            and self.bits.shape == (len(self.rungs), words)
            and ((self.ends >= 0) & (self.ends <= n)).all()
        )
