"""What comes of compiling a grammar, and how it crosses from one process to another.

Messages are MessagePack, each behind its length in four bytes.
"""

from __future__ import annotations

import logging
import socket
import struct
import time

import msgspec

from sgen.errors import GrammarError
from sgen.grammars.compile import compile_grammar
from sgen.protocol import GrammarSpec

HELLO = b"sgen compiles"
"""What a worker sends first, when it is ready."""

_LENGTH = struct.Struct(">I")
_MOST_AT_ONCE = 1 << 16
_log = logging.getLogger(__name__)


class Compiled(msgspec.Struct, frozen=True, tag=True):
    """A grammar: its plan (see plan.py), and what its source says that is not enforced."""

    plan: bytes
    notes: tuple[str, ...]


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The parts of a GrammarError.  Unless it is `lasting`, the next try may end differently."""

    message: str
    keyword: str
    pointer: str | None = None
    position: int | None = None
    hint: str = ""
    lasting: bool = True

    def error(self) -> GrammarError:
        """It again; the message has the place in it."""
        error = GrammarError(self.message, keyword=self.keyword, hint=self.hint)
        error.pointer, error.position = self.pointer, self.position
        return error


Outcome = Compiled | Refused

OUT_OF_MEMORY = Refused(
    "the grammar takes too much memory to compile",
    "memory",
    hint="use fewer or simpler constraints, or split it into several grammars",
    lasting=False,
)


class Answer(msgspec.Struct, frozen=True):
    """`worn`: the worker has so much memory in use that it had better be replaced."""

    outcome: Outcome
    worn: bool


def outcome_of(spec: GrammarSpec) -> Outcome:
    """Compile it; whatever goes wrong is a refusal."""
    try:
        grammar = compile_grammar(spec)
        return Compiled(grammar.plan.pack(), tuple(grammar.notes))
    except GrammarError as error:
        return Refused(error.message, error.keyword, error.pointer, error.position, error.hint)
    except MemoryError:
        return OUT_OF_MEMORY
    except Exception as error:  # a mistake of ours must let no grammar through, and end nobody else
        _log.exception("compiling a grammar failed")
        name = type(error).__name__
        message = f"the grammar cannot be compiled: {name}: {error}"
        return Refused(message, "internal", lasting=False)


def send(to: socket.socket, message: bytes) -> None:
    to.sendall(_LENGTH.pack(len(message)) + message)


def receive(source: socket.socket, deadline: float | None = None) -> bytes | None:
    """The next message; None at the end.  Nobody sends another before it was answered.

    TimeoutError once `time.monotonic()` is past the deadline; ConnectionError where the end comes
    inside a message.
    """
    data, size = bytearray(), _LENGTH.size
    while len(data) < size:
        if deadline is not None:
            source.settimeout(max(deadline - time.monotonic(), 1e-6))
        part = source.recv(_MOST_AT_ONCE)
        if not part:
            if data:
                raise ConnectionError("the connection ended inside a message")
            return None
        data += part
        if size == _LENGTH.size <= len(data):
            size += _LENGTH.unpack_from(data)[0]
    return bytes(memoryview(data)[_LENGTH.size :])
