"""Terminals as automata that accept what lark takes for a terminal, and nothing else.

Lark's complete dynamic lexer asks `re.match` what it prefers at a place, and then what it prefers
in each shorter piece of that.  So a text is one of a terminal exactly when `re.match`, given this
text alone, takes all of it: a lazy `/".*?"/` ends at the first quote, and `/a|ab/` never reads
`ab`.  Where a pattern has only one way to read a text, and no way to stop that it would prefer,
preference says nothing.  All others are determinised with their states in order of preference (R.
Cox, "Regular expression matching: the virtual machine approach", 2009), and what is less preferred
than an end is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from sgen.errors import GrammarError
from sgen.grammars import charset
from sgen.grammars.automata import Automaton
from sgen.grammars.builder import Builder
from sgen.grammars.charset import Ranges
from sgen.grammars.encoding import character
from sgen.grammars.frames import DONE, Network, Option
from sgen.grammars.lark_regex import (
    Ahead,
    Behind,
    Options,
    Pattern,
    Regex,
    Series,
    Times,
    edge,
    word_characters,
)
from sgen.grammars.minimal import blocks, representatives
from sgen.grammars.pushdown import Plan, Pushdown
from sgen.grammars.regex import automaton
from sgen.grammars.regex_syntax import Chars, Concat, Either, Many, Tree
from sgen.grammars.work import Work

MAX_INSTRUCTIONS = 4_000
MAX_STATES = 2_000

MATCH = 0
"""The instruction that ends a match."""

END = -1
"""Stands for the end of the text among the classes of characters that may follow."""

Thread = tuple[int, frozenset[int] | None]
"""An instruction, and what must follow (None: anything or nothing)."""

State = tuple[Thread, ...]
"""Threads in order of preference."""


@dataclass(slots=True)
class Table:
    """A deterministic automaton over classes of characters; state 0 is the first.

    Without states that lead nowhere; `edges[state]` are the targets by class.
    """

    classes: list[Ranges]
    edges: list[dict[int, int]]
    accepting: list[bool]

    def following(self, state: int) -> Ranges:
        """The characters that can follow."""
        return charset.union(*(self.classes[c] for c in self.edges[state]))

    def without_first(self, ranges: Ranges) -> Table | None:
        """The texts that do not begin with a character of a set; None if there is none.

        The set must be a union of classes as far as texts begin with them.
        """
        kept = {c: t + 1 for c, t in self.edges[0].items()
                if not charset.intersection(self.classes[c], ranges)}  # fmt: skip
        if not kept:
            return None
        shifted = [{c: t + 1 for c, t in row.items()} for row in self.edges]
        return _trimmed(Table(self.classes, [kept, *shifted], [False, *self.accepting]))

    def automaton(self) -> Automaton:
        builder = Builder()
        states: list[tuple[Option, ...]] = []
        for row, accepting in zip(self.edges, self.accepting, strict=True):
            by_target: dict[int, list[Ranges]] = {}
            for number, target in row.items():
                by_target.setdefault(target, []).append(self.classes[number])
            options: list[Option] = []
            for target, sets in by_target.items():
                ranges = charset.union(*sets)
                node = builder.lexeme(ranges, character(ranges, "utf8"))
                options.append(((node,), DONE if self._ends(target) else target))
            states.append((*options, ((), DONE)) if accepting else tuple(options))
        root = builder.frame(Network(tuple(states)))
        return Pushdown(Plan(builder.nodes()), root)

    def _ends(self, state: int) -> bool:
        return self.accepting[state] and not self.edges[state]


def lexeme(pattern: Pattern, work: Work) -> Automaton:
    """The automaton of a terminal, which must not be empty."""
    if pattern.words is None and _one_reading(pattern.regex, (), at_end=True):
        machine = automaton(_tree(pattern.regex), work=work)
        if machine is not None:
            return machine
        raise GrammarError("a terminal that matches no text", keyword="unsatisfiable")
    return table(pattern, work).automaton()


def _tree(regex: Regex) -> Tree:
    if isinstance(regex, Series):
        return Concat(tuple(map(_tree, regex.items)))
    if isinstance(regex, Options):
        return Either(tuple(map(_tree, regex.items)))
    if isinstance(regex, Times):
        return Many(_tree(regex.item), regex.low, regex.high)
    assert isinstance(regex, Chars)
    return regex


def _one_reading(regex: Regex, after: Ranges, *, at_end: bool) -> bool:
    """Whether each next character says how to go on, and stopping is never preferred to it.

    `after` is what can follow the part, and `at_end` whether the match can end behind it.
    """
    if isinstance(regex, Chars):
        return True
    if isinstance(regex, Ahead | Behind):
        return False
    if isinstance(regex, Series):
        for item in reversed(regex.items):
            if not _one_reading(item, after, at_end=at_end):
                return False
            ranges, empty = edge(item)
            after = charset.union(ranges, after) if empty else ranges
            at_end = at_end and empty
        return True
    if isinstance(regex, Options):
        seen: Ranges = ()
        for i, item in enumerate(regex.items):
            ranges, empty = edge(item)
            if charset.intersection(seen, ranges) or (empty and i + 1 < len(regex.items)):
                return False
            if empty and charset.intersection(charset.union(seen, ranges), after):
                return False
            seen = charset.union(seen, ranges)
        return all(_one_reading(item, after, at_end=at_end) for item in regex.items)
    ranges, empty = edge(regex.item)
    varies = regex.low != regex.high
    if empty or (varies and (charset.intersection(ranges, after) or (regex.lazy and at_end))):
        return False
    again = charset.union(ranges, after) if regex.high != 1 else after
    return _one_reading(regex.item, again, at_end=at_end)


def table(pattern: Pattern, work: Work, apart: Iterable[Ranges] = ()) -> Table:
    """The deterministic automaton of a terminal.

    Each of its classes is inside or outside of each of the sets `apart`.
    """
    sets = {*_sets(pattern.regex), *apart, *(_sets(pattern.words) if pattern.words else ())}
    if pattern.words:
        sets.add(word_characters())
    classes = _classes(sets)
    found = _Program(pattern.regex, classes).determinise(work, prefer=True)
    if pattern.words:
        words = _Program(pattern.words, classes).determinise(work, prefer=False)
        found = _without_words(found, words, work)
    trimmed = _trimmed(found)
    if trimmed is None:
        raise GrammarError("a terminal that matches no text", keyword="unsatisfiable")
    return trimmed


def _sets(regex: Regex) -> set[Ranges]:
    if isinstance(regex, Chars | Ahead | Behind):
        return {regex.ranges}
    if isinstance(regex, Times):
        return _sets(regex.item)
    return set().union(*map(_sets, regex.items))


def _classes(sets: set[Ranges]) -> list[Ranges]:
    """The coarsest partition of the characters that the sets are made of."""
    marks: dict[int, int] = {}
    for i, ranges in enumerate(sorted(sets)):
        for low, high in ranges:
            marks[low] = marks.get(low, 0) ^ (1 << i)
            marks[high + 1] = marks.get(high + 1, 0) ^ (1 << i)
    found: dict[int, list[tuple[int, int]]] = {}
    points = sorted(marks)
    inside = 0
    for point, end in pairwise(points):
        inside ^= marks[point]
        if inside:
            found.setdefault(inside, []).append((point, end - 1))
    return [charset.normal(ranges) for ranges in found.values()]


class _Program:
    """A regex as instructions: read one of some classes, look behind, go on in order of
    preference, or MATCH."""

    def __init__(self, regex: Regex, classes: list[Ranges]) -> None:
        self._classes = classes
        self._members: dict[Ranges, frozenset[int]] = {}
        self._reads: dict[int, tuple[frozenset[int], int]] = {}
        self._behind: dict[int, tuple[frozenset[int], int]] = {}
        self._ahead: dict[int, tuple[frozenset[int], int]] = {}
        self._ways: list[list[int]] = [[]]
        self._start = self._add(regex, MATCH)

    def _new(self, *ways: int) -> int:
        if len(self._ways) >= MAX_INSTRUCTIONS:
            raise GrammarError(
                "a terminal whose repetitions are too long where preference matters",
                keyword="regexp",
                hint="use smaller counts, or parts of which the first character tells them apart",
            )
        self._ways.append(list(ways))
        return len(self._ways) - 1

    def _set(self, ranges: Ranges) -> frozenset[int]:
        if ranges not in self._members:
            self._members[ranges] = frozenset(
                i for i, c in enumerate(self._classes) if charset.intersection(c, ranges)
            )
        return self._members[ranges]

    def _add(self, regex: Regex, after: int) -> int:
        """The instruction at which the regex begins that goes on with `after`."""
        if isinstance(regex, Chars | Behind):
            number = self._new()
            kind = self._reads if isinstance(regex, Chars) else self._behind
            kind[number] = self._set(regex.ranges), after
            return number
        if isinstance(regex, Ahead):
            number = self._new()
            end = frozenset({END}) if regex.end else frozenset[int]()
            self._ahead[number] = self._set(regex.ranges) | end, after
            return number
        if isinstance(regex, Series):
            for item in reversed(regex.items):
                after = self._add(item, after)
            return after
        if isinstance(regex, Options):
            return self._new(*[self._add(item, after) for item in regex.items])
        return self._times(regex, after)

    def _times(self, regex: Times, after: int) -> int:
        if regex.high is None:
            if edge(regex.item)[1] and (regex.lazy or not _empty_last(regex.item)):
                raise GrammarError(
                    "a terminal that repeats what may be empty, where preference matters",
                    keyword="regexp",
                    hint="let the repeated part read at least one character",
                )
            loop = self._new()
            body = self._add(regex.item, loop)
            self._ways[loop] = [after, body] if regex.lazy else [body, after]
            after = loop
        else:
            end = after
            for _ in range(regex.high - regex.low):
                body = self._add(regex.item, after)
                after = self._new(end, body) if regex.lazy else self._new(body, end)
        for _ in range(regex.low):
            after = self._add(regex.item, after)
        return after

    def determinise(self, work: Work, *, prefer: bool) -> Table:
        """States are instructions in order; with `prefer`, none after an end."""
        start = self._closed([self._start], None, prefer=prefer)
        number = {start: 0}
        states = [start]
        edges: list[dict[int, int]] = []
        for state in states:  # grows while it is walked
            if len(states) > MAX_STATES:
                raise GrammarError(
                    f"a terminal needs more than {MAX_STATES:,} states",
                    keyword="regexp",
                    hint="use smaller counts or fewer overlapping alternatives",
                )
            work.spend(1 + len(state) // 4)
            following = self._following(state)
            row: dict[int, int] = {}
            for c in sorted(following):
                target = self._closed(following[c], c, prefer=prefer)
                if target not in number:
                    number[target] = len(states)
                    states.append(target)
                row[c] = number[target]
            edges.append(row)
        return Table(self._classes, edges, [_accepts(state) for state in states])

    def _following(self, state: State) -> dict[int, list[int]]:
        """Where a state goes by each class; what is less preferred than an end goes nowhere."""
        found: dict[int, list[int]] = {}
        ended: set[int] = set()
        for instruction, allowed in state:
            if instruction == MATCH:
                ended.update(range(len(self._classes)) if allowed is None else allowed)
                continue
            classes, after = self._reads[instruction]
            for c in classes if allowed is None else classes & allowed:
                if c not in ended:
                    found.setdefault(c, []).append(after)
        return found

    def _closed(self, starts: list[int], before: int | None, *, prefer: bool) -> State:
        """The instructions that read, and MATCH, in order of preference.

        With `prefer`, nothing comes after an end that does not depend on what follows.
        """
        found: list[Thread] = []
        seen: set[Thread] = set()
        stack: list[Thread] = [(start, None) for start in reversed(starts)]
        while stack:
            thread = instruction, allowed = stack.pop()
            if thread in seen:
                continue
            seen.add(thread)
            if instruction == MATCH or instruction in self._reads:
                found.append(thread)
                if prefer and thread == (MATCH, None):
                    break
            elif instruction in self._ahead:
                classes, after = self._ahead[instruction]
                stack.append((after, classes if allowed is None else classes & allowed))
            elif instruction in self._behind:
                if before is None:
                    raise GrammarError(
                        "a terminal that looks at what comes before it", keyword="regexp"
                    )
                classes, after = self._behind[instruction]
                if before in classes:
                    stack.append((after, allowed))
            else:
                stack += [(way, allowed) for way in reversed(self._ways[instruction])]
        return tuple(found)


def _accepts(state: State) -> bool:
    return any(i == MATCH and (allowed is None or END in allowed) for i, allowed in state)


def _empty_last(regex: Regex) -> bool:
    """Whether a regex that may be empty prefers any other text to the empty one."""
    if isinstance(regex, Chars):
        return True
    if isinstance(regex, Ahead | Behind):
        return False
    if isinstance(regex, Times):
        return not regex.lazy and _empty_last(regex.item)
    if isinstance(regex, Options) and any(edge(item)[1] for item in regex.items[:-1]):
        return False
    return all(map(_empty_last, regex.items))


def _without_words(a: Table, words: Table, work: Work) -> Table:
    """The texts of `a` that do not begin with one of the words, up to the end of a word."""
    letters = word_characters()
    is_letter = [bool(charset.intersection(c, letters)) for c in a.classes]
    off = -1
    number = {(0, 0): 0}
    pairs = [(0, 0)]
    edges: list[dict[int, int]] = []
    accepting = []
    for state, word in pairs:  # grows while it is walked
        work.spend(1)
        at_word = word != off and words.accepting[word]
        accepting.append(a.accepting[state] and not at_word)
        row: dict[int, int] = {}
        for c, target in a.edges[state].items():
            if at_word and not is_letter[c]:
                continue
            pair = (target, words.edges[word].get(c, off) if word != off else off)
            if pair not in number:
                number[pair] = len(pairs)
                pairs.append(pair)
            row[c] = number[pair]
        edges.append(row)
    return Table(a.classes, edges, accepting)


def _trimmed(found: Table) -> Table | None:
    """With equal states merged, and without those that lead nowhere; None if no text is left."""
    sources: list[list[int]] = [[] for _ in found.edges]
    for state, row in enumerate(found.edges):
        for target in row.values():
            sources[target].append(state)
    alive = {state for state, ok in enumerate(found.accepting) if ok}
    stack = list(alive)
    while stack:
        for source in sources[stack.pop()]:
            if source not in alive:
                alive.add(source)
                stack.append(source)
    if 0 not in alive:
        return None
    edges = [{c: t for c, t in row.items() if t in alive} for row in found.edges]
    block = blocks(edges, found.accepting)
    chosen = representatives(block)
    kept = [{c: block[t] for c, t in edges[i].items()} for i in chosen]
    merged = Table(found.classes, kept, [found.accepting[i] for i in chosen])
    return _reachable(merged)


def _reachable(found: Table) -> Table:
    """Only the states that can be reached, in the order in which they are."""
    number = {0: 0}
    order = [0]
    for state in order:  # grows while it is walked
        for target in found.edges[state].values():
            if target not in number:
                number[target] = len(order)
                order.append(target)
    edges = [{c: number[t] for c, t in found.edges[i].items()} for i in order]
    return Table(found.classes, edges, [found.accepting[i] for i in order])
