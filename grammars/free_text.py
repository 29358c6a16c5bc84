"""Free text up to a word: what structural tags have around and inside their tags.

The words that free text must not hold are found by one automaton for all of them (A. Aho and
M. Corasick, "Efficient string matching", 1975), run beside one for UTF-8.  So half a word, such
as `<tool` where `<tool_call>` is watched for, stays free, and a word is found wherever it starts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from sgen.grammars.automata import DEAD, Row, Table, without_dead
from sgen.grammars.charset import SCALARS
from sgen.grammars.encoding import character
from sgen.grammars.work import Work


class _Words:
    """Where the watched words end in a text.  State 0: nothing of any word has been read.

    `moves` has the bytes that lead elsewhere than to 0; `suffixes` are the states whose texts end
    the state's own text, itself first; `words` are the states of whole words, and `hits` says
    where any word ends.
    """

    def __init__(self, words: Iterable[bytes]) -> None:
        self.moves: list[dict[int, int]] = [{}]
        self.suffixes: list[tuple[int, ...]] = [(0,)]
        self.words = {self._path(word) for word in words}
        queue = deque([0])
        while queue:
            state = queue.popleft()
            fallback = self.suffixes[state][1] if state else -1
            children = list(self.moves[state].items())
            if state:
                self.moves[state] = self.moves[fallback] | self.moves[state]
            for byte, child in children:
                after = self.moves[fallback].get(byte, 0) if state else 0
                self.suffixes[child] = (child, *self.suffixes[after])
                queue.append(child)
        self.hits = [not self.words.isdisjoint(states) for states in self.suffixes]

    def _path(self, word: bytes) -> int:
        state = 0
        for byte in word:
            if byte not in self.moves[state]:
                self.moves[state][byte] = len(self.moves)
                self.moves.append({})
                self.suffixes.append(())
            state = self.moves[state][byte]
        return state

    def find(self, word: bytes) -> int:
        """The state of a beginning of a word."""
        state = 0
        for byte in word:
            state = self.moves[state][byte]
        return state


def free_text(words: Iterable[bytes], ending: bytes, work: Work) -> Table | None:
    """UTF-8 text that ends in `ending`, in which none of `words` ends before that; None if there
    is no such text.

    `ending` is one of the words, a beginning of one, or empty; where it is no word, the text has
    none at all.  Each state is counted as `work`.
    """
    watch = _Words(words)
    final = watch.find(ending)
    utf8 = character(SCALARS, "utf8")
    numbers = {(0, utf8.start): 0}
    pairs = [(0, utf8.start)]
    rows: list[Row] = []
    accepting: list[bool] = []
    for state, inner in pairs:  # grows while it is walked
        work.spend(1 + len(watch.moves[state]) // 16)
        ends = final in watch.suffixes[state] and (final in watch.words or not watch.hits[state])
        accepting.append(ends and inner == utf8.start)
        if watch.hits[state]:
            rows.append((bytes(256), (DEAD,)))
            continue
        classes, targets = utf8.row(inner)
        found: list[tuple[int, int]] = [(0, t) for t in targets]
        changed = bytearray(classes)
        for byte, after in watch.moves[state].items():
            if classes[byte]:
                changed[byte] = len(found)
                found.append((after, targets[classes[byte]]))
        numbered = [DEAD]
        for after, target in found[1:]:
            pair = after, target or utf8.start  # a character's end is the next one's start
            if pair not in numbers:
                numbers[pair] = len(pairs)
                pairs.append(pair)
            numbered.append(numbers[pair])
        rows.append(without_dead((bytes(changed), tuple(numbered))))
    table = Table(rows, accepting)
    return None if table.empty else table
