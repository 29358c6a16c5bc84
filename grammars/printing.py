"""Expressions as text: a regular expression, GBNF, Lark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sgen.grammars.charset import Ranges, complement
from sgen.grammars.expressions import EMPTY, Choice, Expression, Join, Loop, Name, Set
from sgen.grammars.written_rules import Key

_CHOICE, _JOIN, _ATOM = range(3)
_CONTROL = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


class RegexPrinter:
    """In what ECMA-262, Python and Rust agree on."""

    between, alternative = "", "|"
    whole = r"[\s\S]"
    in_text = frozenset("\\.^$*+?()[]{}|/")
    in_set = frozenset("\\]^[-/")

    def expression(self, expression: Expression, level: int = _CHOICE) -> str:
        """As text; `level` is what it stands in."""
        if isinstance(expression, Choice):
            written = self.alternative.join(self.expression(i, _JOIN) for i in expression.items)
            return self.group(written) if level > _CHOICE else written
        if isinstance(expression, Join):
            written = self.between.join(self.parts(expression))
            return self.group(written) if level > _JOIN else written
        if isinstance(expression, Loop):
            written = self.repeated(self.expression(expression.item, _ATOM), expression)
            return self.group(written) if level > _JOIN else written
        if isinstance(expression, Name):
            return self.name(expression.key)
        low, high = expression.ranges[0]
        if len(expression.ranges) == 1 and low == high:
            return self.quoted(chr(low))
        return self.set(expression.ranges)

    def parts(self, expression: Join) -> Iterator[str]:
        """The items of a sequence, characters side by side as one text."""
        word = ""
        for item in expression.items:
            if isinstance(item, Set) and len(item.ranges) == 1 and len(set(item.ranges[0])) == 1:
                word += chr(item.ranges[0][0])
                continue
            if word:
                yield self.quoted(word)
                word = ""
            yield self.expression(item, _JOIN)
        if word:
            yield self.quoted(word)

    def group(self, written: str) -> str:
        return f"(?:{written})"

    def name(self, key: Key) -> str:
        raise AssertionError("a regular expression has no rules")

    def repeated(self, written: str, expression: Loop) -> str:
        low, high = expression.low, expression.high
        short = {(0, 1): "?", (0, None): "*", (1, None): "+"}.get((low, high))
        if short is None:
            short = f"{{{low}}}" if low == high else f"{{{low},{'' if high is None else high}}}"
        return written + short

    def set(self, ranges: Ranges) -> str:
        others = complement(ranges)
        if not others:
            return self.whole
        if ranges[-1][1] == 0x10FFFF and len(others) <= len(ranges):
            return f"[^{self.inside(others)}]"
        return f"[{self.inside(ranges)}]"

    def inside(self, ranges: Ranges) -> str:
        written = []
        for low, high in ranges:
            written.append(self.escaped(chr(low), self.in_set))
            if high > low:
                dash = "-" if high > low + 1 else ""
                written.append(dash + self.escaped(chr(high), self.in_set))
        return "".join(written)

    def quoted(self, word: str) -> str:
        return "".join(self.escaped(char, self.in_text) for char in word)

    def escaped(self, char: str, syntax: frozenset[str]) -> str:
        """A character that stands for itself; by its number where it would not be seen."""
        if char in syntax:
            return f"\\{char}"
        if char in _CONTROL or char.isprintable():
            return _CONTROL.get(char, char)
        return self.number(ord(char))

    def number(self, code: int) -> str:
        return f"\\u{code:04x}" if code < 0x10000 else chr(code)


class _RulePrinter(RegexPrinter):
    """What GBNF and Lark have in common."""

    between, alternative = " ", " | "
    in_text = frozenset('\\"')
    defines, first = "", ""

    def __init__(self, rules: Mapping[Key, Expression]) -> None:
        names = [self.first, *(f"r{i}" for i in range(1, len(rules)))]
        self._names = dict(zip(rules, names, strict=True))
        self._rules = rules

    def grammar(self) -> str:
        """The rules, the first one first, one a line."""
        return "".join(
            f"{name}{self.defines}{self.rule(self._rules[key])}\n"
            for key, name in self._names.items()
        )

    def rule(self, expression: Expression) -> str:
        return self.expression(expression)

    def group(self, written: str) -> str:
        return f"({written})"

    def name(self, key: Key) -> str:
        return self._names[key]

    def quoted(self, word: str) -> str:
        return f'"{super().quoted(word)}"'

    def number(self, code: int) -> str:
        return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class GbnfPrinter(_RulePrinter):
    """llama.cpp's form; its sets of characters have no escapes for `-` and `^`."""

    defines, first = " ::= ", "root"
    whole = r"[\x00-\U0010ffff]"
    in_set = frozenset("\\]")

    def rule(self, expression: Expression) -> str:
        return '""' if expression == EMPTY else super().rule(expression)

    def escaped(self, char: str, syntax: frozenset[str]) -> str:
        if syntax is self.in_set and char in "[-^":
            return f"\\x{ord(char):02x}"
        return super().escaped(char, syntax)

    def number(self, code: int) -> str:
        return f"\\x{code:02x}" if code < 0x80 else super().number(code)


class LarkPrinter(_RulePrinter):
    """Python lark's form: strings, regular expressions of one character, and rules."""

    defines, first = ": ", "start"
    whole = r"/[\s\S]/"

    def repeated(self, written: str, expression: Loop) -> str:
        low, high = expression.low, expression.high
        if (low, high) in ((0, 1), (0, None), (1, None)):
            return super().repeated(written, expression)
        if high is None:
            return f"{written}~{low} {written}*"
        return f"{written}~{low}" if low == high else f"{written}~{low}..{high}"

    def set(self, ranges: Ranges) -> str:
        written = super().set(ranges)
        return written if written == self.whole else f"/{written}/"
