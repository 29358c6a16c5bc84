r"""Reads a regular expression of ECMA-262 (with the flag `u`) into a tree.

What other dialects write in one certain way is read as well: `\A`, `\Z` and `\z`, `\pL`,
`(?P<name>...)`, the flags `(?i)` and `(?s)`, and escapes before characters that need none.  What
no automaton can do (backreferences), what is an error in ECMA-262, and what means different things
in different dialects is refused with its position.
"""

from __future__ import annotations

import re

from sgen.errors import GrammarError
from sgen.grammars import charset
from sgen.grammars.charset import SCALARS, Ranges
from sgen.grammars.regex_syntax import Anchor, Chars, Look, Tree, concat, either, many

MAX_LENGTH = 8 * 1024
MAX_NESTING = 64
MAX_COUNT = 1 << 24

_CONTROL = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v"}
_LOOKS = {"?=": (True, False), "?!": (True, True), "?<=": (False, False), "?<!": (False, True)}
_REFUSED = {
    "?>": "atomic group",
    "?#": "comment group",
    "?P=": "backreference",
    "?P>": "recursion",
    "?&": "recursion",
    "?R": "recursion",
    "?|": "branch reset",
    "?(": "conditional",
    "*": "control verb",
}
_POSIX = re.compile(r"([:.=])\^?[^\]]+\1\]")
_HEXADECIMAL = frozenset("0123456789abcdefABCDEF")


def parse(pattern: str, *, limit: int = MAX_LENGTH) -> Tree:
    """The tree of `pattern`.  GrammarError with the position of what is not supported."""
    if len(pattern) > limit:
        raise GrammarError(
            f"the pattern has {len(pattern):,} characters, more than {limit:,}",
            keyword="pattern",
            position=limit,
            hint="use `choices` for long lists of words",
        )
    return _Parser(pattern).parse()


