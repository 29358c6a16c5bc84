"""Reads a regular expression into a tree.

The dialect is what ECMA-262, Python and Rust agree on.  Where they differ in which characters a
class holds, the tree has only those that all of them match (or, with `outer`, those that any of
them matches).  What no automaton can do (look-around, backreferences) or what means different
things in different dialects is refused with its position.
"""

from __future__ import annotations

from dataclasses import dataclass

from sgen.errors import GrammarError
from sgen.grammars import charset
from sgen.grammars.charset import SCALARS, Ranges

MAX_LENGTH = 1024
MAX_NESTING = 64
MAX_COUNT = 65_535


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of a set; an empty set matches nothing."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Concat:
    items: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Either:
    items: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Many:
    """`item` from `low` to `high` times; None: without end."""

    item: Tree
    low: int
    high: int | None


@dataclass(frozen=True, slots=True)
class Anchor:
    """The start (`^`) or the end (`$`) of the text."""

    at_start: bool
    position: int


Tree = Chars | Concat | Either | Many | Anchor

EMPTY = Concat(())
ANY = Many(Chars(SCALARS), 0, None)
"""Any text."""


def literal(text: str) -> Tree:
    return Concat(tuple(Chars(charset.single(c)) for c in text))


_CONTROL = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v", "0": "\0"}
_GROUPS = {
    "?=": "look-ahead",
    "?!": "negative look-ahead",
    "?<=": "look-behind",
    "?<!": "negative look-behind",
    "?>": "atomic group",
    "?#": "comment group",
    "?P=": "backreference",
    "?P>": "recursion",
    "?|": "branch reset",
    "?(": "conditional",
}


def parse(
    pattern: str, *, outer: bool = False, ecma: bool = False, limit: int = MAX_LENGTH
) -> Tree:
    """The tree of `pattern`.  GrammarError with the position of what is not supported.

    `ecma`: the pattern is one of ECMA-262, where `\\A` and `\\Z` are letters; they are refused.
    """
    if len(pattern) > limit:
        raise GrammarError(
            f"the pattern has {len(pattern):,} characters, more than {limit:,}",
            keyword="pattern",
            position=limit,
            hint="use `choices` for long lists of words",
        )
    return _Parser(pattern, outer, ecma).parse()


