"""Equal states of finite automata."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

Symbol = TypeVar("Symbol", bound=Hashable)


def blocks(edges: Sequence[Mapping[Symbol, int]], accepting: Sequence[bool]) -> list[int]:
    """For each state the number of its block: states in one block accept the same words.

    Blocks are numbered by their first states.  E. Moore's partition refinement (1956).
    """
    block = [int(a) for a in accepting]
    count = 0
    while True:
        keys: dict[Hashable, int] = {}
        refined = [
            keys.setdefault((block[i], frozenset((s, block[t]) for s, t in row.items())), len(keys))
            for i, row in enumerate(edges)
        ]
        if len(keys) == count:
            return block
        block, count = refined, len(keys)


def representatives(block: Sequence[int]) -> list[int]:
    """The first state of each block, by the block's number."""
    first: dict[int, int] = {}
    for state, number in enumerate(block):
        first.setdefault(number, state)
    return [first[number] for number in range(len(first))]
