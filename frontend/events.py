"""What a run shows: events while it goes on, spans and a `Run` when it is over.

The deltas of a branch's events, put together, are the branch's text; the root branch's text is
`Run.text`.  A branch is named by its path: () is the root, (2,) the root's third child counted
over all of its forks, (2, 0) that one's first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from sgen.protocol import Role, Usage

R = TypeVar("R")

EventKind = Literal[
    "text",  # delta: text that the program wrote
    "role",  # name: the role; delta: the heading of a message, or the line's end that closes it
    "var.start",  # name
    "var.delta",  # name; delta: generated text; tokens: how each of its tokens came
    "var.end",  # name; value; usage: of this generation
    "fork",  # value: the paths of the new branches
    "join",  # value: the paths of the branches that are done
    "cancel",  # name, or None for a whole branch
    "error",  # name, or None for the run; value: the exception
    "done",  # value: the Run
]


TokenWay = Literal[
    "sampled",  # of all tokens
    "masked",  # of those that a grammar allowed
    "forced",  # a grammar allowed no other
]


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened in a branch; which fields tell more depends on the kind."""

    kind: EventKind
    branch: tuple[int, ...] = ()
    name: str | None = None
    delta: str = ""
    value: Any = None
    tokens: tuple[TokenWay, ...] = ()
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of the transcript.  `constrained` text came through a grammar or a select."""

    kind: Literal["text", "role", "generated"]
    text: str
    branch: tuple[int, ...] = ()
    name: str | None = None
    constrained: bool = False


@dataclass(frozen=True, slots=True)
class Run(Generic[R]):
    """A program that ran.

    `text` is the root branch's transcript, `spans` are those of all branches (a branch's after
    its parent's).  `vars` has each variable's value by name; a branch's variables have its path
    in front ("2.0.name").  `usage` sums the generations; `seconds` is wall time.
    """

    output: R
    text: str
    vars: dict[str, Any] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    spans: tuple[Span, ...] = ()
    seconds: float = 0.0


def role_heading(role: Role) -> str:
    """How a transcript shows the start of a message (a model sees its own chat template)."""
    return f"{role}: "


ROLE_END = "\n"
"""How a transcript shows the end of a message."""


def variable_key(branch: tuple[int, ...], name: str) -> str:
    """The variable's key in `Run.vars`."""
    return ".".join([*map(str, branch), name])
