"""Regular expressions of terminals, read by Python's own parser, and what begins and ends them.

Python reads the pattern, so flags, classes and escapes mean what they mean to `re`; sets of
characters that depend on letter case are asked of `re` itself.  Anchors and look-around are
refused, but for these:

- look-around at one character, `(?<!x)` or `(?![a-z])`, and boundaries `\\b` between a word and
  other characters are kept as `Behind` and `Ahead`; a look-behind must have something before it;
- a negative look-ahead at whole words at the very start, `(?!(?:if|else)\\b)`, takes these words
  away (`Pattern.words`).

Where a match may end with a look-ahead, that only means so much if the grammar lets none of the
characters `Pattern.closed` follow the terminal, which whoever uses the pattern must see to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sgen.errors import GrammarError
from sgen.grammars import charset
from sgen.grammars.charset import SCALARS, Ranges
from sgen.grammars.regex_syntax import Chars

MAX_COUNT = 65_535


@dataclass(frozen=True, slots=True)
class Series:
    items: tuple[Regex, ...]


@dataclass(frozen=True, slots=True)
class Options:
    """One of its items, the earlier the better."""

    items: tuple[Regex, ...]


@dataclass(frozen=True, slots=True)
class Times:
    """`item` from `low` to `high` times, the more the better, or, if `lazy`, the fewer."""

    item: Regex
    low: int
    high: int | None
    lazy: bool


@dataclass(frozen=True, slots=True)
class Behind:
    """Nothing to read, but the character before is in the set."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Ahead:
    """Nothing to read, but the character after is in the set, or, if `end`, there is none."""

    ranges: Ranges
    end: bool


Regex = Chars | Series | Options | Times | Behind | Ahead

EMPTY = Series(())


@dataclass(frozen=True, slots=True)
class Pattern:
    """What a terminal matches, all but `words`, if none of the characters `closed` follows."""

    regex: Regex
    words: Regex | None = None
    closed: Ranges = ()


def read(pattern: str) -> Pattern:
    """The pattern of a terminal.  GrammarError for what no automaton can do."""
    try:
        # The one stable way to Python's reading of a pattern; its results are plain tuples.
        tree: Any = re._parser.parse(pattern)
    except (re.error, OverflowError, ValueError) as error:
        raise GrammarError(
            f"`{_short(pattern)}` is no regular expression of Python's `re`: {error}",
            keyword="regexp",
            hint=r"Unicode properties \p{...} are not among them" if r"\p" in pattern else "",
        ) from None
    return _Reader(pattern).whole(list(tree), tree.state.flags)


def _short(pattern: str) -> str:
    return pattern if len(pattern) <= 60 else f"{pattern[:57]}..."


class _Reader:
    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._closed: Ranges = ()

    def refuse(self, what: str, hint: str = "") -> GrammarError:
        return GrammarError(
            f"{what} in the terminal `{_short(self._pattern)}` is not supported",
            keyword="regexp",
            hint=hint,
        )

    def whole(self, items: list[Any], flags: int) -> Pattern:
        """Like `series`, with the look-around that may stand at the ends."""
        words: Regex | None = None
        items, flags = self._unwrapped(items, flags)
        if (
            len(items) > 1
            and str(items[0][0]) == "ASSERT_NOT"
            and not self._ahead(items, 0, flags, at_end=False)
        ):
            words = self._words(list(items[0][1][1]), flags)
            items = items[1:]
            self._closed = word_characters()
        regex = self.series(items, flags, at_end=True)
        return Pattern(regex, words, self._closed)

    @staticmethod
    def _unwrapped(items: list[Any], flags: int) -> tuple[list[Any], int]:
        """Without groups around the whole, and the flags inside."""
        while len(items) == 1 and str(items[0][0]) == "SUBPATTERN":
            _, added, removed, inner = items[0][1]
            items, flags = list(inner), (flags | added) & ~removed
        return items, flags

    def _words(self, items: list[Any], flags: int) -> Regex:
        """What a negative look-ahead names, each up to the end of a word."""
        items, flags = self._unwrapped(items, flags)
        code = str(items[-1][0]) if items else ""
        if code == "BRANCH":
            before = self.series(items[:-1], flags)
            ends = [self._words(list(branch), flags) for branch in items[-1][1][1]]
            return Series((before, Options(tuple(ends))))
        found = self.series(items[:-1], flags)
        if code != "AT" or str(items[-1][1]) != "AT_BOUNDARY" or flags & re.ASCII:
            raise self.refuse("look-ahead", hint=r"only `(?!(?:these|words)\b)` at the start can "
                              "be taken away")  # fmt: skip
        if charset.difference(alphabet(found), word_characters()) or edge(found)[1]:
            raise self.refuse("look-ahead at other than words")
        return found

    def series(self, items: Iterable[Any], flags: int, *, at_end: bool = False) -> Regex:
        """`at_end`: a match may end behind the items."""
        items = list(items)
        read: list[Regex] = []
        for i in reversed(range(len(items))):
            regex = self._ahead(items, i, flags, at_end=at_end)
            read.append(regex or self.one(items[i], flags, at_end=at_end))
            at_end = at_end and edge(read[-1])[1]
        return read[0] if len(read) == 1 else Series(tuple(read[::-1]))

    def _ahead(self, items: list[Any], i: int, flags: int, *, at_end: bool) -> Ahead | None:
        """The look-ahead that item `i` stands for, if it does; `at_end`: a match may end there."""
        code, argument = str(items[i][0]), items[i][1]
        positive = code == "ASSERT"
        if code in ("ASSERT", "ASSERT_NOT") and argument[0] == 1:
            inner = self.series(argument[1], flags)
            ranges = inner.ranges if isinstance(inner, Chars) else ()
        elif code == "AT" and str(argument) == "AT_BOUNDARY" and not flags & re.ASCII:
            ends, empty = edge(self.series(items[:i], flags), last=True)
            positive = not charset.intersection(ends, word_characters())
            known = positive or not charset.difference(ends, word_characters())
            ranges = word_characters() if known and not empty else ()
        else:
            return None
        if not ranges or (positive and at_end):
            return None
        if at_end:
            self._closed = charset.union(self._closed, ranges)
        return Ahead(ranges if positive else charset.complement(ranges), not positive)

    def one(self, item: Any, flags: int, *, at_end: bool = False) -> Regex:
        code, argument = str(item[0]), item[1]
        if code in ("LITERAL", "NOT_LITERAL", "IN", "ANY"):
            return Chars(_characters(item, flags))
        if code == "SUBPATTERN":
            _, added, removed, inner = argument
            return self.series(inner, (flags | added) & ~removed, at_end=at_end)
        if code == "BRANCH":
            return Options(tuple(self.series(b, flags, at_end=at_end) for b in argument[1]))
        if code in ("MAX_REPEAT", "MIN_REPEAT"):
            low, high, inner = argument
            endless = str(high) == "MAXREPEAT"
            if max(low, 0 if endless else high) > MAX_COUNT:
                raise self.refuse(f"a count above {MAX_COUNT:,}")
            lazy = code == "MIN_REPEAT"
            item = self.series(inner, flags, at_end=at_end)
            return Times(item, low, None if endless else high, lazy)
        if code in ("ASSERT", "ASSERT_NOT") and argument[0] == -1:
            behind = self.series(argument[1], flags)
            if isinstance(behind, Chars):
                negated = code == "ASSERT_NOT"
                return Behind(charset.complement(behind.ranges) if negated else behind.ranges)
        names = {
            "ASSERT": "look-around", "ASSERT_NOT": "look-around", "AT": "an anchor",
            "GROUPREF": "a backreference", "GROUPREF_EXISTS": "a condition",
            "POSSESSIVE_REPEAT": "a possessive quantifier", "ATOMIC_GROUP": "an atomic group",
        }  # fmt: skip
        raise self.refuse(names.get(code, code), hint="an automaton has no look-around or memory")


