"""What %ignore allows between terminals.

Lark skips the longest match of an ignored terminal, never less; so what follows must not be able
to lengthen it.  A terminal that begins with a character that could is only allowed where nothing
was skipped, or something else.

Mostly the same skipping may follow every terminal; it is then read after each one, and alternatives
share it.  Where it depends on the terminal to come, it is read before each one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sgen.grammars import charset
from sgen.grammars.builder import Builder
from sgen.grammars.charset import Ranges
from sgen.grammars.frames import DONE, Network, Option
from sgen.grammars.lark_lexeme import Table
from sgen.grammars.lark_regex import Times
from sgen.grammars.lark_syntax import failure
from sgen.grammars.lark_terminals import Terminal


@dataclass(slots=True)
class _Skipped:
    """An ignored terminal: its automaton, what lengthens a match, and whether two in a row are
    one."""

    terminal: Terminal
    table: Table
    longer: Ranges
    closed: bool

    def after(self, skipped: Ranges, itself: bool) -> Table | None:
        """Its texts after one that `skipped` would lengthen."""
        if itself and self.closed:
            return None
        if not charset.intersection(self.terminal.first, skipped):
            return self.table
        return self.table.without_first(skipped)


class Gaps:
    """The lexemes of terminals, with what may be skipped around them."""

    def __init__(
        self, builder: Builder, terminals: Sequence[Terminal], ignored: Sequence[Terminal]
    ) -> None:
        self._builder = builder
        self._terminals = terminals
        self._skipped = [_skipped(builder, one) for one in ignored]
        # Sets that follow from each other must be told apart by the classes of all tables.
        self._apart = [one.longer for one in self._skipped]
        for one in self._skipped:
            one.table = one.terminal.table(builder.work, self._apart)
        for one in self._skipped:
            self._check(one)
        firsts = [t.first for t in terminals]
        self._open = [
            not any(charset.intersection(one.longer, f) for f in firsts) for one in self._skipped
        ]
        closed = [all(not charset.difference(f, one.longer) for f in firsts)
                  for one in self._skipped]  # fmt: skip
        self._behind = all(o or c for o, c in zip(self._open, closed, strict=True)) and not any(
            is_open and i != j and charset.intersection(one.longer, other.terminal.first)
            for i, (one, is_open) in enumerate(zip(self._skipped, self._open, strict=True))
            for j, other in enumerate(self._skipped)
        )

    def define(self, number: int, terminal: Terminal) -> None:
        """Node `number` becomes the terminal, with a gap on one side."""
        if not self._skipped:
            self._builder.define(number, Network(((((self._lexeme(terminal),), DONE),),)))
        elif self._behind:
            self._builder.define(number, self._then_gap(terminal))
        else:
            self._builder.define(number, self._gap_then(terminal))

    def around(self, node: int) -> int:
        """All of the grammar: its terminals, and what may be skipped before and after them."""
        if not self._skipped:
            return node
        end = self._builder.frame(Network(tuple(self._states([True] * len(self._skipped)))))
        if not self._behind:
            return self._builder.sequence([node, end])
        start = self._builder.frame(Network(tuple(self._states(self._open))))
        return self._builder.sequence([start, node, end])

    def _lexeme(self, terminal: Terminal) -> int:
        if terminal.word is not None:
            return self._builder.literal(terminal.word.encode())
        known = self._builder.find(terminal.pattern)
        if known is not None:
            return known
        return self._builder.lexeme(terminal.pattern, terminal.automaton(self._builder.work))

    def _then_gap(self, terminal: Terminal) -> Network:
        states = self._states(self._open)
        return Network((
            (((self._lexeme(terminal),), 1),),
            *(tuple((s, t if t == DONE else t + 1) for s, t in options) for options in states),
        ))  # fmt: skip

    def _gap_then(self, terminal: Terminal) -> Network:
        """State 0: nothing was skipped; i + 1: ignored terminal i was, last."""
        states = self._states([False] * len(self._skipped))
        for i in range(len(states)):
            longer = self._skipped[i - 1].longer if i else ()
            node = self._without_first(terminal, longer)
            kept = states[i] if i else states[i][:-1]
            states[i] = kept if node is None else (*kept, ((node,), DONE))
        return Network(tuple(states))

    def _without_first(self, terminal: Terminal, ranges: Ranges) -> int | None:
        """The texts of a terminal that do not begin with some characters."""
        inside = charset.intersection(terminal.first, ranges)
        if not inside:
            return self._lexeme(terminal)
        if inside == terminal.first:
            return None
        found = terminal.table(self._builder.work, self._apart).without_first(ranges)
        return None if found is None else self._table((terminal.pattern, ranges), found)

    def _table(self, key: object, found: Table) -> int:
        known = self._builder.find(("terminal", key))
        if known is not None:
            return known
        return self._builder.lexeme(("terminal", key), found.automaton())

    def _states(self, may_end: Sequence[bool]) -> list[tuple[Option, ...]]:
        """What may be skipped, by what was skipped last; `may_end` says where that is enough."""
        states: list[tuple[Option, ...]] = []
        for i in range(len(self._skipped) + 1):
            longer = self._skipped[i - 1].longer if i else ()
            options: list[Option] = []
            for j, one in enumerate(self._skipped):
                found = one.after(longer, itself=i == j + 1)
                if found is not None:
                    whole = found is one.table
                    key = (one.terminal.pattern, () if whole else longer)
                    options.append(((self._table(key, found),), j + 1))
            if i == 0 or may_end[i - 1]:
                options.append(((), DONE))
            states.append(tuple(options))
        return states

    def _check(self, one: _Skipped) -> None:
        """Whatever could both lengthen a match and begin what follows must lengthen it for sure."""
        others = list(self._terminals)
        others += [o.terminal for o in self._skipped if o is not one or not one.closed]
        doubtful = charset.intersection(one.longer, charset.union(*(t.first for t in others)))
        for state, accepting in enumerate(one.table.accepting):
            if not accepting or not doubtful:
                continue
            sure = charset.union(*(
                one.table.classes[c] for c, t in one.table.edges[state].items()
                if one.table.accepting[t]
            ))  # fmt: skip
            missing = charset.difference(doubtful, sure)
            if missing:
                other = next(t for t in others if charset.intersection(t.first, missing))
                raise failure(
                    f"{other.label} can begin like a longer {one.terminal.label}, which is "
                    "ignored, and a lexer would have to look further to tell them apart",
                    one.terminal.place,
                    keyword="%ignore",
                    hint="ignore single characters or words, or keep the two from beginning alike",
                )


def _skipped(builder: Builder, terminal: Terminal) -> _Skipped:
    if terminal.pattern.closed:
        raise failure(f"the ignored terminal {terminal.label} looks ahead", terminal.place,
                      keyword="%ignore")  # fmt: skip
    found = terminal.table(builder.work)
    longer = charset.union(
        *(found.following(s) for s, accepting in enumerate(found.accepting) if accepting)
    )
    regex = terminal.pattern.regex
    closed = isinstance(regex, Times) and regex.high is None and regex.low <= 1 and not regex.lazy
    return _Skipped(terminal, found, longer, closed)
