"""The option trie against brute force: every option's probability by the definition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sgen.errors import InvalidRequestError
from sgen.runtime.choice import OptionTrie, check_options

VOCAB = 6


def logits_after(path: tuple[int, ...]) -> torch.Tensor:
    """A model: its logits are a function of the tokens behind the prompt."""
    seed = sum((t + 1) * 7**i for i, t in enumerate(path))
    return torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed)) * 2


def score(prompt: list[int], options: list[list[int]]) -> OptionTrie:
    trie = OptionTrie(prompt, options)
    for i in range(len(options)):
        tokens = trie.needed(i)
        for position in range(trie.base - 1, len(tokens)):
            path = tuple(tokens[trie.base : position + 1])
            trie.add_row(i, position, logits_after(path))
    return trie


def by_definition(options: list[tuple[int, ...]], option: tuple[int, ...]) -> float:
    """Walk from the root; at each node only what some option does next is possible."""
    probability = 1.0
    for depth in range(len(option) + 1):
        node = option[:depth]
        p = torch.softmax(logits_after(node), 0).tolist()
        nexts = {o[depth] for o in options if o[:depth] == node and len(o) > depth}
        if not nexts:
            break
        ending = 1 - sum(p[t] for t in nexts) if node in options else 0.0
        total = ending + sum(p[t] for t in nexts)
        probability *= (ending if depth == len(option) else p[option[depth]]) / total
    return probability


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(
        st.lists(st.integers(0, VOCAB - 2), min_size=1, max_size=4).map(tuple),
        min_size=1,
        max_size=6,
        unique=True,
    )
)
def test_tree_probabilities_are_the_definition_and_add_up(options: list[tuple[int, ...]]) -> None:
    prompt = [3, 1, 4]
    scores = score(prompt, [[*prompt, *o] for o in options]).scores()
    assert sum(s.tree for s in scores) == pytest.approx(1.0, abs=1e-5)
    for option, s in zip(options, scores, strict=True):
        assert s.tree == pytest.approx(by_definition(options, option), abs=1e-5)
        own = [
            torch.log_softmax(logits_after(option[:i]), 0)[t].item() for i, t in enumerate(option)
        ]
        assert s.logprobs == pytest.approx(own, abs=1e-5)


def test_a_forced_tail_costs_a_long_option_nothing() -> None:
    short, long = [9, 0], [9, 1, 2, 2, 2, 2, 2]
    scores = score([9], [short, long]).scores()
    p = torch.softmax(logits_after(()), 0)[:2]
    assert scores[1].tree == pytest.approx((p[1] / p.sum()).item(), abs=1e-6)


def test_options_may_change_the_prompts_last_token() -> None:
    # As when "a " becomes "a" and " low" once text follows.
    trie = score([9, 5], [[9, 0, 1], [9, 2]])
    assert trie.base == 1
    assert trie.paths == [(0, 1), (2,)]
    assert sum(s.tree for s in trie.scores()) == pytest.approx(1.0)


def test_options_need_something_before_them() -> None:
    with pytest.raises(InvalidRequestError, match="no token before"):
        OptionTrie([], [[1], [2]], 5)
    assert math.isclose(score([1], [[1, 2]]).scores()[0].tree, 1.0)


def test_a_prompt_that_merges_with_an_option_is_scored_from_the_first_token() -> None:
    # The prompt is one token, and with the second option behind it another one.
    trie = OptionTrie([1], [[1, 2], [3]], 5)
    assert trie.base == 1
    assert [list(trie.needed(i)) for i in range(2)] == [[5, 1], [5]]
    for i in range(2):
        for position in range(len(trie.needed(i))):
            trie.add_row(i, position, logits_after(trie.paths[i][:position]))
    scores = trie.scores()
    p = torch.softmax(logits_after(()), 0)
    assert scores[0].tree == pytest.approx((p[1] / (p[1] + p[3])).item(), abs=1e-6)
    assert sum(s.tree for s in scores) == pytest.approx(1.0)
    with pytest.raises(InvalidRequestError, match="merge into one token"):
        OptionTrie([1], [[1, 2], [3]])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "no options"),
        (("",), "option 0 is empty"),
        (("", ""), "option 0 is empty"),
        (("a", ""), "option 1 is empty"),
        (("a", "b", "a"), "'a': options must differ"),
    ],
)
def test_options_that_cannot_be_told_apart_are_refused(options: tuple[str, ...], says: str) -> None:
    check_options(("a", "b"))
    with pytest.raises(InvalidRequestError, match=says) as e:
        check_options(options)
    assert e.value.param == "options"


def test_options_of_the_same_tokens_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="same tokens"):
        OptionTrie([1], [[1, 2], [1, 2]])
