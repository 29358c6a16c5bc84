"""The tokens that a text must go on with, for drafting.

The forced bytes of a state are tokenized as the tokenizer itself would, since that is how a model
writes them.  Where the forced text ends, what follows may merge with its end: after `{"id":` comes
`"` or a digit, and `":"` is one token.  So a token is proposed only if hardly any way on has a
longer one in its place, which begins where it does, goes on past the forced text, and fits the
grammar.  Ways on are counted by what the next byte can be, each group of bytes that lead to the
same state as one; and the end of the text.  A proposal is a guess, to be verified as any draft.
"""

from __future__ import annotations

import codecs
import re
from bisect import bisect_left, bisect_right
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence

from sgen.grammars.automata import DEAD
from sgen.grammars.grammar import Grammar
from sgen.grammars.vocabulary import Vocabulary

SPECIAL = re.compile(rb"(\xff[^\xfe]*\xfe)")
"""A special token, as grammars name it (see Vocabulary.walk_bytes)."""

LONGEST_FORCED = 1_024
"""Bytes; a longer text is proposed piece by piece."""

MOST_MERGED = 0.4
"""Of the ways on.  With Qwen's tokens on real schemas: at 0 a fifth of the forced tokens is not
proposed, at 0.4 every thirtieth proposal is wrong, at 0.5 every sixth."""

MAX_KNOWN = 4_096
"""States whose tokens are kept, the latest used."""


class Forced:
    """The forced tokens of a grammar's states, with one vocabulary.  For any thread."""

    def __init__(self, grammar: Grammar, vocabulary: Vocabulary) -> None:
        self._grammar = grammar
        self._vocabulary = vocabulary
        self._known: OrderedDict[int, tuple[int, ...]] = OrderedDict()

    def tokens(self, state: int) -> tuple[int, ...]:
        """They are none where nothing is forced, and where the vocabulary came without `encode`."""
        with self._grammar.lock:
            known = self._known.get(state)
            if known is not None:
                self._known.move_to_end(state)
                return known
            tokens = self._known[state] = tuple(self._tokens(state))
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
            return tokens

    def _tokens(self, state: int) -> Iterator[int]:
        forced = self._grammar.forced(state, LONGEST_FORCED)
        if not forced or self._vocabulary.encode is None:
            return
        end = _End(self._grammar, self._grammar.advance(state, forced))
        start = 0
        for token in self._canonical(forced):
            text = self._vocabulary.walk_bytes[token]
            if not text or not forced.startswith(text, start):
                return
            if end.merging(self._vocabulary.ordered, forced[start:]) > MOST_MERGED * end.num_ways:
                return
            yield token
            start += len(text)

    def _canonical(self, forced: bytes) -> Iterator[int]:
        """Tokens of some bytes, up to the first that make no text."""
        vocabulary = self._vocabulary
        assert vocabulary.encode is not None
        for piece in SPECIAL.split(forced):
            special = vocabulary.special_ids.get(piece)
            if special is not None:
                yield special
                continue
            try:
                text, size = codecs.utf_8_decode(piece, "strict", False)
            except UnicodeDecodeError:  # it begins inside a character
                return
            yield from vocabulary.encode(text)
            if size < len(piece):
                return


class _End:
    """Where a forced text ends, and the ways on from there: groups of bytes, or the text's end."""

    def __init__(self, grammar: Grammar, state: int) -> None:
        self._next = grammar.next
        classes, targets = grammar.automaton.row(state)
        self._following = [targets[k] for k in classes]
        self._sizes = Counter(target for target in self._following if target != DEAD)
        self.num_ways = len(self._sizes) + grammar.accepts(state)

    def merging(self, tokens: Sequence[bytes], rest: bytes) -> float:
        """How many of the ways on have a token that begins with `rest` and is longer."""
        place = bisect_right(tokens, rest)
        last = bisect_left(tokens, _after(rest), place)
        found = 0.0
        while place < last:
            block = tokens[place][: len(rest) + 1]
            target = self._following[block[-1]]
            end = bisect_left(tokens, _after(block), place, last)
            if target != DEAD and self._any_fits(tokens, place, end, len(block), target):
                found += 1 / self._sizes[target]
            place = end
        return found

    def _any_fits(
        self, tokens: Sequence[bytes], place: int, last: int, depth: int, start: int
    ) -> bool:
        """Whether a token from `place` to `last` goes on from state `start` at its byte `depth`."""
        while place < last:
            token, state = tokens[place], start
            for size in range(depth + 1, len(token) + 1):
                state = self._next(state, token[size - 1])
                if state == DEAD:  # and so are all that begin alike
                    place = bisect_left(tokens, _after(token[:size]), place, last)
                    break
            else:
                return True
        return False


def _after(prefix: bytes) -> bytes:
    """What comes, in order, after all that begins with `prefix`; it has no byte 0xFF."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
