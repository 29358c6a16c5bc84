"""What /v1/programs and /v1/grammars/check read and write.

A program's events are those of `frontend.events`, each with its branch's path: [] is the root,
[2] the root's third child counted over all of its forks.  Values and results are JSON as the
model wrote it: no number loses a digit.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from sgen.frontend import ir
from sgen.frontend.events import Event, Run, TokenWay
from sgen.protocol import Usage
from sgen.server.errors import APIError

Path = tuple[int, ...]


class ProgramBody(msgspec.Struct, frozen=True, kw_only=True):
    """`args` has a value for each of the program's `params`."""

    program: ir.Program
    args: dict[str, Any] = {}
    stream: bool = True
    model: str | None = None
    cache_salt: str = ""


class TextWritten(msgspec.Struct, frozen=True, tag="text"):
    """Text that the program wrote."""

    branch: Path
    delta: str


class RoleWritten(msgspec.Struct, frozen=True, tag="role"):
    """A message begins with `role`, or ends (null); `delta` is what the transcript shows."""

    branch: Path
    role: str | None
    delta: str


class VarStart(msgspec.Struct, frozen=True, tag="var.start"):
    branch: Path
    name: str


class VarDelta(msgspec.Struct, frozen=True, tag="var.delta"):
    """Generated text, and how each of its tokens came; an option that was selected has none."""

    branch: Path
    name: str
    delta: str
    tokens: tuple[TokenWay, ...]


class VarEnd(msgspec.Struct, frozen=True, tag="var.end"):
    branch: Path
    name: str
    value: Any
    usage: Usage


class Forked(msgspec.Struct, frozen=True, tag="fork"):
    branch: Path
    branches: tuple[Path, ...]


class Joined(msgspec.Struct, frozen=True, tag="join"):
    branch: Path
    branches: tuple[Path, ...]


class Cancelled(msgspec.Struct, frozen=True, tag="cancel"):
    """`name` is null where all of the branch was cancelled."""

    branch: Path
    name: str | None


class Failed(msgspec.Struct, frozen=True, tag="error"):
    """What went wrong in a branch, or (the last event of its stream, root and no name) for the
    run."""

    branch: Path
    name: str | None
    error: dict[str, Any]


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The last event; without a stream, the whole answer.  `usage` sums all generations."""

    result: Any
    text: str
    vars: dict[str, Any]
    usage: Usage
    seconds: float


ProgramEvent = (
    TextWritten
    | RoleWritten
    | VarStart
    | VarDelta
    | VarEnd
    | Forked
    | Joined
    | Cancelled
    | Failed
    | Done
)


def as_done(run: Run[Any]) -> Done:
    """The run's answer."""
    return Done(run.output, run.text, run.vars, run.usage, run.seconds)


def as_wire(event: Event, error: APIError | None = None) -> ProgramEvent:
    """The event as a client gets it; `error` is what its exception says."""
    branch, name = event.branch, event.name or ""
    match event.kind:
        case "text":
            return TextWritten(branch, event.delta)
        case "role":
            return RoleWritten(branch, event.name, event.delta)
        case "var.start":
            return VarStart(branch, name)
        case "var.delta":
            return VarDelta(branch, name, event.delta, event.tokens)
        case "var.end":
            return VarEnd(branch, name, event.value, event.usage or Usage())
        case "fork":
            return Forked(branch, event.value)
        case "join":
            return Joined(branch, event.value)
        case "cancel":
            return Cancelled(branch, event.name)
        case "error":
            assert error is not None
            return Failed(branch, event.name, error.body()["error"])
        case "done":
            return as_done(event.value)


def sse_bytes(event: ProgramEvent) -> bytes:
    """One server-sent event, named by its type."""
    # A line break can stand in the JSON only as white space that the model wrote between values.
    data = msgspec.json.encode(event).replace(b"\r", b" ").replace(b"\n", b" ")
    return b"event: %s\ndata: %s\n\n" % (str(event.__struct_config__.tag).encode(), data)


class GrammarBody(msgspec.Struct, frozen=True, kw_only=True):
    """As `GrammarSpec`."""

    kind: Literal["regex", "json_schema", "choices", "lark", "gbnf", "structural_tag"]
    source: str
    whitespace: Literal["compact", "pretty", "any"] = "compact"
    order: Literal["schema", "relaxed", "any"] = "schema"
    unknown: Literal["refuse", "note"] = "refuse"


class Refusal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a grammar is refused; `line` and `column`, from 1, are where in the source."""

    message: str
    keyword: str = ""
    hint: str = ""
    pointer: str | None = None
    line: int | None = None
    column: int | None = None


class GrammarAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`min_tokens` of a shortest output, where it is ok."""

    ok: bool
    min_tokens: int | None = None
    error: Refusal | None = None
