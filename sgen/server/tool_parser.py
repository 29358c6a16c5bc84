"""From an output to what it says: reasoning, content and calls, while it comes.

The reverse of tool_grammar.py: what that grammar admits is understood to the last character, also
where it is cut.  Events never hold markup, not even the beginning of a marker, so text that may
become one waits for what follows.  How the text is cut into chunks changes only how the events are
cut.
"""

from __future__ import annotations

import json
import re
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

from sgen.errors import CancelledError, SgenError
from sgen.protocol import Chunk, ModelInfo, TokenLogprob, ToolFormat, Usage
from sgen.server.events import (
    ContentDelta,
    Finished,
    GenerationEvent,
    Job,
    ReasoningDelta,
    ToolCallDelta,
    ToolCallStart,
)
from sgen.server.reasoning import markers_of
from sgen.server.tool_grammar import PYTHON_TAG, call_markers, callable_tools

_NAME = r'\{"name": ("(?:[^"\\]|\\.)*"), '
_HEADS: dict[ToolFormat, re.Pattern[str]] = {
    "hermes": re.compile(
        r"(?:(?:\}\n</tool_call>\n)?<tool_call>\n|```json\n)?"
        r'\{\s*"name": ("(?:[^"\\]|\\.)*"),\s*"arguments": '
    ),
    "json": re.compile(rf'(?:\[|\}}, ){_NAME}"arguments": '),
    "mistral": re.compile(rf'(?:\[TOOL_CALLS\] ?\[|\}}, ){_NAME}"arguments": '),
    "llama3": re.compile(rf'(?:{re.escape(PYTHON_TAG)})?{_NAME}"parameters": '),
}
"""All that stands before the arguments of a call, from those of the call before it on."""

_Read = Callable[[str], list[GenerationEvent]]
"""A state: it reads a text, and says what it says."""

_SHORT = 3
"""Characters that a text may well end with though calls begin so, as those of a code fence."""

_ROOM = 128
"""Tokens; with more of them left it was not for the room that a call ended as it began."""

_SIGNS = re.compile(r'["\\{}\[\]]')


