"""What a program's code does that a trace cannot see, read from its bytecode.

A trace puts marks in place of texts, so Python that looks at a text sees a mark and goes a way
that no real text would take.  Two kinds of code are found here: what no trace can show at all
(`except`, `is`, `type()`), and texts that are kept or passed on where something could look at
them.  The second is judged without types and therefore broadly: `note` may be set for a program
that is harmless, which then runs step by step, but a text that something may look at is not missed
in the forms that are listed here.
"""

from __future__ import annotations

import builtins
import dis
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import CodeType, FunctionType, ModuleType
from typing import Any

MAX_FUNCTIONS = 200
"""Functions that are read; a program that reaches more is not known."""

_NAMES = {
    "type": "it calls type()",
    "id": "it calls id()",
    "callable": "it calls callable()",
    "suppress": "it suppresses errors",
}
_OPS = {
    "CHECK_EXC_MATCH": "it has an except clause",
    "CHECK_EG_MATCH": "it has an except* clause",
    "IS_OP": "it compares by `is`",
    "MATCH_MAPPING": "it matches a mapping pattern",
    "MATCH_SEQUENCE": "it matches a sequence pattern",
}

# Attributes that cannot look at a text: those of states, refs, branches, and of plain containers.
_BLIND_ATTRIBUTES = frozenset(
    (
        "system",
        "user",
        "assistant",
        "gen",
        "select",
        "fork",
        "gather",
        "join",
        "value",
        "text",
        "append",
        "extend",
        "items",
        "keys",
        "values",
        "start",
        "scores",
        "logprobs",
        "finish_reason",
    )
)
_BLIND_BUILTINS = frozenset(
    (
        "range",
        "enumerate",
        "zip",
        "list",
        "tuple",
        "dict",
        "reversed",
        "print",
        "isinstance",
        "int",
        "float",
        "bool",
        "str",
        "repr",
        "object",
        "None",
        "True",
        "False",
        "Exception",
        "ValueError",
        "TypeError",
        "RuntimeError",
        "KeyError",
    )
)
_ROLES = ("system", "user", "assistant")
_LOADS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF")
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD")
_SKIPPED = frozenset(("CACHE", "NOP", "PRECALL", "RESUME", "KW_NAMES", "EXTENDED_ARG", "TO_BOOL"))
_FORMATS = frozenset(("FORMAT_VALUE", "FORMAT_SIMPLE", "FORMAT_WITH_SPEC", "BUILD_STRING"))
_DECIDED = frozenset(("COMPARE_OP", "CONTAINS_OP", "IS_OP"))
_CALLS = frozenset(("CALL", "CALL_KW", "CALL_FUNCTION_EX"))
_LOOKS = {
    "CONTAINS_OP": "searches with `in`",
    "BUILD_SLICE": "cuts",
    "BINARY_SLICE": "cuts",
    "STORE_SLICE": "cuts",
    "UNARY_NOT": "decides",
    "BUILD_SET": "makes a set",
    "SET_ADD": "makes a set",
    "MATCH_CLASS": "matches a pattern",
}

_MISSING = object()


@dataclass
class Reading:
    """What was found in all functions that were read."""

    unseen: list[str] = field(default_factory=list)
    kept: bool = False
    passed: bool = False
    looks: str = ""
    callee: str = ""
    inner_looks: str = ""
    certain: str = ""
    _read: set[CodeType] = field(default_factory=set)

    @property
    def note(self) -> str:
        """Why a trace of these functions cannot be believed, "" if it can."""
        if self.unseen:
            return self.unseen[0]
        how = self.certain
        if not how and self.kept:
            how = self.callee or self.looks
        if not how and self.passed:
            how = self.callee or self.inner_looks
        return f"it {how}, which may depend on a value's text" if how else ""

    def add(self, function: Callable[..., Any]) -> None:
        """Read a program's function and the functions that it names."""
        if isinstance(function, FunctionType):
            self._function(function, outer=True)

    def _function(self, function: FunctionType, *, outer: bool) -> None:
        if function.__code__ in self._read or function.__module__.partition(".")[0] == "sgen":
            return
        if len(self._read) >= MAX_FUNCTIONS:
            self.unseen.append("it calls too many functions to read")
            return
        self._read.add(function.__code__)
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        names: dict[str, Any] = {}
        for name, cell in cells:
            try:
                names[name] = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
        for index, code in enumerate(_codes(function.__code__)):
            _Code(self, function, names, code, inner=bool(index) or not outer, outer=outer).read()

    def found(self, value: Any, name: str) -> None:
        """A value that the code names: read on, or call what cannot be read by its name."""
        if isinstance(value, FunctionType):
            self._function(value, outer=False)
        elif value is _MISSING or isinstance(value, ModuleType) or not callable(value):
            return
        elif getattr(value, "__module__", None) == "builtins" or isinstance(value, type):
            own = isinstance(value, type) and value.__module__ != "builtins"
            if not own and name not in _BLIND_BUILTINS:
                self.callee = self.callee or f"calls {name}()"
        elif type(value).__module__.partition(".")[0] not in ("sgen", "typing"):
            self.callee = self.callee or f"calls {name}()"


