"""Sets of JSON strings, closed under intersection and complement.

A set is what lies within lengths, matches patterns and formats, is one of some values if these are
given, and is in none of some other sets.  So the complement of a set is one set again, and nothing
is computed until a set is asked for its automaton.  Lengths count Unicode characters.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any, Literal

from sgen.errors import GrammarError
from sgen.grammars import formats, language
from sgen.grammars.automata import Automaton, Without, Words, run
from sgen.grammars.builder import Builder
from sgen.grammars.combination import Language
from sgen.grammars.json_text import Schema, count, join, refuse, write
from sgen.grammars.text import Text, TextStyle
from sgen.grammars.work import MAX_STEPS, Work

STRING_KEYWORDS = frozenset({"minLength", "maxLength", "pattern", "format", "contentEncoding"})

MAX_KEPT = 8_000
"""The work for a machine that is kept, which says about how large it is."""

Part = tuple[Literal["pattern", "format", "contentEncoding"], str]
"""What a string must match: a pattern somewhere in it, or all of a format or encoding."""


@dataclass(frozen=True, slots=True)
class Strings:
    """Strings of `low` to `high` characters that match all of `inside`, and that are among `only`
    (None: no such list) and in none of `without`.

    Values are normal to some degree, not wholly: equal ones are equal sets, but equal sets may be
    different values.
    """

    low: int = 0
    high: int | None = None
    inside: frozenset[Part] = frozenset()
    only: frozenset[str] | None = None
    without: frozenset[Strings] = frozenset()

    @staticmethod
    def everything() -> Strings:
        return _EVERYTHING

    @staticmethod
    def nothing() -> Strings:
        return _NOTHING

    @staticmethod
    def values(values: list[Any]) -> Strings:
        """The strings among some values."""
        return Strings(only=frozenset(v for v in values if isinstance(v, str)))

    @staticmethod
    def of(schema: Schema, pointer: str) -> Strings:
        """What the string keywords of a schema demand of a string.

        GrammarError with the place of a keyword that is malformed or cannot be enforced.  A format
        that is not known, which the caller has dealt with, demands nothing.
        """
        low, high = count(schema, "minLength", pointer), count(schema, "maxLength", pointer)
        inside: set[Part] = set()
        if "pattern" in schema:
            inside.add(_checked(("pattern", schema["pattern"]), join(pointer, "pattern")))
        name = schema.get("format")
        if name in formats.NAMES:
            inside.add(("format", name))
            if name in formats.LONGEST:
                longest = formats.LONGEST[name]
                high = longest if high is None else min(high, longest)
        encoding = schema.get("contentEncoding")
        if encoding is not None:
            if encoding != "base64":
                refuse("only the contentEncoding base64 is supported", "contentEncoding",
                       join(pointer, "contentEncoding"))  # fmt: skip
            inside.add(("contentEncoding", encoding))
        return Strings(low or 0, high, frozenset(inside))

    @staticmethod
    def matching(pattern: str, pointer: str) -> Strings:
        """The strings that hold a match of an ECMA-262 `pattern`."""
        return Strings(inside=frozenset([_checked(("pattern", pattern), pointer)]))

    @property
    def finite(self) -> frozenset[str] | None:
        """All members, where they are listed."""
        return self.only

    def meet(self, other: Strings) -> Strings:
        """The strings in both."""
        only = self.only if other.only is None else other.only
        if self.only is not None and other.only is not None:
            only = self.only & other.only
        highs = [h for h in (self.high, other.high) if h is not None]
        met = Strings(
            max(self.low, other.low),
            min(highs, default=None),
            self.inside | other.inside,
            only,
            _merged(self.without | other.without),
        )
        if only is not None:
            return Strings(only=frozenset(v for v in only if met.has(v)))
        return met

    def complement(self) -> Strings:
        """The strings that are not in it: always one object."""
        if self == _EVERYTHING:
            return _NOTHING
        if self == _NOTHING:
            return _EVERYTHING
        if self == Strings(without=self.without) and len(self.without) == 1:
            return next(iter(self.without))
        if self == Strings(low=self.low):
            return Strings(high=self.low - 1)
        if self == Strings(high=self.high) and self.high is not None:
            return Strings(low=self.high + 1)
        return Strings(without=frozenset([self]))

    def has(self, value: object) -> bool:
        """Whether a value is a string of the set."""
        return isinstance(value, str) and self._holds(value, outer=False)

    def _holds(self, value: str, *, outer: bool) -> bool:
        """`outer`: also by the greater set of each format of which not all texts are known."""
        if self.only is not None and value not in self.only:
            return False
        if len(value) < self.low or (self.high is not None and len(value) > self.high):
            return False
        text = value.encode("utf-8", "surrogatepass")
        return all(_matches(part, outer, text) for part in self.inside) and not any(
            other._holds(value, outer=not outer) for other in self.without
        )

    def is_empty(self, work: Work) -> bool:
        """Whether certainly no string is in it.  GrammarError if that takes too much work to say.

        It is not certain only for formats of which not all texts are known.
        """
        if self.only is not None:
            return not self.only
        if self.high is not None and self.low > self.high:
            return True
        if not self.inside and not self.without:
            return False
        return language.is_empty(self._language(outer=True), work)

    def lower(self, builder: Builder) -> int:
        """The node of these strings as JSON texts, with all the spellings that JSON has (those of
        listed values: the usual one)."""
        return self._lower(builder, "json")

    def lower_key(self, builder: Builder) -> int:
        """The same in the one spelling that property names have; without the colon."""
        return self._lower(builder, "canonical")

    def _lower(self, builder: Builder, style: TextStyle) -> int:
        if self.only is not None:
            return builder.words(write(value) for value in sorted(self.only))
        key = (style, self)
        known = builder.find(key)
        if known is not None:
            return known
        machine = self._machine(style, builder.work)
        return builder.never() if machine is None else builder.lexeme(key, machine)

    def _machine(self, style: TextStyle, work: Work) -> Automaton | None:
        """None if no string is in the set.  `only` is not looked at."""
        if self.high is not None and self.low > self.high:
            return None
        if not self.without and not self.inside:
            return Text(self.low, self.high, style)
        names = self._excluded()
        if names is not None and style == "canonical":
            return Without(Text(self.low, None, style), Words(map(write, names)))
        ready = _ready(self, style)
        if ready is None:
            return language.automaton(self._language(outer=False), style, work)
        work.spend(ready[1])
        return ready[0]

    def _excluded(self) -> frozenset[str] | None:
        """What is left out, if that is no more than a list, and if there is no end to the rest."""
        if self.high is not None or self.inside or len(self.without) != 1:
            return None
        return next(iter(self.without)).only

    def _language(self, *, outer: bool) -> Language:
        if self.only is not None:
            return Language(words=self.only)
        parts = [_language_of(part, outer=outer) for part in sorted(self.inside)]
        return Language(
            self.low,
            self.high,
            tuple(dict.fromkeys(tree for part in parts for tree in part.trees)),
            without=(
                *(other for part in parts for other in part.without),
                *(other._language(outer=not outer) for other in sorted(self.without, key=repr)),
            ),
        )


_EVERYTHING = Strings()
_NOTHING = Strings(only=frozenset())


def _merged(without: frozenset[Strings]) -> frozenset[Strings]:
    """Lists of values that are left out as one list."""
    lists = [s.only for s in without if s.only is not None]
    if len(lists) < 2:
        return without
    rest = frozenset(s for s in without if s.only is None)
    return rest | {Strings(only=frozenset().union(*lists))}


def _checked(part: Part, pointer: str) -> Part:
    """The part, if an automaton can be made of it."""
    try:
        _language_of(part)
    except GrammarError as error:
        raise placed(error, pointer) from None
    return part


def placed(error: GrammarError, pointer: str) -> GrammarError:
    """An error in a pattern, said again with the place of the pattern in the schema."""
    where = f" at character {error.position} of the pattern" if error.position is not None else ""
    message = error.message.partition(" at character ")[0] + where
    return GrammarError(message, keyword=error.keyword, pointer=pointer, hint=error.hint)


@lru_cache(maxsize=1024)
def _language_of(part: Part, *, outer: bool = False) -> Language:
    """The strings that match a pattern, a format or an encoding."""
    kind, text = part
    if kind == "pattern":
        return language.of_pattern(text, search=True)
    tree = formats.tree("byte" if kind == "contentEncoding" else text, outer=outer)
    assert tree is not None, "only known formats are parts"
    return language.of_tree(tree)


@lru_cache(maxsize=256)
def _ready(strings: Strings, style: TextStyle) -> tuple[Automaton | None, int] | None:
    """The machine of a set, and the work it takes; None if it is too large to be kept."""
    work = Work()
    machine = language.automaton(strings._language(outer=False), style, work)
    steps = MAX_STEPS - work.left
    return (machine, steps) if steps <= MAX_KEPT else None


def _matches(part: Part, outer: bool, text: bytes) -> bool:
    with _LOCK:
        machine = _matcher(part, outer)
        return machine is not None and run(machine, text)


@lru_cache(maxsize=64)
def _matcher(part: Part, outer: bool) -> Automaton | None:
    """It makes its states while it runs: for one thread at a time."""
    return language.automaton(_language_of(part, outer=outer), "utf8", Work())


_LOCK = Lock()
