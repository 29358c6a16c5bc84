"""Scores of options: how a model would choose among some texts that may follow a prompt.

Every option is tokenized together with the prompt, so that it is scored as the model would have
read it.  The options' tokens form a trie below the prompt; `OptionScore.tree` is the probability
of walking it to an option's end, when at each node only what some option does next is possible.
Where one option ends and another goes on, ending has the probability of all other tokens.

A short prompt and an option may be one token together.  Then the first token that is predicted
holds the prompt too, and it is predicted from the token with which texts begin.
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


def check_options(options: Sequence[str]) -> None:
    """InvalidRequestError unless there are some, none empty and no two the same."""
    problem = ""
    if not options:
        problem = "there are no options to choose from"
    elif not all(options):
        problem = f"option {options.index('')} is empty: there is nothing to score"
    elif len(set(options)) < len(options):
        twice = next(o for i, o in enumerate(options) if o in options[:i])
        problem = f"two options are {twice!r}: options must differ"
    if problem:
        raise InvalidRequestError(problem, param="options")


class OptionTrie:
    """The options of one choice; `add_row` collects what the model says at the trie's nodes.

    `base` tokens come before the options: those of the prompt that no option changes.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        options: Sequence[Sequence[int]],
        first: int | None = None,
    ) -> None:
        """Token ids of the prompt, and of the prompt with each option behind it.

        `first` is the token with which the model's texts begin, for a prompt of which no token
        is left once an option follows.  InvalidRequestError: no token to predict options from, or
        options that are the same tokens.
        """
        # Where an option begins: the last tokens of a prompt may change when text follows.
        shared = takewhile(
            lambda column: len(set(column)) == 1, zip(prompt, *options, strict=False)
        )
        self.base = sum(1 for _ in shared)
        if self.base == 0:
            options = [[_first(prompt, first), *option] for option in options]
            self.base = 1
        self.paths: list[Path] = [tuple(o[self.base :]) for o in options]
        if len(set(self.paths)) < len(self.paths):
            raise InvalidRequestError(
                "two options are the same tokens to this model: options must differ",
                param="options",
            )
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


def _first(prompt: Sequence[int], first: int | None) -> int:
    """The token before options that share no token with the prompt, or why there is none."""
    if not prompt:
        raise InvalidRequestError(
            "there is no token before the options to predict them from",
            param="prompt",
            hint="put some text before the select",
        )
    if first is None:
        raise InvalidRequestError(
            "the prompt and an option merge into one token, and the model has no token that "
            "begins a text, from which to predict it",
            param="prompt",
            hint="put more text before the select",
        )
    return first
