"""What a program writes to: a `State` is one branch of a run.

Nothing here waits for a model: every call adds nodes and returns at once, so what a program does
in one branch never holds up another.  Mistakes (a wrong parameter, messages that nest, a branch
that is over) are raised by the call that makes them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, get_args, overload

from typing_extensions import TypeForm

from sgen.errors import InvalidRequestError, ProgramError
from sgen.frontend import ir
from sgen.frontend.branches import Branches as Branches
from sgen.frontend.outputs import spec_of
from sgen.frontend.recording import Recording
from sgen.frontend.refs import Fragment, Generation, Ref
from sgen.frontend.sampling import Sampling, sampling_params
from sgen.frontend.specs import Spec
from sgen.frontend.symbols import Symbol, symbol_text
from sgen.frontend.values import Cell
from sgen.protocol import Role, SamplingParams

T = TypeVar("T")

Writable = str | Ref[Any] | Fragment


class State:
    """One branch: text, messages, generations and forks, in the order in which they are made."""

    def __init__(self, recording: Recording, branch: int, path: tuple[int, ...] = ()) -> None:
        self._recording = recording
        self._branch = branch
        self._path = path
        self._in_role: Role | None = None
        self._refs: dict[str, Ref[Any]] = {}
        self._counts: dict[str, int] = {}
        self._children = 0
        self._over = False

    # text and messages

    def __iadd__(self, text: Writable) -> Self:
        self._write(text)
        return self

    def system(self, text: Writable | None = None) -> Message:
        """A system message: whole, or `with s.system(): ...`."""
        return self._message("system", text)

    def user(self, text: Writable | None = None) -> Message:
        """A user message: whole, or `with s.user(): ...`."""
        return self._message("user", text)

    def assistant(self, text: Writable | None = None) -> Message:
        """An assistant message: whole, or `with s.assistant(): ...` to generate in it."""
        return self._message("assistant", text)

    @property
    def text(self) -> str:
        """The branch's transcript so far; in an async program all values in it must be there."""
        recording = self._recording
        if recording.tracing:
            raise recording.halted("it reads the text of a branch")
        executor, branch = recording.executor, self._branch
        if recording.on_loop:
            if not executor.idle(branch):
                raise ProgramError(
                    "this branch still generates", hint="await its values, then read its text"
                )
            return executor.text(branch)

        async def settled() -> str:
            await executor.settle([branch])
            return executor.text(branch)

        return recording.wait_for(settled)

    def _message(self, role: Role, text: Writable | None) -> Message:
        self._check()
        message = Message(self, role, whole=text is not None)
        if text is None:
            self._recording.unopened[self._branch] = role
        else:
            self._start_role(role)
            self._write(text)
            self._end_role()
        return message

    def _start_role(self, role: Role) -> None:
        if self._in_role is not None:
            raise ProgramError(
                f"a {role} message cannot start inside the {self._in_role} message",
                hint="end that one first (leave its with block, before a fork)",
            )
        self._recording.add(ir.RoleStart(self._branch, role))
        self._in_role = role

    def _end_role(self) -> None:
        self._recording.add(ir.RoleEnd(self._branch))
        self._in_role = None

    def _write(self, text: Any) -> None:
        self._check()
        if type(text) is Symbol:
            text = symbol_text(text)
        parts = text.parts if isinstance(text, Fragment) else (text,)
        for part in parts:
            if isinstance(part, Generation):
                part.start(self)
            elif isinstance(part, Ref):
                self._write_ref(part)
            elif isinstance(part, str):
                plain = "".join((part, ""))  # a StrEnum's member as the text that it is
                self._add_text(self._recording.pieces(plain))
            else:
                raise ProgramError(
                    f"text must be a str or a Ref, not {type(part).__name__}",
                    hint="write values in an f-string",
                )

    def _write_ref(self, ref: Ref[Any]) -> None:
        if ref._recording is self._recording:
            self._add_text((ir.Var(ref._var),))
        else:
            self._add_text(self._recording.pieces(str(ref)))

    def _add_text(self, pieces: tuple[ir.Piece, ...]) -> None:
        if pieces:
            self._recording.add(ir.Text(self._branch, pieces))

    # generation

    @overload
    def gen(
        self, spec: Spec[T], /, *, name: str | None = None, **params: Unpack[Sampling]
    ) -> Ref[T]: ...
    @overload
    def gen(
        self, type_: TypeForm[T], /, *, name: str | None = None, **params: Unpack[Sampling]
    ) -> Ref[T]: ...
    @overload
    def gen(self, /, *, name: str | None = None, **params: Unpack[Sampling]) -> Ref[str]: ...
    def gen(
        self, spec: Any = None, /, *, name: str | None = None, **params: Unpack[Sampling]
    ) -> Ref[Any]:
        """Generate text, or a value of a type, at this place.

        `spec` is a type (pydantic, msgspec, dataclass, TypedDict, Literal, Enum, list[...], ...)
        or a spec (`sgen.regex`, `json_schema`, `choices`, `grammar`); without one the text is
        free.  `params` are those of `Sampling`.  Constrained output is kept valid even where
        `max_tokens` ends it, and takes no stops; with finish="truncate" it may be cut, by these
        too, and its value is then an OutputError.
        """
        self._check()
        recording = self._recording
        for value in (spec, *params.values()):
            self._concrete(value, "a parameter of a generation")
        made = spec_of(spec)
        ordinal = self._count("generations")
        sampling = sampling_params(params, recording.options, self._path, ordinal)
        if made.grammar is not None:
            recording.refuse_marks(made.grammar.source, "a grammar")
            _refuse_stops(sampling)
        for stop in sampling.stop:
            recording.refuse_marks(stop, "a stop text")
        var, name = recording.new_var(), self._name(name, "gen")
        node = ir.Gen(
            branch=self._branch,
            var=var,
            name=name,
            params=sampling,
            grammar=made.grammar,
            value=made.value,
        )
        return self._bind(node, made.decode, made.is_text)

    def select(
        self, options: Sequence[T], *, by: ir.SelectBy = "tree", name: str | None = None
    ) -> Ref[T]:
        """The likeliest of the options (texts, or values that read as their `str`).

        "tree" walks the token trie of all options, so that length plays no part; "sum" and
        "mean" compare the options' own log-probabilities.
        """
        self._check()
        self._concrete(options, "the options of a select")
        if by not in get_args(ir.SelectBy):
            raise ProgramError(f"select has no by={by!r}; there are 'tree', 'mean' and 'sum'")
        values = _option_values(options)
        for text in values:
            self._recording.refuse_marks(text, "an option")
        var, name = self._recording.new_var(), self._name(name, "select")
        texts = tuple(values)
        node = ir.Select(branch=self._branch, var=var, name=name, options=texts, by=by)
        is_text = all(type(v) is str for v in values.values())
        return self._bind(node, values.__getitem__, is_text)

    def __getitem__(self, name: str) -> Ref[Any]:
        """The variable of this name, of this branch or (as of the fork) of those above."""
        if name not in self._refs:
            there = ", ".join(map(repr, self._refs)) or "none yet"
            raise ProgramError(f"no variable {name!r} here; there are: {there}")
        return self._refs[name]

    def _bind(
        self, node: ir.Gen | ir.Select, decode: Callable[[str], Any], is_text: bool
    ) -> Ref[Any]:
        cell = Cell()
        ref: Ref[Any] = Ref(self._recording, cell, node.var, node.name, is_text)
        self._recording.add(node, cell, decode)
        self._refs[node.name] = ref
        return ref

    def _name(self, name: str | None, kind: str) -> str:
        if name is None:
            return f"{kind}{self._count(kind) + 1}"
        if type(name) is not str or not ir.NAME.fullmatch(name):
            raise ProgramError(
                f"{name!r} cannot name a variable",
                hint="a name has up to 64 letters, digits, underscores, dashes and spaces",
            )
        return name

    def _count(self, what: str) -> int:
        number = self._counts.get(what, 0)
        self._counts[what] = number + 1
        return number

    # branches

    def fork(self, n: int) -> Branches:
        """`n` branches that start with all that is here.

        `async with s.fork(3) as branches:` (plain `with` in a plain `def`) waits for them in the
        end, or cancels them when it is left by an exception.
        """
        self._check()
        self._concrete(n, "the number of branches")
        if type(n) is not int or not 1 <= n <= ir.MAX_FORK:
            raise ProgramError(f"fork takes a number from 1 to {ir.MAX_FORK}, not {n!r}")
        if len(self._path) >= ir.MAX_DEPTH:
            raise ProgramError(f"forks nest deeper than {ir.MAX_DEPTH}")
        ids = self._recording.new_branches(n)
        self._recording.add(ir.Fork(self._branch, ids))
        states = [self._child(branch) for branch in ids]
        return Branches(self, ids, states)

    def _child(self, branch: int) -> State:
        child = State(self._recording, branch, (*self._path, self._children))
        child._in_role = self._in_role
        child._refs = dict(self._refs)
        child._counts = dict(self._counts)
        self._children += 1
        return child

    def _concrete(self, value: object, what: str) -> None:
        if type(value) is Symbol:
            raise self._recording.halted(f"{what} depends on a value")

    def _check(self) -> None:
        """Raise unless this branch can go on."""
        self._recording.check_open()
        if self._over:
            raise ProgramError("this branch has been joined, nothing can follow in it")
        self._recording.check_messages(self._branch)


