"""Ways through a grammar: at random byte by byte, and by tokens to the end."""

from __future__ import annotations

import random

from sgen.grammars.grammar import Grammar
from sgen.grammars.matcher import Matcher


def random_text(grammar: Grammar, rng: random.Random, size: int = 60) -> bytes:
    """A text of the grammar; once it has `size` bytes it is closed the shortest way."""
    state, text = grammar.start, bytearray()
    machine = grammar.automaton
    while True:
        if grammar.accepts(state) and (rng.random() < 0.3 or len(text) >= size):
            return bytes(text)
        classes, targets = machine.row(state)
        choices = [(b, targets[k]) for b, k in enumerate(classes) if k]
        if not choices:
            assert grammar.accepts(state), "a state from which nothing leads to an end"
            return bytes(text)
        if len(text) >= size:
            nearer = machine.distance(state) - 1
            choices = [c for c in choices if machine.distance(c[1]) == nearer]
            assert choices, "the distance to the end must fall"
        # One of each class first, so that rare bytes are tried as often as letters.
        target = rng.choice(sorted({t for _, t in choices}))
        byte, state = rng.choice([c for c in choices if c[1] == target])
        text.append(byte)


def close(matcher: Matcher, num_tokens: int) -> None:
    """Accept tokens to a complete text: some token always lowers the bound."""
    while matcher.shortest_close():
        bound = matcher.shortest_close()
        ways = []
        for token in range(num_tokens):
            fork = matcher.fork()
            if fork.accept(token):
                ways.append((fork.shortest_close(), token))
        least, token = min(ways)
        assert least <= bound - 1, (least, bound)
        assert matcher.accept(token)
    assert matcher.is_accepting()