class _Parser:
    def __init__(self, pattern: str, outer: bool, ecma: bool) -> None:
        self.text = pattern
        self.at = 0
        self.outer = outer
        self.ecma = ecma
        self.depth = 0

    def parse(self) -> Tree:
        tree = self.either()
        if self.at < len(self.text):
            raise self.error("a `)` without its `(`", "group", hint=r"write `\)` for the character")
        return tree

    def error(self, message: str, keyword: str, hint: str = "", at: int | None = None) -> Exception:
        position = self.at if at is None else at
        return GrammarError(message, keyword=keyword, position=position, hint=hint)

    def take(self, text: str) -> bool:
        if self.text.startswith(text, self.at):
            self.at += len(text)
            return True
        return False

    def either(self) -> Tree:
        items = [self.concat()]
        while self.take("|"):
            items.append(self.concat())
        return items[0] if len(items) == 1 else Either(tuple(items))

    def concat(self) -> Tree:
        items: list[Tree] = []
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            items.append(self.quantified())
        return items[0] if len(items) == 1 else Concat(tuple(items))

    def quantified(self) -> Tree:
        start = self.at
        item = self.atom()
        bounds = self.bounds()
        if bounds is None:
            return item
        if isinstance(item, Anchor):
            raise self.error("an anchor cannot be repeated", "quantifier", at=start)
        self.take("?")  # lazy: the same language
        here = self.at
        if self.take("+"):
            raise self.error("possessive quantifiers are not supported", "quantifier", at=here)
        if self.bounds() is not None:
            raise self.error("two quantifiers in a row", "quantifier", at=here)
        low, high = bounds
        if (low, high) == (1, 1):
            return item
        return Many(item, low, high)

    def bounds(self) -> tuple[int, int | None] | None:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self.take(sign):
                return bounds
        if not self.text.startswith("{", self.at):
            return None
        start = self.at
        inside, closed, _ = self.text[start + 1 :].partition("}")
        low, comma, high = inside.partition(",")
        digits = (low + high).isascii() and (low + high).isdigit()
        if not closed or not digits:
            return None  # a plain brace, in every dialect
        if not low:
            raise self.error("`{,n}` means different things in different dialects", "quantifier",
                             hint="write `{0,n}`")  # fmt: skip
        self.at += len(inside) + 2
        if max(len(low), len(high)) > 9 or max(int(low), int(high or 0)) > MAX_COUNT:
            raise self.error(f"a count above {MAX_COUNT:,}", "quantifier", at=start)
        if not comma:
            return int(low), int(low)
        if high and int(high) < int(low):
            raise self.error("the bounds of a quantifier are the wrong way round", "quantifier",
                             at=start)  # fmt: skip
        return int(low), int(high) if high else None

    def atom(self) -> Tree:
        start = self.at
        char = self.text[start]
        self.at += 1
        if char == "(":
            return self.group(start)
        if char == "[":
            return Chars(self.char_class(start))
        if char == ".":
            return Chars(charset.complement(charset.of("\n") if self.outer else charset.LINE_ENDS))
        if char in "^$":
            return Anchor(char == "^", start)
        if char in "*+?":
            raise self.error("nothing to repeat", "quantifier", at=start)
        if char == "\\":
            return self.escape(start)
        return Chars(self.plain(char, start))

    def plain(self, char: str, start: int) -> Ranges:
        if 0xD800 <= ord(char) <= 0xDFFF:
            raise self.error("half a surrogate pair", "escape", at=start)
        return charset.single(char)

    def group(self, start: int) -> Tree:
        for opening, name in _GROUPS.items():
            if self.text.startswith(opening, self.at):
                raise self.error(f"{name} is not supported", name, at=start,
                                 hint="an automaton has no look-around or memory")  # fmt: skip
        if self.take("?:"):
            pass
        elif self.take("?P<") or self.take("?<"):
            name, closed, _ = self.text[self.at :].partition(">")
            if not closed or not name.isidentifier():
                raise self.error("a group's name must be an identifier", "group", at=start)
            self.at += len(name) + 1
        elif self.take("?"):
            raise self.error("inline flags are not supported", "flags", at=start,
                             hint="write both cases as a class, such as [aA]")  # fmt: skip
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise self.error(f"groups nested deeper than {MAX_NESTING}", "group", at=start)
        tree = self.either()
        self.depth -= 1
        if not self.take(")"):
            raise self.error("a `(` without its `)`", "group", at=start)
        return tree

    def escape(self, start: int) -> Tree:
        letter = self.text[self.at : self.at + 1]
        if letter in ("A", "Z", "z"):
            if self.ecma:
                raise self.error(f"`\\{letter}` is a letter in ECMA-262, an anchor elsewhere",
                                 "escape", hint="write `^` or `$`", at=start)  # fmt: skip
            self.at += 1
            return Anchor(letter == "A", start)
        if letter in ("b", "B"):
            raise self.error(f"word boundary `\\{letter}` is not supported", "word boundary",
                             at=start)  # fmt: skip
        return Chars(self.escaped_set(start, negated=False))

    def escaped_set(self, start: int, *, negated: bool) -> Ranges:
        """What follows a backslash, as a set; `negated`: the class around it is `[^...]`."""
        letter = self.text[self.at : self.at + 1]
        outer = self.outer != negated
        self.at += 1
        if letter and letter in "dwsDWS":
            return charset.shorthand(letter, outer=outer)
        if letter and letter in "pP":
            return self.property(start, letter == "P")
        if letter == "0" and not self.text[self.at : self.at + 1].isdigit():
            return charset.single("\0")
        if letter and letter in "tnrfv":
            return charset.single(_CONTROL[letter])
        if letter and letter in "xuU":
            return charset.normal([(self.code_point(start, letter),) * 2])
        if letter.isdigit() or letter in ("k", "g"):
            raise self.error("backreferences are not supported", "backreference", at=start)
        if not letter or letter.isalnum():
            raise self.error(f"unknown escape `\\{letter}`", "escape", at=start)
        return self.plain(letter, start)

    def code_point(self, start: int, letter: str) -> int:
        point = self.hexadecimal(start, letter)
        if 0xD800 <= point <= 0xDBFF and self.take("\\u"):
            low = self.hexadecimal(start, "u")
            if 0xDC00 <= low <= 0xDFFF:
                return 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00)
        if 0xD800 <= point <= 0xDFFF or point > 0x10FFFF:
            raise self.error("not a Unicode character", "escape", at=start)
        return point

    def hexadecimal(self, start: int, letter: str) -> int:
        if letter == "u" and self.take("{"):
            digits, closed, _ = self.text[self.at :].partition("}")
            self.at += len(digits) + 1
            ok = bool(closed) and 1 <= len(digits) <= 8
        else:
            length = {"x": 2, "u": 4, "U": 8}[letter]
            digits = self.text[self.at : self.at + length]
            self.at += length
            ok = len(digits) == length
        if not ok or any(c not in "0123456789abcdefABCDEF" for c in digits):
            raise self.error(f"`\\{letter}` needs hexadecimal digits", "escape", at=start)
        return int(digits, 16)

    def property(self, start: int, complemented: bool) -> Ranges:
        if not self.take("{"):
            raise self.error("write the name of a property in braces", "property", at=start,
                             hint=r"such as \p{L}")  # fmt: skip
        name, closed, _ = self.text[self.at :].partition("}")
        self.at += len(name) + 1
        plain = name.replace("_", "").replace("=", "").isalnum()
        try:
            if not closed or not plain or not name.isascii():
                raise ValueError("malformed")
            ranges = charset.matching(rf"\p{{{name}}}")
        except Exception:
            # The regex package's error class is not exported under a stable name.
            raise self.error(f"unknown Unicode property `{name}`", "property", at=start) from None
        return charset.complement(ranges) if complemented else ranges

    def char_class(self, start: int) -> Ranges:
        negated = self.take("^")
        if self.text.startswith("]", self.at):
            raise self.error("`]` first in a class means different things in different dialects",
                             "class", at=start, hint=r"write `\]`")  # fmt: skip
        found: list[tuple[int, int]] = []
        while not self.take("]"):
            if self.at >= len(self.text):
                raise self.error("a `[` without its `]`", "class", at=start)
            here = self.at
            item = self.class_item(negated)
            dash = self.text.startswith("-", self.at)
            if not dash or self.text[self.at + 1 : self.at + 2] in ("]", ""):
                found += item
                continue
            if len(item) != 1 or item[0][0] != item[0][1]:
                found += item  # `[\w-.]`: the dash is a character
                continue
            self.at += 1
            last = self.class_item(negated)
            if len(last) != 1 or last[0][0] != last[0][1]:
                found += [*item, (0x2D, 0x2D), *last]
                continue
            if last[0][0] < item[0][0]:
                raise self.error("a range that ends before it starts", "class", at=here)
            found.append((item[0][0], last[0][0]))
        ranges = charset.normal(found)
        return charset.complement(ranges) if negated else ranges

    def class_item(self, negated: bool) -> Ranges:
        start = self.at
        char = self.text[start]
        self.at += 1
        if char == "[" and self.text[self.at : self.at + 1] in (":", ".", "="):
            raise self.error("POSIX classes are not supported", "class", at=start,
                             hint=r"use \d, \w, \s or \p{...}")  # fmt: skip
        if char != "\\":
            return self.plain(char, start)
        if self.take("b"):
            return charset.single("\b")
        return self.escaped_set(start, negated=negated)