class _Parser:
    def __init__(self, pattern: str) -> None:
        self.text = pattern
        self.at = 0
        self.depth = 0
        self.names: set[str] = set()
        self.any_case = False
        self.dot_is_all = False

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

    def peek(self, size: int = 1) -> str:
        return self.text[self.at : self.at + size]

    # Structure.

    def either(self) -> Tree:
        flags = self.any_case, self.dot_is_all
        items = [self.concat()]
        while self.take("|"):
            items.append(self.concat())
        self.any_case, self.dot_is_all = flags
        return either(items)

    def concat(self) -> Tree:
        items: list[Tree] = []
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            items.append(self.quantified())
        return concat(items)

    def quantified(self) -> Tree:
        start = self.at
        item = self.atom()
        bounds = self.bounds()
        if bounds is None:
            return item
        is_look = any(self.text.startswith(opening, start + 1) for opening in _LOOKS)
        if is_look if self.text[start] == "(" else isinstance(item, Anchor):
            raise self.error("a condition cannot be repeated", "quantifier", at=start)
        self.take("?")  # lazy: the same language
        here = self.at
        if self.take("+"):
            raise self.error("possessive quantifiers are not supported", "quantifier", at=here)
        if self.bounds() is not None:
            raise self.error("two quantifiers in a row", "quantifier", at=here)
        return many(item, *bounds)

    def bounds(self) -> tuple[int, int | None] | None:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self.take(sign):
                return bounds
        if self.peek() != "{":
            return None
        start = self.at
        inside, closed, _ = self.text[start + 1 :].partition("}")
        low, comma, high = inside.partition(",")
        digits = (low + high).isascii() and (low + high).isdigit()
        if not closed or not digits:
            return None  # a plain brace, in every dialect that allows it
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
            return Chars(SCALARS if self.dot_is_all else charset.complement(charset.LINE_ENDS))
        if char in "^$":
            return Anchor(char == "^", start)
        if char in "*+?":
            raise self.error("nothing to repeat", "quantifier", at=start)
        if char == "\\":
            return self.escape(start)
        return Chars(self.cased(self.plain(char, start)))

    def cased(self, ranges: Ranges) -> Ranges:
        return charset.any_case(ranges) if self.any_case else ranges

    def plain(self, char: str, start: int) -> Ranges:
        if 0xD800 <= ord(char) <= 0xDFFF:
            raise self.error("half a surrogate pair", "escape", at=start)
        return charset.single(char)

    # Groups.

    def group(self, start: int) -> Tree:
        look = None
        flags = self.any_case, self.dot_is_all
        if self.peek() in ("?", "*") and not self.take("?:"):
            self.refuse_group(start)
            look = next((_LOOKS[o] for o in _LOOKS if self.take(o)), None)
        if look is not None:
            pass
        elif self.take("?P<") or self.take("?<"):
            self.group_name(start)
        elif self.take("?") and self.flags(start):
            return concat(())
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise self.error(f"groups nested deeper than {MAX_NESTING}", "group", at=start)
        tree = self.either()
        self.depth -= 1
        self.any_case, self.dot_is_all = flags
        if not self.take(")"):
            raise self.error("a `(` without its `)`", "group", at=start)
        return Look(tree, *look, start) if look else tree

    def refuse_group(self, start: int) -> None:
        for opening, name in _REFUSED.items():
            if self.text.startswith(opening, self.at):
                raise self.error(f"{name} is not supported", name, at=start,
                                 hint="an automaton has no memory")  # fmt: skip

    def group_name(self, start: int) -> None:
        name, closed, _ = self.text[self.at :].partition(">")
        if not closed or not name.replace("$", "_").isidentifier():
            raise self.error("a group's name must be an identifier", "group", at=start)
        if name in self.names:
            raise self.error(f"two groups named `{name}`", "group", at=start)
        self.names.add(name)
        self.at += len(name) + 1

    def flags(self, start: int) -> bool:
        """Set the flags of `(?i)` or `(?i:`; whether that is all of the group."""
        on = True
        if self.peek() == ")":
            raise self.error("a group without anything in it", "group", at=start)
        while self.peek() not in (")", ":", ""):
            flag = self.peek()
            self.at += 1
            if flag == "-" and on:
                on = False
            elif flag == "i":
                self.any_case = on
            elif flag == "s":
                self.dot_is_all = on
            elif flag != "u" or not on:
                raise self.error(f"the inline flag `{flag}` is not supported", "flags", at=start)
        if self.take(")"):
            if self.depth or start:
                raise self.error("inline flags belong at the start of the pattern", "flags",
                                 at=start, hint="write `(?i:...)`")  # fmt: skip
            return True
        if not self.take(":"):
            raise self.error("a `(` without its `)`", "group", at=start)
        return False

    # Escapes.

    def escape(self, start: int) -> Tree:
        letter = self.peek()
        if letter and letter in "AZz":
            self.at += 1
            return Anchor(letter == "A", start)
        if letter and letter in "bB":
            raise self.error(f"word boundary `\\{letter}` is not supported", "word boundary",
                             at=start)  # fmt: skip
        return Chars(self.cased(self.escaped_set(start)))

    def escaped_set(self, start: int) -> Ranges:
        """What follows a backslash, as a set."""
        letter = self.peek()
        self.at += 1
        if letter and letter in "dwsDWS":
            return charset.shorthand(letter)
        if letter and letter in "pP":
            return self.property(start, letter == "P")
        if letter == "0" and not self.peek().isdigit():
            return charset.single("\0")
        if letter in _CONTROL:
            return charset.single(_CONTROL[letter])
        if letter == "c" and self.peek().isascii() and self.peek().isalpha():
            self.at += 1
            return charset.single(chr(ord(self.text[self.at - 1]) % 32))
        if letter and letter in "xuU":
            return charset.normal([(self.code_point(start, letter),) * 2])
        if letter.isdigit() or letter in ("k", "g"):
            raise self.error("backreferences are not supported", "backreference", at=start)
        if not letter or letter.isalnum():
            raise self.error(f"unknown escape `\\{letter}`", "escape", at=start)
        return self.plain(letter, start)

    def code_point(self, start: int, letter: str) -> int:
        """Half a surrogate pair is a code point here, though no text holds it."""
        point = self.hexadecimal(start, letter)
        if 0xD800 <= point <= 0xDBFF and letter == "u":
            here = self.at
            if self.take("\\u") and self.peek() != "{":
                low = self.hexadecimal(start, "u")
                if 0xDC00 <= low <= 0xDFFF:
                    return 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00)
            self.at = here
        if point > 0x10FFFF:
            raise self.error("not a Unicode character", "escape", at=start)
        return point

    def hexadecimal(self, start: int, letter: str) -> int:
        if letter in "xu" and self.take("{"):
            digits, closed, _ = self.text[self.at :].partition("}")
            self.at += len(digits) + 1
            ok = bool(closed) and 1 <= len(digits) <= 8
        else:
            length = {"x": 2, "u": 4, "U": 8}[letter]
            digits = self.peek(length)
            self.at += length
            ok = len(digits) == length
        if not ok or not _HEXADECIMAL.issuperset(digits):
            raise self.error(f"`\\{letter}` needs hexadecimal digits", "escape", at=start)
        return int(digits, 16)

    def property(self, start: int, complemented: bool) -> Ranges:
        if self.take("{"):
            name, closed, _ = self.text[self.at :].partition("}")
            self.at += len(name) + 1
        else:  # `\pL`
            name = closed = self.peek()
            self.at += 1
        plain = name.replace("_", "").replace("=", "").isalnum()
        try:
            if not closed or not plain or not name.isascii():
                raise ValueError("malformed")
            ranges = charset.matching(rf"\p{{{name}}}")
        except Exception:
            # The regex package's error class is not exported under a stable name.
            raise self.error(f"unknown Unicode property `{name}`", "property", at=start) from None
        return charset.complement(ranges) if complemented else ranges

    # Classes.

    def char_class(self, start: int) -> Ranges:
        negated = self.take("^")
        if self.peek() == "]":
            raise self.error("`]` first in a class means different things in different dialects",
                             "class", at=start, hint=r"write `\]`")  # fmt: skip
        found: list[tuple[int, int]] = []
        while not self.take("]"):
            if self.at >= len(self.text):
                raise self.error("a `[` without its `]`", "class", at=start)
            found += self.class_range()
        ranges = self.cased(charset.normal(found))
        return charset.complement(ranges) if negated else ranges

    def class_range(self) -> list[tuple[int, int]]:
        here = self.at
        item = self.class_item()
        if self.peek() != "-" or self.peek(2) in ("-]", "-"):
            return item
        if len(item) != 1 or item[0][0] != item[0][1]:
            return item  # `[\w-.]`: the dash is a character
        self.at += 1
        last = self.class_item()
        if len(last) != 1 or last[0][0] != last[0][1]:
            return [*item, (0x2D, 0x2D), *last]
        if last[0][0] < item[0][0]:
            raise self.error("a range that ends before it starts", "class", at=here)
        return [(item[0][0], last[0][0])]

    def class_item(self) -> list[tuple[int, int]]:
        """One character, half a surrogate pair too, or the set of an escape."""
        start = self.at
        char = self.text[start]
        self.at += 1
        if char == "[" and _POSIX.match(self.text, self.at):
            raise self.error("POSIX classes are not supported", "class", at=start,
                             hint=r"use \d, \w, \s or \p{...}")  # fmt: skip
        if char != "\\":
            return list(self.plain(char, start))
        letter = self.peek()
        if letter == "b":
            self.at += 1
            return [(8, 8)]
        if letter and letter in "xuU":
            self.at += 1
            return [(self.code_point(start, letter),) * 2]
        return list(self.escaped_set(start))
