"""A branch while it is executed, and what becomes of one node's answer.

The prompt of a lane is canonical: neighbouring texts are one part, and generated tokens are kept
as they were.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from sgen.errors import OutputError
from sgen.frontend import ir
from sgen.frontend.events import Span, TokenWay
from sgen.frontend.specs import as_text
from sgen.frontend.values import Cell, Failure
from sgen.grammars.compile import compile_grammar
from sgen.protocol import Chunk, GrammarSpec, OptionScore, PromptPart, Text, Tokens

Decode = Callable[[str], Any]


@dataclass(slots=True)
class Work:
    """A node to run; a Gen or Select has the cell to bind and the way to its value."""

    node: ir.Node
    cell: Cell | None = None
    decode: Decode = as_text


@dataclass(eq=False)
class Lane:
    """A branch: what its prompt is so far, what is to be done, and what stopped it."""

    path: tuple[int, ...]
    born: bool
    parts: list[PromptPart] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    inherited: str = ""
    queue: deque[Work] = field(default_factory=deque)
    current: Cell | None = None
    task: asyncio.Task[None] | None = None
    failure: Failure | None = None
    children: list[Lane] = field(default_factory=list)

    @property
    def busy(self) -> bool:
        """Whether something that was fed is not done."""
        return self.task is not None or bool(self.queue) or not self.born

    @property
    def text(self) -> str:
        """The transcript, with what came from the parent."""
        return self.inherited + "".join(s.text for s in self.spans)

    def append_text(self, text: str) -> None:
        """Neighbouring texts are one part: tokens do not depend on how a program cut its text."""
        last = self.parts[-1] if self.parts else None
        if isinstance(last, Text):
            self.parts[-1] = Text(last.text + text)
        elif text:
            self.parts.append(Text(text))

    def append_output(self, ids: list[int], text: str, stop: str | None) -> None:
        """Keep the tokens as they were generated.  A stop text is not part of the output but of
        its last tokens, so an output that it ended is kept as text."""
        if stop is None and ids:
            self.parts.append(Tokens(tuple(ids), text))
        else:
            self.append_text(text)

    def family(self) -> Iterable[Lane]:
        """The lane and all below it, each after its parent."""
        yield self
        for child in self.children:
            yield from child.family()


class Dependency(Exception):  # noqa: N818  (it is no error of its own)
    """A node reads a variable that failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__()
        self.failure = failure


def default_decode(node: ir.Gen | ir.Select) -> Decode:
    """The way to a value that needs no Python types."""
    return json.loads if isinstance(node, ir.Gen) and node.value == "json" else as_text


def option_score(score: OptionScore, by: ir.SelectBy) -> float:
    """An option's score; more is likelier."""
    if by == "tree":
        return score.tree
    total = sum(score.logprobs)
    return total if by == "sum" else total / max(1, len(score.logprobs))


def token_ways(chunk: Chunk, *, constrained: bool) -> tuple[TokenWay, ...]:
    """How each of the chunk's tokens came."""
    free: TokenWay = "masked" if constrained else "sampled"
    forced = frozenset(chunk.forced)
    return tuple(["forced" if i in forced else free for i in range(len(chunk.token_ids))])


def gen_value(node: ir.Gen, text: str, last: Chunk, decode: Decode) -> Any:
    """The value of a generation that ended with the chunk `last`; OutputError if it has none."""
    if node.grammar is None:
        return text
    if last.finish_reason == "length" and node.params.finish == "truncate":
        raise OutputError(
            f"the output was cut at max_tokens={node.params.max_tokens}: {text!r}",
            text=text,
            hint="allow more tokens, or leave finish='valid', which closes the output in time",
        )
    if last.stop is not None or (node.params.stop_token_ids and not _complete(node.grammar, text)):
        by = "a stop token" if last.stop is None else f"the stop {last.stop!r}"
        raise OutputError(
            f"the output was cut by {by}: {text!r}",
            text=text,
            hint="put the stop into the grammar, and take it from stop",
        )
    try:
        return decode(text)
    except Exception as error:  # a type's own validators may raise anything
        message = f"the output does not fit its type: {error}; it is {text!r}"
        raise OutputError(message, text=text) from error


def _complete(grammar: GrammarSpec, text: str) -> bool:
    """Whether the text is one of the grammar's; a chunk does not tell of a stop token."""
    return compile_grammar(grammar).matches(text.encode())