class _Code:
    """Reads one code object."""

    def __init__(
        self,
        reading: Reading,
        function: FunctionType,
        names: dict[str, Any],
        code: CodeType,
        *,
        inner: bool,
        outer: bool,
    ) -> None:
        self.reading = reading
        self.function = function
        self.names = names
        self.code = code
        self.inner = inner
        self.steps = [i for i in dis.get_instructions(code) if i.opname not in _SKIPPED]
        self.states = self._states() if outer else frozenset()

    def _states(self) -> frozenset[str]:
        """Variables that are states where something is added to them: the first parameter, and
        what only loops assign."""
        looped: set[str] = set()
        other: set[str] = set()
        source = ""
        for before, step in zip(self.steps, self.steps[1:], strict=False):
            if step.opname.startswith("STORE_") and isinstance(step.argval, str):
                if not before.opname.startswith("STORE_"):
                    source = before.opname
                loop = source in ("FOR_ITER", "UNPACK_SEQUENCE") or before.argrepr == "+="
                (looped if loop else other).add(step.argval)
        first = self.code.co_varnames[:1] if self.code.co_argcount else ()
        return frozenset((looped | set(first)) - other)

    def read(self) -> None:
        resolved: Any = _MISSING
        leaving = False  # between a with statement's __exit__ and the jump by its answer
        for at, step in enumerate(self.steps):
            before = self.steps[at - 1] if at else step
            name = step.opname
            resolved = self._resolve(step, resolved)
            self._unseen(name, step, before)
            self._text(at, name)
            leaving = leaving or name == "WITH_EXCEPT_START"
            if "IF_TRUE" in name or "IF_FALSE" in name:
                if not leaving and before.opname not in _DECIDED:
                    self._look("decides")
                leaving = False
            self._looking(at, step, before)

    def _resolve(self, step: dis.Instruction, base: Any) -> Any:
        """What the code names here, if it is there; a function is read."""
        name = step.argval
        value: Any = _MISSING
        if step.opname in _LOADS:
            tables = (self.names, self.function.__globals__, vars(builtins))
            value = next((t[name] for t in tables if name in t), _MISSING)
        elif step.opname in _ATTRIBUTES and isinstance(base, (ModuleType, type)):
            value = vars(base).get(name, _MISSING)
            value = value.__func__ if isinstance(value, staticmethod) else value
            ours = base.__name__.partition(".")[0] == "sgen"
            if not ours and not isinstance(value, (FunctionType, type)):
                self.reading.callee = self.reading.callee or f"uses .{name}"
        elif step.opname in _ATTRIBUTES and name not in _BLIND_ATTRIBUTES:
            self.reading.callee = self.reading.callee or f"uses .{name}"
        self.reading.found(value, str(name))
        return value

    def _unseen(self, name: str, step: dis.Instruction, before: dis.Instruction) -> None:
        found = self.reading.unseen
        if name in _OPS:
            found.append(_OPS[name])
        elif name.endswith("NONE") and name.startswith("POP_JUMP"):
            found.append("it compares with None")
        elif before.opname == "PUSH_EXC_INFO" and name == "POP_TOP":
            found.append(_OPS["CHECK_EXC_MATCH"])
        elif name in (*_LOADS, *_ATTRIBUTES):
            anyhow = name == "LOAD_GLOBAL" or step.argval == "suppress"
            if anyhow and step.argval in _NAMES:
                found.append(_NAMES[step.argval])

    def _text(self, at: int, name: str) -> None:
        """Where a text may be made of a value, and what becomes of it."""
        step, before = self.steps[at], self.steps[max(0, at - 1)]
        made = name in _FORMATS
        if name == "BINARY_OP" and step.argrepr in ("+", "+="):
            made = not _is_number(before)
        if name in _LOADS and step.argval == "str":
            self.reading.kept = True
        if name in _ATTRIBUTES and step.argval == "join":
            self.reading.kept = True
        if not made:
            return
        use = self._use(at)
        if use == "kept":
            self.reading.kept = True
        elif use == "passed":
            self.reading.passed = True

    def _use(self, at: int) -> str:
        """ "added" to a state, "passed" to a call, or "kept", of the text made at a step."""
        step = self.steps[at]
        if step.argrepr == "+=":
            target = self.steps[at + 1]
            added = target.opname.startswith("STORE_") and target.argval in self.states
            return "added" if added else "kept"
        above = 0
        for later in self.steps[at + 1 :]:
            pops = _pops(later)
            if pops is None:
                return "kept"
            if pops > above:
                if later.opname in _CALLS:
                    return "added" if self._is_message(later) else "passed"
                joins = later.opname in _FORMATS or later.argrepr in ("+", "+=")
                return "added" if joins else "kept"  # a text that it joins is judged there
            above += dis.stack_effect(later.opcode, later.arg, jump=False)
        return "kept"

    def _is_message(self, call: dis.Instruction) -> bool:
        """Whether it calls `s.user(text)` or the like: the method and its call start at one
        place of the source."""
        start = call.positions and (call.positions.lineno, call.positions.col_offset)
        for before, step in zip(self.steps, self.steps[1:], strict=False):
            here = step.positions and (step.positions.lineno, step.positions.col_offset)
            if start and None not in start and here == start and step.opname in _ATTRIBUTES:
                return before.argval in self.states and step.argval in _ROLES
        return False

    def _looking(self, at: int, step: dis.Instruction, before: dis.Instruction) -> None:
        name = step.opname
        if name in _LOOKS:
            self._look(_LOOKS[name])
        elif name == "IMPORT_FROM":
            self.reading.callee = self.reading.callee or f"imports {step.argval}"
        elif name == "COMPARE_OP":
            if not _is_number(before) and not (at > 1 and _is_number(self.steps[at - 2])):
                self._look("compares")
        elif name == "BINARY_SUBSCR":
            if before.opname != "LOAD_CONST" or isinstance(before.argval, slice):
                self._look("looks up")
        elif name == "BINARY_OP" and step.argrepr in ("%", "%=") and not _is_number(before):
            self._certain("formats with %")
        elif name in _ATTRIBUTES and step.argval in ("format", "format_map"):
            self._certain(f"formats with .{step.argval}")
        elif name == "FORMAT_WITH_SPEC" or (name == "FORMAT_VALUE" and (step.arg or 0) & 4):
            converted = name == "FORMAT_VALUE" and (step.arg or 0) & 3
            if converted or self._converted(at):
                self._certain("formats with a width")
            self._look("formats with a width")

    def _converted(self, at: int) -> bool:
        return any(s.opname == "CONVERT_VALUE" for s in self.steps[max(0, at - 4) : at])

    def _look(self, how: str) -> None:
        self.reading.looks = self.reading.looks or how
        if self.inner:
            self.reading.inner_looks = self.reading.inner_looks or how

    def _certain(self, how: str) -> None:
        self.reading.certain = self.reading.certain or how


def _is_number(step: dis.Instruction) -> bool:
    return step.opname == "LOAD_CONST" and isinstance(step.argval, (int, float))


def _pops(step: dis.Instruction) -> int | None:
    """How many values a step takes from the stack; None where that is not known here."""
    name, arg = step.opname, step.arg or 0
    if name in ("LOAD_FAST", "LOAD_CONST", "PUSH_NULL", "LOAD_CLOSURE", "COPY_FREE_VARS", *_LOADS):
        return 0
    if name == "BINARY_OP" or name in _DECIDED or name == "BINARY_SUBSCR":
        return 2
    if name in _ATTRIBUTES:
        return 1
    if name == "FORMAT_VALUE":
        return 2 if arg & 4 else 1
    if name in ("BUILD_STRING", "BUILD_TUPLE", "BUILD_LIST"):
        return arg
    return arg + 2 if name == "CALL" else None


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
