"""The trie of a vocabulary's tokens, as flat arrays, level by level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Level:
    """The n nodes of one depth, from number `start` on, ordered by their bytes.

    Inner nodes are those with children.  byte [n]; parent [n]: which inner node of the level
    above; inner [i]: the inner nodes of this level, counted from `start`; children [i + 1]: where
    the children of each begin in the level below.
    """

    start: int
    byte: Ints
    parent: Ints
    inner: Ints
    children: Ints

    @property
    def end(self) -> int:
        return self.start + len(self.byte)


class TokenTrie:
    """All tokens that add bytes.  `levels[0]` is the root, node 0; `node_of` int64 [V] is the
    node where each token ends, 0 for tokens that add nothing."""

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        tokens = [t for t, text in enumerate(token_bytes) if text]
        tokens.sort(key=lambda t: token_bytes[t])
        texts = [token_bytes[t] for t in tokens]
        size = np.array([len(text) for text in texts], np.int64)
        common = np.array(_common_prefixes(texts), np.int64)
        fresh = size - common  # nodes that each token adds, in depth-first order
        last = np.cumsum(fresh)  # equal texts add none, and share the last
        byte = np.zeros(1 + int(fresh.sum()), np.int64)
        added = b"".join(t[c:] for t, c in zip(texts, common.tolist(), strict=True))
        byte[1:] = np.frombuffer(added, np.uint8)
        depth = np.zeros(len(byte), np.int64)
        first = np.repeat(last - fresh, fresh)
        depth[1:] = np.arange(len(byte) - 1) - first + np.repeat(common, fresh) + 1

        by_level = np.argsort(depth, kind="stable")
        number = np.empty_like(by_level)
        number[by_level] = np.arange(len(byte))
        self.node_of: Ints = np.zeros(len(token_bytes), np.int64)
        self.node_of[tokens] = number[last]
        self.levels = _levels(depth, byte, by_level)

    def __len__(self) -> int:
        return self.levels[-1].end


def _common_prefixes(texts: Sequence[bytes]) -> list[int]:
    """How many bytes each text shares with the one before it."""
    found = []
    before = b""
    for text in texts:
        length = min(len(before), len(text))
        if before[:length] == text[:length]:
            found.append(length)
        else:
            found.append(next(i for i in range(length) if before[i] != text[i]))
        before = text
    return found


def _levels(depth: Ints, byte: Ints, by_level: Ints) -> list[Level]:
    """From depth-first order: a node's parent is the last one above it that came before it."""
    borders = np.searchsorted(depth[by_level], np.arange(int(depth.max()) + 2))
    nothing = np.zeros(0, np.int64)
    levels: list[Level] = []
    parents = np.zeros(1, np.int64)  # of the current level, as inner nodes of the one above
    for here in range(len(borders) - 1):
        nodes = by_level[borders[here] : borders[here + 1]]
        below = nothing
        if here + 2 < len(borders):
            below = by_level[borders[here + 1] : borders[here + 2]]
        above = np.searchsorted(nodes, below) - 1
        inner, following = np.unique(above, return_inverse=True)
        counts = np.bincount(following, minlength=len(inner)) if len(below) else nothing
        levels.append(
            Level(
                start=int(borders[here]),
                byte=byte[nodes],
                parent=parents,
                inner=inner,
                children=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            )
        )
        parents = following
    return levels
