"""From languages to machines over bytes.

What can be said as one tree becomes a machine at once.  For everything else the parts are combined
over symbols, and the result is written as a network over characters; so escapes and UTF-8 multiply
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from heapq import heappop, heappush
from typing import NamedTuple

from sgen.grammars import regex
from sgen.grammars.automata import Automaton, Literal
from sgen.grammars.charset import Ranges, intersection
from sgen.grammars.combination import Language, combined
from sgen.grammars.encoding import Character, Style, character
from sgen.grammars.frames import DONE, Limited, Network, Option, Sequence
from sgen.grammars.lookaround import conditions
from sgen.grammars.pushdown import Node, Plan, Pushdown
from sgen.grammars.regex import MAX_EXPANSION, MAX_STATES, expansion, with_length
from sgen.grammars.regex_parser import parse
from sgen.grammars.regex_syntax import Tree
from sgen.grammars.work import Work


@lru_cache(maxsize=1024)
def of_pattern(pattern: str, *, search: bool) -> Language:
    """The texts that an ECMA-262 pattern matches, from end to end or, with `search`, anywhere.

    GrammarError with the position of what is not supported.
    """
    tree, inside, outside = conditions(parse(pattern), search=search)
    return of_tree(tree, inside, outside)


def of_tree(tree: Tree, inside: Iterable[Tree] = (), outside: Iterable[Tree] = ()) -> Language:
    without = tuple(Language(trees=(other,)) for other in outside)
    return Language(trees=tuple(dict.fromkeys((tree, *inside))), without=without)


def as_tree(language: Language) -> Tree | None:
    """A language as one tree; None if it takes a combination."""
    if len(language.trees) != 1 or language.words is not None or language.without:
        return None
    tree = with_length(language.trees[0], language.low, language.high)
    return None if tree is None or expansion(tree) > MAX_EXPANSION else tree


def automaton(language: Language, style: Style, work: Work) -> Automaton | None:
    """Its strings as bytes, in a JSON style with the quotes; None if there are none."""
    tree = as_tree(language)
    if tree is not None:
        return regex.automaton(tree, style, work)
    language = _normal(language)
    high = language.high
    made = _written(replace(language, high=None), style)
    work.spend(made.steps)
    if made.network is None or (high is not None and made.shortest > high):
        return None
    frame: Network | Limited = made.network
    if high is not None:
        needs = _needs(replace(language, high=None), style)
        if needs[0] <= high:
            frame = Limited(made.network, needs, high)
        else:  # the texts of fewest bytes have too many characters
            made = _written(language, style)
            work.spend(made.steps)
            assert made.network is not None
            frame = made.network
    nodes: list[Node] = [*made.characters, frame]
    root = len(nodes) - 1
    if style != "utf8":
        nodes += [Literal(b'"'), Sequence((root + 1, root, root + 1))]
    return Pushdown(Plan(nodes), len(nodes) - 1, max_states=MAX_STATES)


def is_empty(language: Language, work: Work) -> bool:
    """Whether it has no strings."""
    made = combined(replace(_normal(language), high=None))
    work.spend(made.steps)
    return not made.states or (language.high is not None and made.shortest > language.high)


def _normal(language: Language) -> Language:
    """Without lengths that its trees have anyway."""
    sizes = [regex.lengths(tree) for tree in language.trees]
    low, high = language.low, language.high
    if low <= max((least for least, _ in sizes), default=0):
        low = 0
    if high is not None and any(most is not None and most <= high for _, most in sizes):
        high = None
    return replace(language, low=low, high=high)


class _Written(NamedTuple):
    """A network over characters in bytes, whose nodes are `characters`; None: no strings."""

    characters: tuple[Character, ...]
    network: Network | None
    shortest: int
    steps: int


@lru_cache(maxsize=8)
def _written(language: Language, style: Style) -> _Written:
    made = combined(language)
    if not made.states:
        return _Written((), None, 0, made.steps)
    numbers: dict[Ranges, int] = {}
    known: dict[tuple[int, ...], list[int]] = {}
    states: list[tuple[Option, ...]] = []
    for vertex in made.states:
        options: list[Option] = [((), DONE)] if vertex.accepts else []
        for target, symbols in vertex.edges:
            reads = known.get(symbols)
            if reads is None:
                parts = _split(made.alphabet.characters(symbols))
                reads = [numbers.setdefault(part, len(numbers)) for part in parts]
                known[symbols] = reads
            options += [((read,), target) for read in reads]
        states.append(tuple(options))
    characters = tuple(character(ranges, style) for ranges in numbers)
    steps = made.steps + len(states)
    return _Written(characters, Network(tuple(states)), made.shortest, steps)


def _split(ranges: Ranges) -> list[Ranges]:
    """ASCII and the rest apart: the rest is often all there is, and then the same everywhere."""
    parts = intersection(ranges, ((0, 0x7F),)), intersection(ranges, ((0x80, 0x10FFFF),))
    return [part for part in parts if part]


@lru_cache(maxsize=8)
def _needs(language: Language, style: Style) -> tuple[int, ...]:
    """Of each state: the most characters that a text of fewest bytes from there on has."""
    characters, network, _, _ = _written(language, style)
    assert network is not None
    sources: list[list[tuple[int, int]]] = [[] for _ in network.states]
    queue: list[tuple[int, int]] = []
    for state, options in enumerate(network.states):
        for read, after in options:
            if after == DONE:
                queue.append((0, state))
            else:
                one = characters[read[0]]
                sources[after].append((state, one.distance(one.start)))
    fewest: dict[int, int] = {}
    while queue:
        size, state = heappop(queue)
        if state not in fewest:
            fewest[state] = size
            for source, more in sources[state]:
                heappush(queue, (size + more, source))
    needs = [0] * len(network.states)
    for state in sorted(fewest, key=fewest.__getitem__):
        for source, more in sources[state]:
            if fewest[source] == fewest[state] + more:
                needs[source] = max(needs[source], needs[state] + 1)
    return tuple(needs)
