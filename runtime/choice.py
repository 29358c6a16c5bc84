"""Scores of options: how a model would choose among some texts that may follow a prompt.

Every option is tokenized together with the prompt, so that it is scored as the model would have
read it.  The options' tokens form a trie below the prompt; `OptionScore.tree` is the probability
of walking it to an option's end, when at each node only what some option does next is possible.
Where one option ends and another goes on, ending has the probability of all other tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import takewhile

import torch
from torch import Tensor

from sgen.errors import InvalidRequestError
from sgen.protocol import OptionScore

Path = tuple[int, ...]


class OptionTrie:
    """The options of one choice; `add_row` collects what the model says at the trie's nodes."""

    def __init__(self, prompt: Sequence[int], options: Sequence[Sequence[int]]) -> None:
        """Token ids of the prompt, and of the prompt with each option behind it."""
        # Where an option begins: the last tokens of a prompt may change when text follows.
        shared = takewhile(
            lambda column: len(set(column)) == 1, zip(prompt, *options, strict=False)
        )
        self.base = sum(1 for _ in shared)
        if self.base == 0:
            raise InvalidRequestError(
                "there is no token before the options to predict them from",
                param="prompt",
                hint="put some text before the select",
            )
        self.paths: list[Path] = [tuple(o[self.base :]) for o in options]
        self._options = options
        self._ends = frozenset(self.paths)
        self._children: dict[Path, set[int]] = {}
        for path in self.paths:
            for depth, token in enumerate(path):
                self._children.setdefault(path[:depth], set()).add(token)
        self._logprobs: dict[Path, dict[int, float]] = {}

    def needed(self, option: int) -> Sequence[int]:
        """The tokens whose rows from `base - 1` on an option needs."""
        tokens = self._options[option]
        return tokens if self.paths[option] in self._children else tokens[:-1]

    def add_row(self, option: int, position: int, row: Tensor) -> None:
        """What follows the token at `position` of an option's sequence: logits [V] fp32."""
        node = self.paths[option][: position - self.base + 1]
        if node not in self._logprobs:
            tokens = sorted(self._children[node])
            values = row[torch.tensor(tokens)] - torch.logsumexp(row, 0)
            self._logprobs[node] = dict(zip(tokens, values.tolist(), strict=True))

    def scores(self) -> tuple[OptionScore, ...]:
        """One score an option, once all rows are in."""
        return tuple(OptionScore(self._tree(p), self._own(p)) for p in self.paths)

    def _own(self, path: Path) -> tuple[float, ...]:
        return tuple(self._logprobs[path[:i]][t] for i, t in enumerate(path))

    def _tree(self, path: Path) -> float:
        total = 0.0
        for depth in range(len(path) + 1):
            node = path[:depth]
            following = self._logprobs.get(node)
            if following is None:
                break
            going_on = sum(math.exp(x) for x in following.values())
            if depth == len(path):
                total += math.log(max(1.0 - going_on, 1e-12))
            elif node in self._ends:
                total += following[path[depth]]
            else:
                best = max(following.values())
                spread = sum(math.exp(x - best) for x in following.values())
                total += following[path[depth]] - best - math.log(spread)
        return math.exp(total)