def alphabet(regex: Regex) -> Ranges:
    """The characters that occur in the texts of a regex."""
    if isinstance(regex, Chars):
        return regex.ranges
    if isinstance(regex, Behind | Ahead):
        return ()
    if isinstance(regex, Times):
        return alphabet(regex.item)
    return charset.union(*map(alphabet, regex.items))


def edge(regex: Regex, *, last: bool = False) -> tuple[Ranges, bool]:
    """The characters with which a regex can begin, or end, and whether it may read nothing."""
    if isinstance(regex, Chars):
        return regex.ranges, False
    if isinstance(regex, Behind | Ahead):
        return (), True
    if isinstance(regex, Times):
        ranges, empty = edge(regex.item, last=last)
        return (ranges if regex.high != 0 else ()), empty or regex.low == 0
    found: Ranges = ()
    if isinstance(regex, Options):
        parts = [edge(item, last=last) for item in regex.items]
        return charset.union(*(r for r, _ in parts)), any(e for _, e in parts)
    for item in reversed(regex.items) if last else regex.items:
        ranges, empty = edge(item, last=last)
        found = charset.union(found, ranges)
        if not empty:
            return found, False
    return found, True


def word_characters() -> Ranges:
    r"""What Python's `\w` matches."""
    return _category("w", False)


def _characters(item: Any, flags: int) -> Ranges:
    code, argument = str(item[0]), item[1]
    if code == "ANY":
        return SCALARS if flags & re.DOTALL else charset.complement(charset.of("\n"))
    entries = [item] if code != "IN" else list(argument)
    negated = code == "NOT_LITERAL"
    ranges: list[tuple[int, int]] = []
    for entry in entries:
        kind, value = str(entry[0]), entry[1]
        if kind == "NEGATE":
            negated = True
        elif kind in ("LITERAL", "NOT_LITERAL"):
            ranges.append((value, value))
        elif kind == "RANGE":
            ranges.append(tuple(value))
        else:
            letter = str(value).rpartition("_")[2][0].lower()  # CATEGORY_NOT_DIGIT: d
            name = {"d": "d", "s": "s", "w": "w"}[letter]
            found = _category(name, bool(flags & re.ASCII))
            ranges += charset.complement(found) if "_NOT_" in str(value) else found
    found = charset.normal(ranges)
    if flags & re.IGNORECASE:
        found = _any_case(found, bool(flags & re.ASCII))
    return charset.complement(found) if negated else found


@lru_cache(maxsize=8)
def _category(letter: str, ascii_only: bool) -> Ranges:
    r"""What Python's `\d`, `\s` and `\w` match."""
    characters = "".join(map(chr, range(0x80 if ascii_only else 0x110000)))
    runs = re.finditer(rf"\{letter}+", characters)
    return charset.normal((run.start(), run.end() - 1) for run in runs)


@lru_cache(maxsize=512)
def _any_case(ranges: Ranges, ascii_only: bool) -> Ranges:
    """The characters that `re` takes for one of the set where case does not matter."""
    ends = "".join(rf"\U{low:08x}-\U{high:08x}" for low, high in ranges)
    if not ends:
        return ()
    matched = re.findall(rf"(?{'a' * ascii_only}i:[{ends}])", _letters_of_two_cases())
    return charset.union(ranges, charset.of("".join(matched)))


@lru_cache(maxsize=1)
def _letters_of_two_cases() -> str:
    ranges = charset.matching(r"\p{Changes_When_Casemapped}")
    return "".join(chr(c) for low, high in ranges for c in range(low, high + 1))
