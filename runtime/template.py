"""Chat templates that come with a model: compiled, bounded, and never shown a person's text.

- A template renders a placeholder for each message; `render` gives nothing in which one of them
  is missing, broken, twice there or out of order.
- Templates run in jinja2's immutable sandbox with the filters and methods that chat templates
  use.  A rendering has a budget of work: loops, macros and characters are paid for before they
  happen, so that a hostile template ends with an error and not with the machine's memory.
"""

from __future__ import annotations

import datetime
import json
import re
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.sandbox
from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from sgen.errors import InvalidRequestError, UnsupportedModelError
from sgen.protocol import Role

# Private-use characters that no template writes; a message's own text never goes through jinja.
OPEN, CLOSE = "\ue0f0", "\ue0f1"

_MAX_SOURCE = 1 << 18  # characters
_BUDGET = 1 << 27  # characters that one rendering may write, join or loop over
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


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The sandbox with a budget, `left`, which one rendering at a time draws on."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[jinja2.ext.loopcontrols],
            # Nothing is computed while compiling: it would be computed without a budget.
            optimized=False,
            finalize=jinja2.pass_context(lambda context, value: self.measured(value)),
        )
        self.left = 0
        self.filters = {name: self.filters[name] for name in _FILTERS}
        self.filters |= {"tojson": self._to_json, "string": self._string}
        self.filters |= {"replace": self._replace, "join": self._join}
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

    def _to_json(self, value: Any, indent: int | None = None, **_: Any) -> str:
        indent = None if indent is None else min(int(indent), _MAX_INDENT)
        return json.dumps(self.measured(value), ensure_ascii=False, indent=indent)

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


class ChatTemplate:
    """A compiled template; `render(roles)` gives its text with a placeholder for each content."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        if len(source) > _MAX_SOURCE:
            raise UnsupportedModelError(
                f"the model's chat template is longer than {_MAX_SOURCE} characters"
            )
        self._environment = _Environment()
        self._lock = threading.Lock()  # the budget is of one rendering
        try:
            self._template = self._environment.from_string(source)
        except Exception as e:  # beside syntax errors, those of Python's own compiler and stack
            raise UnsupportedModelError(
                f"the model's chat template does not compile: {str(e)[:500] or type(e).__name__}"
            ) from e
        self._special_tokens = dict(special_tokens)
        self._trims = {role: self._does_trim(role) for role in ("system", "user", "assistant")}

    def render(self, roles: Sequence[Role], *, prompt: bool) -> str:
        """The template's text for messages of these roles; `prompt`: then the assistant speaks.

        InvalidRequestError where the template refuses the messages (their order, for one), or
        does not show each of them once.
        """
        text = self._render(roles, [f"{OPEN}{i}{CLOSE}" for i in range(len(roles))], prompt)
        check_shown(text, roles)
        return text

    def trims(self, role: Role) -> bool:
        """Whether the template strips white space around the content of this role."""
        return self._trims[role]

    def _render(self, roles: Sequence[Role], contents: Sequence[str], prompt: bool) -> str:
        messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)]
        try:
            with self._lock:
                self._environment.left = _BUDGET
                return self._template.render(
                    messages=messages, add_generation_prompt=prompt, **self._special_tokens
                )
        except Exception as e:  # templates may fail in any way that Python can
            names = ", ".join(roles[:8]) + (", …" if len(roles) > 8 else "")
            raise InvalidRequestError(
                f"the model's chat template refuses messages of roles {names}: {str(e)[:500]}",
                param="prompt",
                hint="templates often want system first, then user and assistant in turn",
            ) from e

    def _does_trim(self, role: Role) -> bool:
        roles: tuple[Role, ...] = ("user",) if role == "user" else ("user", role)
        if role == "system":
            roles = ("system", "user")
        try:
            text = self._render(roles, [f" {OPEN} "] * len(roles), prompt=False)
        except InvalidRequestError:
            return False
        return f" {OPEN} " not in text


def check_shown(text: str, roles: Sequence[Role]) -> None:
    """InvalidRequestError unless the text has each message's placeholder once, whole, in order.

    System messages may be anywhere: some templates show them within the first user's turn.
    """
    found = re.findall(f"{OPEN}([0-9]+){CLOSE}", text)
    shown = Counter(found)
    for i, role in enumerate(roles):
        if shown[str(i)] != 1:
            raise InvalidRequestError(
                f"the model's chat template does not show message {i} of role {role} once",
                param="prompt",
                hint="leave out the messages that this model does not take",
            )
    turns = [int(n) for n in found if int(n) < len(roles) and roles[int(n)] != "system"]
    whole = text.count(OPEN) == text.count(CLOSE) == len(found) == len(roles)
    if turns != sorted(turns) or not whole:
        raise InvalidRequestError(
            "the model's chat template does not show the messages in their order",
            param="prompt",
        )
