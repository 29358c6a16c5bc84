"""A response as it grows: generation events in, the events of a Responses stream out.

A whole response is made by the same steps, whose events nobody reads: so what a stream adds up to
and what comes in one piece are the same.  One output item is open at a time; what is of another
kind closes it and opens the next.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from sgen.protocol import TokenLogprob
from sgen.server.errors import APIError
from sgen.server.events import (
    ContentDelta,
    Finished,
    GenerationEvent,
    ReasoningDelta,
    ToolCallDelta,
    ToolCallStart,
)
from sgen.server.logprobs import chat_logprobs
from sgen.server.wire_responses import (
    FunctionCall,
    IncompleteDetails,
    InputTokensDetails,
    ItemStatus,
    OutputItem,
    OutputMessage,
    OutputText,
    OutputTokensDetails,
    Reasoning,
    ReasoningText,
    ResponseError,
    ResponseObject,
    ResponseUsage,
)

_encoder = msgspec.json.Encoder()


class ResponseWriter:
    """`response` is always what has come so far; `feed` and the others return the bytes that say
    so in a stream, as server-sent events numbered in a row."""

    def __init__(self, response: ResponseObject) -> None:
        self.response = response
        self._suffix = response.id.partition("_")[2]
        self._sequence = 0
        self._pieces: list[str] = []  # of the open item's text
        self._logprobs: list[dict[str, Any]] = []

    def start(self) -> bytes:
        return self._state("response.created") + self._state("response.in_progress")

    def feed(self, event: GenerationEvent) -> bytes:
        match event:
            case ContentDelta(text=text, logprobs=logprobs):
                return self._content(text, logprobs)
            case ReasoningDelta(text=text):
                opened = b"" if self._is_open(Reasoning) else self._open(Reasoning(self._id("rs")))
                return opened + self._delta("response.reasoning_text.delta", text, part=True)
            case ToolCallStart(id=call_id, name=name):
                return self._open(FunctionCall(self._id("fc"), call_id, name))
            case ToolCallDelta(arguments=arguments):
                return self._delta("response.function_call_arguments.delta", arguments)
            case Finished():
                return self._finish(event)

    def failure(self, error: APIError) -> bytes:
        """The failed response, then the error, both flat and nested: clients differ in what they
        look at, and must not take a cut stream for a whole one."""
        closed = self._close("incomplete")
        self.response.status = "failed"
        self.response.error = ResponseError("server_error", error.message)
        failed = self._state("response.failed")
        body = error.body()
        return (
            closed
            + failed
            + self._event(
                "error", code=error.code, message=error.message, param=error.param, **body
            )
        )

    def _content(self, text: str, logprobs: tuple[TokenLogprob, ...]) -> bytes:
        opened = b"" if self._is_open(OutputMessage) else self._open(OutputMessage(self._id("msg")))
        listed = chat_logprobs(logprobs)["content"] if logprobs else []
        self._logprobs += listed
        return opened + self._delta("response.output_text.delta", text, part=True, logprobs=listed)

    def _is_open(self, kind: type[OutputItem]) -> bool:
        output = self.response.output
        return bool(output) and isinstance(output[-1], kind) and output[-1].status == "in_progress"

    def _open(self, item: OutputItem) -> bytes:
        closed = self._close("completed")
        self.response.output.append(item)
        said = closed + self._place_event("response.output_item.added", item=item)
        match item:
            case OutputMessage():
                said += self._part_event("response.content_part.added", part=OutputText())
            case Reasoning():
                said += self._part_event("response.content_part.added", part=ReasoningText())
        return said

    def _delta(self, kind: str, text: str, *, part: bool = False, **more: object) -> bytes:
        self._pieces.append(text)
        event = self._part_event if part else self._place_event
        return event(kind, item_id=self.response.output[-1].id, delta=text, **more)

    def _close(self, status: ItemStatus) -> bytes:
        """End the open item, where there is one."""
        output = self.response.output
        if not output or output[-1].status != "in_progress":
            return b""
        item = output[-1]
        text = "".join(self._pieces)
        item.status = status
        said = self._done(item, text)
        self._pieces, self._logprobs = [], []
        return said + self._place_event("response.output_item.done", item=item)

    def _done(self, item: OutputItem, text: str) -> bytes:
        """Give the item the whole of its text, and say so."""
        match item:
            case FunctionCall():
                item.arguments = text
                return self._place_event(
                    "response.function_call_arguments.done",
                    item_id=item.id,
                    name=item.name,
                    arguments=text,
                )
            case OutputMessage():
                written = OutputText(text, logprobs=self._logprobs)
                item.content = [written]
                return self._part_event(
                    "response.output_text.done",
                    item_id=item.id,
                    text=text,
                    logprobs=self._logprobs,
                ) + self._part_event("response.content_part.done", item_id=item.id, part=written)
            case Reasoning():
                thought = ReasoningText(text)
                item.content = [thought]
                return self._part_event(
                    "response.reasoning_text.done", item_id=item.id, text=text
                ) + self._part_event("response.content_part.done", item_id=item.id, part=thought)

    def _finish(self, event: Finished) -> bytes:
        cut = event.reason == "length"
        said = b""
        if not self.response.output:  # a model may say nothing: still a message, of no text
            said = self._open(OutputMessage(self._id("msg")))
        said += self._close("incomplete" if cut else "completed")
        self.response.usage = _usage(event)
        if cut:
            self.response.status = "incomplete"
            self.response.incomplete_details = IncompleteDetails()
            return said + self._state("response.incomplete")
        self.response.status = "completed"
        self.response.completed_at = int(time.time())
        return said + self._state("response.completed")

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self._suffix}{len(self.response.output):02d}"

    def _state(self, kind: str) -> bytes:
        return self._event(kind, response=self.response)

    def _part_event(self, kind: str, **fields: object) -> bytes:
        """About the only part of the open item."""
        fields.setdefault("item_id", self.response.output[-1].id)
        return self._place_event(kind, content_index=0, **fields)

    def _place_event(self, kind: str, **fields: object) -> bytes:
        """About the open item."""
        return self._event(kind, output_index=len(self.response.output) - 1, **fields)

    def _event(self, kind: str, **fields: object) -> bytes:
        data = _encoder.encode({"type": kind, "sequence_number": self._sequence, **fields})
        self._sequence += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


def _usage(event: Finished) -> ResponseUsage:
    usage = event.usage
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(usage.cached_tokens),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputTokensDetails(event.reasoning_tokens),
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )
