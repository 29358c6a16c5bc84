r"""JSON strings by their length alone: the commonest lexeme, and one that needs no table of states.

A state is arithmetic: START, END, or FIRST + count * SUBSTATES + substate, where `count` characters
have been read and the substate says how far into the next one the text is (0: between characters).
Without a maximum the count stops at the minimum.  So a string of up to a million characters costs
what one of ten does, and a machine in C can step through it with the two tables of `STYLES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sgen.errors import GrammarError
from sgen.grammars.automata import DEAD, END_ROW, Row, classes_of

TextStyle = Literal["json", "canonical"]

START, END, FIRST = 0, 1, 2

SUBSTATES = 20
"""Places inside a character; the canonical style uses fewer of them."""

LONGEST = 1 << 26
"""Characters: state numbers then fit 31 bits.  No output is so long: a greater maximum is read as
this one, a greater minimum refused."""

Edge = tuple[int, int, int]
"""First and last byte, and the substate afterwards; 0: the character is complete."""

# Substates inside UTF-8 characters; the first bytes of a pair say what the next one may be.
_ONE_MORE, _AFTER_E0, _TWO_MORE, _AFTER_ED, _AFTER_F0, _THREE_MORE, _AFTER_F4 = range(1, 8)
_ESCAPE = 8
_PLAIN: dict[int, tuple[Edge, ...]] = {
    0: (
        (0x20, 0x21, 0),
        (0x23, 0x5B, 0),
        (0x5C, 0x5C, _ESCAPE),
        (0x5D, 0x7F, 0),
        (0xC2, 0xDF, _ONE_MORE),
        (0xE0, 0xE0, _AFTER_E0),
        (0xE1, 0xEC, _TWO_MORE),
        (0xED, 0xED, _AFTER_ED),
        (0xEE, 0xEF, _TWO_MORE),
        (0xF0, 0xF0, _AFTER_F0),
        (0xF1, 0xF3, _THREE_MORE),
        (0xF4, 0xF4, _AFTER_F4),
    ),
    _ONE_MORE: ((0x80, 0xBF, 0),),
    _AFTER_E0: ((0xA0, 0xBF, _ONE_MORE),),
    _TWO_MORE: ((0x80, 0xBF, _ONE_MORE),),
    _AFTER_ED: ((0x80, 0x9F, _ONE_MORE),),  # what follows would be surrogates
    _AFTER_F0: ((0x90, 0xBF, _TWO_MORE),),
    _THREE_MORE: ((0x80, 0xBF, _TWO_MORE),),
    _AFTER_F4: ((0x80, 0x8F, _TWO_MORE),),
}


def _of(chars: str, target: int) -> tuple[Edge, ...]:
    return tuple((ord(c), ord(c), target) for c in chars)


_HEX = "0123456789abcdefABCDEF"
_EVERY_ESCAPE: dict[int, tuple[Edge, ...]] = {
    _ESCAPE: _of('"\\/bfnrt', 0) + _of("u", 9),
    9: _of("0123456789abcefABCEF", 10) + _of("dD", 13),
    10: _of(_HEX, 11),
    11: _of(_HEX, 12),
    12: _of(_HEX, 0),
    13: _of("01234567", 11) + _of("89abAB", 14),  # after `\ud`: the basic plane, or a surrogate
    14: _of(_HEX, 15),
    15: _of(_HEX, 16),
    16: _of("\\", 17),
    17: _of("u", 18),
    18: _of("dD", 19),
    19: _of("cdefCDEF", 11),
}
_ONE_ESCAPE: dict[int, tuple[Edge, ...]] = {  # `\u00` before control characters without a letter
    _ESCAPE: _of('"\\bfnrt', 0) + _of("u", 9),
    9: _of("0", 10),
    10: _of("0", 11),
    11: _of("0", 12) + _of("1", 13),
    12: _of("01234567bef", 0),
    13: _of("0123456789abcdef", 0),
}
_QUOTE = 0x22
_NEXT, _CLOSE = -2, -3  # while a row is made: the next character's start, the string's end


def _lengths(edges: dict[int, tuple[Edge, ...]]) -> list[int]:
    """Bytes to the end of the character from each substate."""
    lengths = [0] * SUBSTATES
    for _ in range(SUBSTATES):
        for substate, ways in edges.items():
            if substate:
                lengths[substate] = 1 + min(lengths[after] for _, _, after in ways)
    return lengths


@dataclass(frozen=True, slots=True)
class Spelling:
    """How one style writes characters.

    rows [SUBSTATES]: of each substate the classes and, for each class, the next substate; _NEXT
    once a character is complete.  `closing` and `last` are the row of substate 0 where the string
    may also end, and where it must.  lengths [SUBSTATES]: bytes to the end of the character.
    """

    rows: tuple[Row, ...]
    closing: Row
    last: Row
    lengths: tuple[int, ...]


def _spelling(escapes: dict[int, tuple[Edge, ...]]) -> Spelling:
    edges = _PLAIN | escapes
    marked = {
        substate: [(low, high, after or _NEXT) for low, high, after in ways]
        for substate, ways in edges.items()
    }
    quote = (_QUOTE, _QUOTE, _CLOSE)
    return Spelling(
        rows=tuple(classes_of(marked[s]) if s in marked else END_ROW for s in range(SUBSTATES)),
        closing=classes_of([*marked[0], quote]),
        last=classes_of([quote]),
        lengths=tuple(_lengths(edges)),
    )


STYLES: dict[TextStyle, Spelling] = {
    "json": _spelling(_EVERY_ESCAPE),
    "canonical": _spelling(_ONE_ESCAPE),
}
_OPENING = classes_of([(_QUOTE, _QUOTE, FIRST)])


class Text:
    """A JSON string, quotes included, of `low` to `high` characters (None: no end).

    A character is a Unicode scalar value, however it is spelled: an escape, or a pair of them for
    a surrogate pair, is one; half a pair never fits.  Style "json" takes every spelling that
    RFC 8259 has, "canonical" the one of Python's `json.dumps(x, ensure_ascii=False)`.  It never
    changes, so machines share it.
    """

    def __init__(self, low: int, high: int | None, style: TextStyle) -> None:
        assert 0 <= low <= (low if high is None else high), "no string has such a length"
        if low > LONGEST:
            raise GrammarError(
                f"a minimum length of more than {LONGEST:,} characters",
                keyword="minLength",
                hint="no output can be so long",
            )
        self.low = low
        self.high = None if high is None else min(high, LONGEST)
        self.style: TextStyle = style
        self.start = START
        self._spelling = STYLES[style]

    def row(self, state: int) -> Row:
        if state == START:
            return _OPENING
        if state == END:
            return END_ROW
        count, substate = divmod(state - FIRST, SUBSTATES)
        classes, marks = self._row(count, substate)
        after = count + 1 if self.high is not None else min(count + 1, self.low)
        here, following = FIRST + count * SUBSTATES, FIRST + after * SUBSTATES
        known = {DEAD: DEAD, _NEXT: following, _CLOSE: END}
        return classes, tuple(known[m] if m < 0 else here + m for m in marks)

    def _row(self, count: int, substate: int) -> Row:
        spelling = self._spelling
        if substate or count < self.low:
            return spelling.rows[substate]
        return spelling.last if count == self.high else spelling.closing

    def accepts(self, state: int) -> bool:
        return state == END

    def live(self, state: int) -> bool:
        return state != END

    def distance(self, state: int) -> int:
        if state == START:
            return self.low + 2
        if state == END:
            return 0
        count, substate = divmod(state - FIRST, SUBSTATES)
        here = self._spelling.lengths[substate]
        return here + max(0, self.low - count - (substate > 0)) + 1

    def weight(self, state: int) -> int:
        return 1
