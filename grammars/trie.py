"""The trie of texts, such as those of a vocabulary's tokens, as flat arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Trie:
    """N nodes by depth, then by their bytes; node 0 is the root.

    byte uint8 [N]: what leads to a node.  first [N + 1]: the children of node i are first[i] to
    first[i + 1].  levels [L + 1]: where the nodes of each depth begin; the last is N.  ends
    [N + 1]: the items that end at node i are items[ends[i]] to items[ends[i + 1]].
    """

    byte: NDArray[np.uint8]
    first: Ints
    levels: Ints
    ends: Ints
    items: Ints

    def __len__(self) -> int:
        return len(self.byte)

    @staticmethod
    def of(texts: Mapping[int, bytes]) -> Trie:
        """The trie of some texts, items by their numbers."""
        order = sorted(sorted(texts), key=texts.__getitem__)
        ordered = [texts[i] for i in order]
        size = np.array([len(text) for text in ordered], np.int64)
        common = np.array(_common_prefixes(ordered), np.int64)
        fresh = size - common  # nodes that each text adds, in depth-first order
        last = np.cumsum(fresh)  # equal texts add none, and share the last
        byte = np.zeros(1 + int(fresh.sum()), np.uint8)
        added = b"".join(t[c:] for t, c in zip(ordered, common.tolist(), strict=True))
        byte[1:] = np.frombuffer(added, np.uint8)
        depth = np.zeros(len(byte), np.int64)
        start = np.repeat(last - fresh, fresh)
        depth[1:] = np.arange(len(byte) - 1) - start + np.repeat(common, fresh) + 1

        by_level = np.argsort(depth, kind="stable")
        number = np.empty_like(by_level)
        number[by_level] = np.arange(len(byte))
        levels = np.searchsorted(depth[by_level], np.arange(int(depth.max()) + 2))
        node = number[last] if order else np.zeros(0, np.int64)
        place = np.argsort(node, kind="stable")
        counts = np.bincount(node, minlength=len(byte))
        return Trie(
            byte=byte[by_level],
            first=_first_children(by_level, levels),
            levels=levels.astype(np.int32),
            ends=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
            items=np.array(order, np.int32)[place],
        )

    def child(self, node: int, byte: int) -> int | None:
        first, last = int(self.first[node]), int(self.first[node + 1])
        place = first + int(np.searchsorted(self.byte[first:last], byte))
        return place if place < last and self.byte[place] == byte else None

    def parents(self) -> NDArray[np.int64]:
        """[N]: the parent of each node; the root's is itself."""
        return np.append(0, np.repeat(np.arange(len(self)), np.diff(self.first)))

    def by_level(self) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
        """The levels below the root: the first node, the last one and one more, the parents."""
        parents = self.parents()
        for low, high in pairwise(self.levels[1:].tolist()):
            yield low, high, parents[low:high]

    def node_of_items(self) -> NDArray[np.int64]:
        """[I]: the node where each item ends, in the order of `items`."""
        return np.repeat(np.arange(len(self)), np.diff(self.ends))

    def holds(self, num_items: int) -> bool:
        """Whether the arrays fit each other, and the items are below `num_items`."""
        n = len(self.byte)
        return (
            n > 0
            and self.first.shape == self.ends.shape == (n + 1,)
            and self.levels.size > 1
            and _rises(self.first, 1, n)
            and _rises(self.levels, 0, n)
            and _rises(self.ends, 0, len(self.items))
            and bool((self.first[:-1] > np.arange(n)).all())
            and (self.items.size == 0 or 0 <= self.items.min() <= self.items.max() < num_items)
        )


def _rises(numbers: Ints, first: int, last: int) -> bool:
    return (
        int(numbers[0]) == first
        and int(numbers[-1]) == last
        and bool((np.diff(numbers) >= 0).all())
    )


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


def _first_children(by_level: NDArray[np.int64], levels: NDArray[np.int64]) -> Ints:
    """From depth-first order: a node's parent is the last one above it that came before it."""
    children = np.zeros(len(by_level), np.int64)
    for here in range(len(levels) - 2):
        nodes = by_level[levels[here] : levels[here + 1]]
        below = by_level[levels[here + 1] : levels[here + 2]]
        parents = np.searchsorted(nodes, below) - 1
        children[levels[here] : levels[here + 1]] = np.bincount(parents, minlength=len(nodes))
    return np.concatenate([[1], 1 + np.cumsum(children)]).astype(np.int32)
