"""The sandbox that chat templates run in: jinja2's immutable one, with a budget of work.

- It has the filters, tests and methods that chat templates use, and no others.
- Loops, macros and characters are paid for before they happen, so that a hostile template ends
  with an error and not with the machine's memory.
- Texts that come from a request are placeholders here (see texts.py); `tojson` marks those that
  it writes, so that what is put in their place is escaped.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NoReturn

import jinja2
import jinja2.ext
import jinja2.sandbox
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer

from sgen.runtime.texts import escaped_placeholders

BUDGET = 1 << 27  # characters that one rendering may write, join or loop over
_STEP = 1000  # what one pass of a loop or one value of a list costs of it
_MAX_INDENT = 16
_MAX_BITS = 64  # of an integer

_FILTERS = frozenset([
    "abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float",
    "forceescape", "int", "items", "last", "length", "list", "lower", "map", "max", "min",
    "reject", "rejectattr", "reverse", "round", "safe", "select", "selectattr", "sort", "sum",
    "title", "trim", "unique", "upper",
])  # fmt: skip
_TEXT_METHODS = frozenset([
    "capitalize", "count", "endswith", "find", "index", "isalnum", "isalpha", "isdigit",
    "islower", "isspace", "istitle", "isupper", "join", "lower", "lstrip", "partition",
    "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition", "rsplit",
    "rstrip", "split", "splitlines", "startswith", "strip", "title", "upper",
])  # fmt: skip


class _TooMuchError(jinja2.TemplateError):
    """The template asks for more work than any prompt takes."""


class _Meter(NodeTransformer):
    """Has every loop, macro and `~` of a template pay before it runs."""

    def visit_For(self, node: Any) -> Any:  # noqa: N802
        self.generic_visit(node)
        written = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        node.body.insert(0, nodes.ExprStmt(_call("spend", nodes.Const(_STEP + written))))
        return node

    visit_Macro = visit_CallBlock = visit_For  # noqa: N815

    def visit_Concat(self, node: Any) -> Any:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [_call("measured", part) for part in node.nodes]
        return node


def _call(name: str, argument: nodes.Expr) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), [argument], [], None, None)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`, which marks what a trainer takes for the model's own text: no more than
    its body here."""

    tags: ClassVar[set[str]] = {"generation"}  # type: ignore[misc]

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The sandbox with a budget, `left`, which one rendering at a time draws on."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[jinja2.ext.loopcontrols, _Generation],
            # Nothing is computed while compiling: it would be computed without a budget.
            optimized=False,
            finalize=jinja2.pass_context(lambda context, value: self.measured(value)),
        )
        self.left = 0
        self.filters = {name: self.filters[name] for name in _FILTERS}
        self.filters |= {"tojson": self._to_json, "string": self._string}
        self.filters |= {"replace": self._replace, "join": self._join, "indent": self._indent}
        self.globals = {k: self.globals[k] for k in ("dict", "namespace", "cycler", "joiner")}
        self.globals |= {"raise_exception": _raise, "strftime_now": _now, "range": self._range}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Meter().visit(tree)
        tree.set_lineno(1)  # for the nodes that were put in, which have none
        return tree

    def spend(self, cost: int) -> str:
        self.left -= cost
        if self.left < 0:
            raise _TooMuchError("it loops or writes far more than a prompt can hold")
        return ""

    def measured(self, value: Any) -> Any:
        """The value, once its text is paid for."""
        stack = [value]
        while stack:
            match stack.pop():
                case str() | bytes() as text:
                    self.spend(len(text))
                case dict() as items:
                    self.spend(_STEP)
                    stack += [*items.keys(), *items.values()]
                case list() | tuple() | set() as values:
                    self.spend(_STEP)
                    stack += values
        return value

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if numbers and isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * (abs(right) if operator == "**" else 1)
            if max(bits, right.bit_length()) > _MAX_BITS:
                raise _TooMuchError("it computes with numbers of more than 64 bits")
        elif not numbers and operator == "+":
            self.spend(sum(len(x) for x in (left, right) if hasattr(x, "__len__")))
        elif operator == "*" and isinstance(left, str) and isinstance(right, int):
            self.spend(len(left) * max(right, 0))
        elif not numbers:
            raise _TooMuchError(f"{operator} of anything but numbers is not allowed")
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> None:
        """`format` is no method that text has here: a width in it takes any memory."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str | bytes | int | float) and attr not in _TEXT_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, str) and name == "replace":
            return self._replace(owner, *args, **kwargs)
        if isinstance(owner, str) and name == "join":
            return self._join(args[0], owner)
        return super().call(context, obj, *args, **kwargs)

    def _replace(self, text: Any, old: str, new: str, count: int = -1) -> str:
        source = self._string(text)
        self.spend(len(source) + (len(source) + 1) * len(new))
        return source.replace(old, new, count)

    def _join(self, values: Iterable[Any], separator: str = "", attribute: Any = None) -> str:
        if attribute is not None:
            values = [self.getitem(v, attribute) for v in values]
        parts = [self._string(v) for v in values]
        self.spend(len(parts) * len(separator))
        return separator.join(parts)

    def _string(self, value: Any) -> str:
        return str(self.measured(value))

    def _indent(
        self, text: Any, width: int | str = 4, first: bool = False, blank: bool = False
    ) -> str:
        """As jinja2's filter of this name."""
        width = min(int(width), _MAX_INDENT) * " " if isinstance(width, int) else width
        first_line, *rest = self._string(text).split("\n")
        self.spend((len(rest) + 1) * len(width))
        lines = [width + line if line or blank else line for line in rest]
        return "\n".join([width + first_line if first else first_line, *lines])

    def _to_json(
        self,
        value: Any,
        indent: int | None = None,
        separators: Sequence[str] | None = None,
        sort_keys: bool = False,
        **_: Any,
    ) -> str:
        """As transformers has it: plain characters, nothing escaped for HTML."""
        indent = None if indent is None else min(int(indent), _MAX_INDENT)
        if separators is not None:
            between, colon = separators
            if len(between) + len(colon) > _MAX_INDENT:
                raise jinja2.TemplateError("the separators of tojson are too long")
            separators = (between, colon)
        text = json.dumps(
            self.measured(value),
            ensure_ascii=False,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )
        return escaped_placeholders(text)

    def _range(self, *bounds: int) -> range:
        numbers = range(*bounds)
        self.spend(len(numbers) * _STEP)
        return numbers


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    if len(form) > 100 or re.search(r"%[^a-zA-Z]*[1-9]", form):  # C libraries pad to a width
        raise jinja2.TemplateError("strftime_now takes a short format without widths")
    return datetime.datetime.now().strftime(form)
