"""What the HTTP process and the engine process say to each other, and how it is framed.

A frame is the length of its body (4 bytes, little-endian) and the body, one msgpack message of a
tagged type below.  Nothing else is understood: a frame that is too large, or no such message, ends
the connection (`LinkError`), since what follows could not be trusted.  Calls are numbered by the
HTTP process, which never uses a number twice; every call but `Cancel` and `Withdraw` is
answered by messages of its number, the last of which ends it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Literal, TypeVar

import msgspec

from sgen import errors
from sgen.errors import SgenError
from sgen.protocol import (
    Chunk,
    GenerateRequest,
    GrammarSpec,
    ModelInfo,
    PromptPart,
    ScoreRequest,
    Scores,
)
from sgen.runtime.stats import EngineStats

FRAME_BYTES = 64 << 20
"""Of one message's body: many times what a request's body may have."""

_LENGTH = struct.Struct("<I")

T = TypeVar("T")


class LinkError(Exception):
    """The other side sent what is no message."""


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True, tag="options"):
    """How an engine is made, the first message to its process.  None: as the engine has it.

    `cache_tokens` is the size of the KV cache.  The rest are fields of Compute, of the scheduler's
    Limits and of CompileLimits, which are not imported here: they come with torch.
    `unknown_keywords` of schemas, which no draft defines: refused, or annotations.
    """

    model: str | None = None  # the embedded one
    cache_tokens: int | None = None
    path: str = "auto"
    threads: int | None = None
    kv_cache_dtype: str | None = None
    deterministic: bool = False
    max_running: int | None = None
    max_batch_tokens: int | None = None
    prefill_chunk: int | None = None
    compile_seconds: float | None = None
    compile_megabytes: int | None = None
    compile_workers: int | None = None
    unknown_keywords: Literal["refuse", "note"] = "refuse"


class Extend(msgspec.Struct, frozen=True, tag="extend"):
    """Answered by chunks, or by Failed."""

    call: int
    request: GenerateRequest


class Score(msgspec.Struct, frozen=True, tag="score"):
    call: int
    request: ScoreRequest


class Withdraw(msgspec.Struct, frozen=True, tag="withdraw"):
    """Nobody waits for that call any more."""

    call: int


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """End the requests of that id; their callers hear of it."""

    request_id: str


class Tokenize(msgspec.Struct, frozen=True, tag="tokenize"):
    call: int
    prompt: tuple[PromptPart, ...]


class Detokenize(msgspec.Struct, frozen=True, tag="detokenize"):
    call: int
    ids: tuple[int, ...]


class Render(msgspec.Struct, frozen=True, tag="render"):
    call: int
    prompt: tuple[PromptPart, ...]


class Check(msgspec.Struct, frozen=True, tag="check"):
    call: int
    grammar: GrammarSpec


class Stats(msgspec.Struct, frozen=True, tag="stats"):
    call: int


Question = Tokenize | Detokenize | Render | Check
"""Calls that one answer ends, and that may take a while."""

Command = EngineOptions | Extend | Score | Withdraw | Cancel | Stats | Question


class Loading(msgspec.Struct, frozen=True, tag="loading"):
    """How far it is: the stage's name, what is done of it, and all of it."""

    stage: str
    done: int
    total: int


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    info: ModelInfo


class Failure(msgspec.Struct, frozen=True):
    """An error of sgen's own: its class, its texts, and the rest of its attributes."""

    kind: str
    message: str
    hint: str = ""
    details: dict[str, str | int | None] = {}


class NotLoaded(msgspec.Struct, frozen=True, tag="not_loaded"):
    """There will be no engine; the process ends."""

    failure: Failure


class Chunks(msgspec.Struct, frozen=True, tag="chunks"):
    """What a step, or several, gave to all requests, by calls."""

    items: list[tuple[int, Chunk]]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    call: int
    failure: Failure


class Scored(msgspec.Struct, frozen=True, tag="scored"):
    call: int
    value: Scores


class Tokenized(msgspec.Struct, frozen=True, tag="tokenized"):
    call: int
    value: list[int]


class Written(msgspec.Struct, frozen=True, tag="written"):
    """The text of tokens, or of a rendered prompt."""

    call: int
    value: str


class Checked(msgspec.Struct, frozen=True, tag="checked"):
    call: int
    value: int


class Counted(msgspec.Struct, frozen=True, tag="counted"):
    call: int
    value: EngineStats


Answer = Scored | Tokenized | Written | Checked | Counted
News = Loading | Ready | NotLoaded | Chunks | Failed | Answer


_KINDS = {
    kind.__name__: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, SgenError)
}


def failure_of(error: SgenError) -> Failure:
    """An error as a message; its cause stays where it was."""
    details = {k: v for k, v in vars(error).items() if isinstance(v, str | int | None)}
    del details["message"], details["hint"]
    kind = next(k.__name__ for k in type(error).__mro__ if k.__name__ in _KINDS)
    return Failure(kind, error.message, error.hint, details)


def error_of(failure: Failure) -> SgenError:
    """The same error again: its class, its text, its attributes."""
    error = _KINDS.get(failure.kind, SgenError)(failure.message, hint=failure.hint)
    for name in vars(error).keys() & failure.details.keys():  # no others: it is the same class
        setattr(error, name, failure.details[name])
    return error


_encoder = msgspec.msgpack.Encoder()


def frame(message: Command | News) -> bytearray:
    """A message ready to be sent.  LinkError if it is larger than the other side would take, has a
    text that is not Unicode, or a number of more than 64 bits."""
    body = bytearray(_LENGTH.size)
    try:
        _encoder.encode_into(message, body, _LENGTH.size)
    except (UnicodeEncodeError, OverflowError) as error:
        raise LinkError(f"it cannot be sent: {error}") from None
    size = len(body) - _LENGTH.size
    if size > FRAME_BYTES:
        raise LinkError(f"a message of {size:,} bytes is too large")
    _LENGTH.pack_into(body, 0, size)
    return body


class Frames:
    """Bytes as they come, cut into the bodies of frames."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bodies that are complete.  LinkError as soon as a frame says that it is too large."""
        self._bytes += data
        start = 0
        while len(self._bytes) - start >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._bytes, start)
            if size > FRAME_BYTES:
                raise LinkError(f"a frame of {size:,} bytes is too large")
            end = start + _LENGTH.size + size
            if len(self._bytes) < end:
                break
            yield bytes(memoryview(self._bytes)[start + _LENGTH.size : end])
            start = end
        del self._bytes[:start]


_commands: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_news: msgspec.msgpack.Decoder[News] = msgspec.msgpack.Decoder(News)


def command_of(body: bytes) -> Command:
    """LinkError if it is none."""
    return _decoded(_commands, body)


def news_of(body: bytes) -> News:
    """LinkError if it is none."""
    return _decoded(_news, body)


def _decoded(decoder: msgspec.msgpack.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, SgenError) as error:
        raise LinkError(f"no message: {error}") from error
