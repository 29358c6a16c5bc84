"""Names for values that do not exist yet.

A `Ref` is what `gen` and `select` return.  It can be put into text at once (`s += ref`, f-strings,
`"A: " + ref`); its value is read with `await ref`, or `ref.value` in a program written with plain
`def`.  Using a Ref itself in Python logic (`if ref:`, `ref == "x"`) is always a ProgramError,
whether its value happens to be there or not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sgen.errors import ProgramError
from sgen.frontend import ir
from sgen.frontend.markers import poisoned
from sgen.frontend.recording import CURRENT, Recording
from sgen.frontend.symbols import Symbol, symbol_text
from sgen.frontend.values import Cell, Outcome
from sgen.protocol import FinishReason, TokenLogprob

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Ref(Generic[T_co]):
    """The value of a generation or a select, now or later."""

    __slots__ = ("_cell", "_is_text", "_recording", "_var", "name")

    def __init__(self, recording: Recording, cell: Cell, var: int, name: str, is_text: bool):
        self._recording = recording
        self._cell = cell
        self._var = var
        self._is_text = is_text
        self.name = name

    # the value

    def __await__(self) -> Generator[Any, None, T_co]:
        if self._recording.tracing:
            symbol: T_co = self._symbol()
            return symbol
        outcome = yield from self._cell.__await__()
        value: T_co = outcome.value
        return value

    @property
    def value(self) -> T_co:
        """The value; blocks until it is there.  For programs written with plain `def`, and for
        when the run is over.  Raises what went wrong with the generation."""
        if self._recording.tracing:
            value: T_co = self._symbol()
        else:
            value = self._read("value").value
        return value

    @property
    def text(self) -> str:
        """The generated text, as it stands in the transcript; blocks like `value`.

        It is there even where the value is not: after an OutputError it is what was generated.
        """
        if self._recording.tracing:
            text: str = self._text_symbol()
        elif self._cell.finished:
            text = self._cell.text
        else:
            text = self._read("text").text
        return text

    @property
    def finish_reason(self) -> FinishReason:
        """Why generation ended: "stop", or "length" at max_tokens or the context's end."""
        return self._read("finish_reason").finish_reason

    @property
    def scores(self) -> Mapping[Any, float]:
        """Each option's score, of a select: probabilities by "tree", else log-probabilities."""
        scores = self._read("scores").scores
        if scores is None:
            raise ProgramError(f"{self.name!r} is no select, it has no scores")
        return scores

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        """The generated tokens' log-probabilities, if `logprobs` was asked for."""
        return self._read("logprobs").logprobs

    def partials(self) -> AsyncIterator[str]:
        """Pieces of the text as they are generated; together they are the text."""
        self._no_trace("streams")
        return self._cell.stream()

    def cancel(self) -> None:
        """Stop the generation; nothing happens if it is over."""
        self._no_trace("cancels")
        self._recording.post(self._recording.executor.cancel, self._cell)

    @property
    def done(self) -> bool:
        """Whether the value is there, or will never come."""
        self._no_trace("asks whether it is done:")
        return self._cell.finished

    def _read(self, what: str) -> Outcome:
        self._no_trace(f"reads the {what} of")
        if not self._cell.finished and self._recording.on_loop:
            raise ProgramError(
                f"{self.name!r} has no {what} yet, and waiting here would block the program's "
                "event loop",
                hint=f"await the ref first; .{what} waits only in programs written with plain def",
            )
        return self._cell.block()

    def _no_trace(self, how: str) -> None:
        if self._recording.tracing:
            raise self._recording.halted(f"it {how} {self.name!r}")

    def _symbol(self) -> Any:
        piece = ir.Var(self._var) if self._is_text else None
        what = f"the value of {self.name!r}"
        return Symbol(self._recording, what, piece, ir.ValueOf(self._var))

    def _text_symbol(self) -> Any:
        return Symbol(self._recording, f"the text of {self.name!r}", ir.Var(self._var))

    # in text

    def __str__(self) -> str:
        if self._cell.succeeded:
            return self._cell.text
        if self._cell.finished:
            self._cell.outcome()  # raises what went wrong
        if CURRENT.get() not in (None, self._recording):
            raise ProgramError(f"{self.name!r} belongs to another run, and has no value yet")
        self._recording.check_open()
        return self._recording.markers.mark("v", self._var)

    def __format__(self, spec: str) -> str:
        if spec:
            raise self._misuse(f"the format {spec!r}")
        return str(self)

    def __repr__(self) -> str:
        if self._recording.tracing:
            raise self._recording.halted(f"it takes the repr of {self.name!r}")
        state = repr(self._cell.text) if self._cell.succeeded else "no value"
        return poisoned(f"<Ref {self.name!r}: {state}>")

    def __add__(self, other: str | Ref[Any] | Fragment) -> Fragment:
        if not isinstance(other, str | Ref | Fragment):
            raise self._misuse("arithmetic")
        return Fragment((self,)) + other

    def __radd__(self, other: str) -> Fragment:
        if not isinstance(other, str):
            raise self._misuse("arithmetic")
        return other + Fragment((self,))

    # not in logic

    def _misuse(self, what: str) -> ProgramError:
        return ProgramError(
            f"{what} needs the value of {self.name!r}, and a Ref only stands for it",
            hint="await it (or read .value in a program written with plain def) and use that",
        )

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Ref):
            return self is other
        raise self._misuse("a comparison")

    def __bool__(self) -> bool:
        raise self._misuse("a condition")

    if not TYPE_CHECKING:  # a type checker refuses these by itself

        def __getattr__(self, name):
            if name.startswith("_"):  # what Python and its libraries ask of any object
                raise AttributeError(name)
            raise self._misuse(f".{name}")

        def __lt__(self, other):
            raise self._misuse("a comparison")

        __le__ = __gt__ = __ge__ = __lt__

        def __len__(self):
            raise self._misuse("len()")

        def __iter__(self):
            raise self._misuse("iteration")

        def __contains__(self, item):
            raise self._misuse("in")

        def __getitem__(self, key):
            raise self._misuse("indexing")

        def __int__(self):
            raise self._misuse("int()")

        __index__ = __int__

        def __float__(self):
            raise self._misuse("float()")