class Message:
    """A message of a role; `with` keeps it open for its block."""

    def __init__(self, state: State, role: Role, *, whole: bool) -> None:
        self.role = role
        self._state = state
        self._whole = whole

    def __enter__(self) -> None:
        if self._whole:
            raise ProgramError(
                f"s.{self.role}(text) is a whole message",
                hint="put the text into the block: with s.assistant(): s += text",
            )
        self._state._recording.unopened.pop(self._state._branch, None)
        self._state._start_role(self.role)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._state._check()
            self._state._end_role()
        elif self._state._recording.is_open:
            self._state._end_role()  # the error may be caught further up


def _refuse_stops(params: SamplingParams) -> None:
    """A stop could end constrained output where it is not valid yet."""
    param = "stop" if params.stop else "stop_token_ids"
    if params.finish == "valid" and (params.stop or params.stop_token_ids):
        raise InvalidRequestError(
            f"{param} could end the output before its grammar does",
            param=param,
            hint="put the stop into the grammar, or take finish='truncate'",
        )


def _option_values(options: Sequence[Any]) -> dict[str, Any]:
    """The options by their texts."""
    if isinstance(options, str):
        raise ProgramError("select takes a list of options, not one text")
    values: dict[str, Any] = {}
    for option in options:
        plain = option.value if isinstance(option, enum.Enum) else option
        if isinstance(plain, Ref):
            raise ProgramError("a Ref cannot be an option", hint="await it, and use its value")
        text = str(plain)
        if not text or text in values:
            raise ProgramError(f"two options are the same, or one is empty: {option!r}")
        values[text] = option
    if len(values) > ir.MAX_OPTIONS:
        raise ProgramError(f"a select has at most {ir.MAX_OPTIONS} options, not {len(values)}")
    if not values:
        raise ProgramError("a select needs at least one option")
    return values