class OutputParser:
    """The events of one choice, chunk by chunk."""

    def __init__(self, info: ModelInfo, job: Job, choice: int) -> None:
        self._choice = choice
        self._limit = job.params.max_tokens
        self._context = info.context_length
        self._tokens = 0  # in chunks; what ended the output is not among them
        self._held = ""  # text that may be the beginning of something
        self._call = -1  # the number of the last call
        self._dangles = False  # a call began at the end, and was left out
        self._complete = 0  # calls whose arguments came to their end
        self._value = _Value()
        self._head = _HEADS[info.tool_format]
        self._logprobs = Logprobs() if job.params.logprobs is not None else None
        tools = callable_tools(job)
        mode = job.tool_choice.mode if tools else "none"
        self._free = mode == "auto" and job.grammar is None  # any text, in which calls may begin
        self._calls = _Words(call_markers(job, info) if mode == "auto" else ())
        self._after: _Read = self._content  # the state behind reasoning
        if mode == "required":
            self._after = self._find_call
        elif mode == "auto":
            self._after = self._text if self._free else self._content_or_call
        self._read: _Read = self._after
        markers = markers_of(job.prompt, info) if job.split_reasoning else None
        self._plain = mode == "none" and markers is None
        if markers is not None:
            self._begins = markers.begin
            self._ends = _Words((markers.end,))
            self._read = self._first_reasoning if markers.open else self._maybe_reasoning

    def feed(self, chunk: Chunk) -> list[GenerationEvent]:
        """The events of a chunk; those of the last one end with Finished.

        CancelledError and SgenError for an output that came to no end of its own.
        """
        if self._plain:  # as most chunks are: nothing to look for
            events: list[GenerationEvent] = (
                [ContentDelta(self._choice, chunk.text, chunk.logprobs)]
                if chunk.text or chunk.logprobs
                else []
            )
            return events if chunk.finish_reason is None else [*events, self._finished(chunk)]
        self._tokens += len(chunk.token_ids)
        if self._logprobs is not None:
            self._logprobs.add(chunk.text, chunk.logprobs)
        events = self._read(self._held + chunk.text) if chunk.text else []
        if chunk.finish_reason is None:
            return events
        if self._has_no_room(chunk):
            self._dangles, self._held = True, ""
        return [*events, *self._flush(), self._finished(chunk)]

    # Each of these reads a text in one state, and has what it cannot decide yet in `_held`.

    def _hold(self, text: str) -> None:
        self._held = text

    def _go(self, read: _Read, text: str) -> list[GenerationEvent]:
        """Go on in another state."""
        self._read = read
        self._held = ""
        return read(text)

    def _maybe_reasoning(self, text: str) -> list[GenerationEvent]:
        begun = text.lstrip()
        if begun.startswith(self._begins):
            self._skip(len(text) - len(begun) + len(self._begins))
            return self._go(self._first_reasoning, begun.removeprefix(self._begins))
        if self._begins.startswith(begun):
            self._hold(text)
            return []
        return self._go(self._after, text)

    def _first_reasoning(self, text: str) -> list[GenerationEvent]:
        """Without the line breaks that it begins with."""
        rest = text.lstrip("\n")
        self._skip(len(text) - len(rest))
        self._held = ""
        return self._go(self._reasoning, rest) if rest else []

    def _reasoning(self, text: str) -> list[GenerationEvent]:
        """Line breaks at its end are not shown either."""
        start, end = self._ends.find(text)
        shown = text[:start].rstrip("\n")
        if not end:
            self._hold(text[len(shown) :])
            self._skip(len(shown))
            return [ReasoningDelta(self._choice, shown)] if shown else []
        self._skip(start + len(end))
        events: list[GenerationEvent] = [ReasoningDelta(self._choice, shown)] if shown else []
        return events + self._go(self._behind_reasoning, text[start + len(end) :])

    def _behind_reasoning(self, text: str) -> list[GenerationEvent]:
        rest = text.lstrip("\n")
        self._skip(len(text) - len(rest))
        self._held = ""
        return self._go(self._after, rest) if rest else []

    def _content(self, text: str) -> list[GenerationEvent]:
        self._held = ""
        return self._shown(text)

    def _content_or_call(self, text: str) -> list[GenerationEvent]:
        """The first characters decide."""
        start, marker = self._calls.find(text)
        if start == 0 and marker:
            return self._go(self._find_call, text)
        if start == 0 and text:
            self._hold(text)
            return []
        return self._go(self._content, text)

    def _text(self, text: str) -> list[GenerationEvent]:
        """Content up to a call, without the white space before it."""
        call, marker = self._calls.find(text)
        shown = text[:call].rstrip()
        events = self._shown(shown)
        if not marker:
            self._hold(text[len(shown) :])
            return events
        self._skip(call - len(shown))
        return events + self._go(self._find_call, text[call:])

    def _find_call(self, text: str) -> list[GenerationEvent]:
        found = self._head.match(text)
        if found is None:
            self._hold(text)
            return []
        self._skip(found.end())
        self._call += 1
        self._value = _Value()
        name: str = json.loads(found[1])
        call_id = f"call_{secrets.token_hex(12)}"
        start = ToolCallStart(self._choice, self._call, call_id, name)
        return [start, *self._go(self._arguments, text[found.end() :])]

    def _arguments(self, text: str) -> list[GenerationEvent]:
        self._held = ""
        end = self._value.read(text)
        piece = text if end is None else text[:end]
        self._skip(len(piece))
        events: list[GenerationEvent] = []
        if piece:
            events.append(ToolCallDelta(self._choice, self._call, piece))
        if end is None:
            return events
        self._complete += 1
        return events + self._go(self._find_call, text[end:])

    # What comes of them.

    def _skip(self, size: int) -> None:
        """Characters that are no content."""
        if self._logprobs is not None:
            self._logprobs.take(size)

    def _shown(self, text: str) -> list[GenerationEvent]:
        """An event of content."""
        logprobs = () if self._logprobs is None else self._logprobs.take(len(text))
        return [ContentDelta(self._choice, text, logprobs)] if text or logprobs else []

    def _flush(self) -> list[GenerationEvent]:
        """Nothing follows, so what was held is what it looks like."""
        text, self._held = self._held, ""
        if self._read in (self._text, self._content_or_call):
            return self._shown(text)
        if self._read == self._maybe_reasoning:
            return self._go(self._after, text) + (self._flush() if text else [])
        if self._read == self._reasoning:
            text = text.rstrip("\n")
            return [ReasoningDelta(self._choice, text)] if text else []
        return []  # the markup of a call, which is complete or was cut

    def _finished(self, chunk: Chunk) -> Finished:
        usage = chunk.usage or Usage(completion_tokens=self._tokens)
        reason: Literal["stop", "length", "tool_calls"] = "stop"
        if chunk.finish_reason == "cancelled":
            raise CancelledError("the request was cancelled")
        if chunk.finish_reason == "error":
            raise SgenError("the engine could not finish the request")
        if chunk.finish_reason == "length" or self._dangles or self._is_cut(usage):
            reason = "length"
        elif self._complete:
            reason = "tool_calls"
        return Finished(self._choice, reason, chunk.stop, usage)

    def _has_no_room(self, chunk: Chunk) -> bool:
        """Whether a text ends where a call begins because the call has no room left: its grammar
        does not let it begin where it cannot end within `max_tokens`."""
        ended = chunk.finish_reason == "stop" and chunk.stop is None
        begun = self._read == self._text and len(self._held.strip()) > _SHORT
        left = _ROOM + 1 if self._limit is None else self._limit - self._tokens
        return ended and begun and left <= _ROOM

    def _is_cut(self, usage: Usage) -> bool:
        """Whether free text took all tokens that there were: a grammar that any text fits calls
        that an end.  A token that ends a text is counted in the usage, but in no chunk."""
        limit = self._context - usage.prompt_tokens
        if self._limit is not None:
            limit = min(limit, self._limit)
        return self._free and not self._complete and self._tokens >= limit