@dataclass(frozen=True)
class Generation:
    """A gen or select that waits for its place in a text."""

    start: Callable[[Any], Ref[Any]]  # takes the State


Part = str | Ref[Any] | Generation


class Fragment:
    """Text put together of strings, refs, and gen and select expressions; `s += fragment`."""

    __slots__ = ("parts",)

    def __init__(self, parts: tuple[Part, ...]) -> None:
        self.parts = parts

    def __add__(self, other: str | Ref[Any] | Fragment) -> Fragment:
        more = _parts(other)
        return NotImplemented if more is None else Fragment(self.parts + more)

    def __radd__(self, other: str) -> Fragment:
        more = _parts(other)
        return NotImplemented if more is None else Fragment(more + self.parts)

    def __str__(self) -> str:
        for part in self.parts:
            if type(part) is Generation:
                raise ProgramError(
                    "gen and select expressions cannot stand in an f-string",
                    hint='join them with +, as in s += "A: " + sgen.gen("a")',
                )
        return "".join(str(p) for p in self.parts)

    def __bool__(self) -> bool:
        return True


def _parts(value: object) -> tuple[Part, ...] | None:
    if type(value) is Fragment:
        return value.parts
    if type(value) is Symbol:
        return (symbol_text(value),)
    return (value,) if isinstance(value, (str, Ref)) else None


class Later(Generic[T]):
    """What `gather`, `join` and sub-programs return: await it, or read `.value` in a program
    written with plain `def`."""

    __slots__ = ("_make", "_recording")

    def __init__(self, recording: Recording, make: Callable[[], Awaitable[T]]) -> None:
        self._recording = recording
        self._make = make

    def __await__(self) -> Generator[Any, None, T]:
        return self._make().__await__()

    @property
    def value(self) -> T:
        """The value; blocks until it is there."""
        return self._recording.wait_for(self._make)