class _Words:
    """Looks for the word of some that begins first in a text that is not complete."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self._words = words
        self._longest = max(map(len, words), default=0)
        letters = "".join(sorted({word[0] for word in words}))
        self._first = re.compile(f"[{re.escape(letters)}]") if words else None

    def find(self, text: str) -> tuple[int, str]:
        """Where it begins, and the word, the shortest of those there; the word is "" where only its
        beginning is there, or nothing of it: then it begins at the end."""
        if self._first is None:
            return len(text), ""
        for found in self._first.finditer(text):
            start = found.start()
            whole = [word for word in self._words if text.startswith(word, start)]
            if whole:
                return start, min(whole, key=len)
            if len(text) - start < self._longest:
                rest = text[start:]
                if any(word.startswith(rest) for word in self._words):
                    return start, ""
        return len(text), ""


class _Value:
    """Where a JSON object ends."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = 0  # characters at the start of what follows that an escape covers

    def read(self, text: str) -> int | None:
        """The end of the object in the next piece of it; None if it goes on."""
        skip = self._escaped
        for found in _SIGNS.finditer(text):
            place, sign = found.start(), found[0]
            if place < skip:
                continue
            if self._in_string:
                if sign == "\\":
                    skip = place + 2
                elif sign == '"':
                    self._in_string = False
            elif sign == '"':
                self._in_string = True
            elif sign in "{[":
                self._depth += 1
            else:
                self._depth -= 1
                if not self._depth:
                    return place + 1
        self._escaped = max(0, skip - len(text))
        return None


class Logprobs:
    """Log-probabilities by where their tokens begin in the text; each belongs to what is there."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, TokenLogprob]] = deque()
        self._size = 0  # characters in chunks
        self._taken = 0

    def add(self, text: str, logprobs: Sequence[TokenLogprob]) -> None:
        """Those of a piece.  Tokens that hold half characters are placed at its beginning."""
        place, whole = self._size, sum(len(p.text) for p in logprobs) == len(text)
        for logprob in logprobs:
            self._waiting.append((place, logprob))
            place += len(logprob.text) if whole else 0
        self._size += len(text)

    def take(self, size: int) -> tuple[TokenLogprob, ...]:
        """Of the tokens that begin within the next characters."""
        self._taken += size
        taken: list[TokenLogprob] = []
        while self._waiting and self._waiting[0][0] < self._taken:
            taken.append(self._waiting.popleft()[1])
        return tuple(taken)
