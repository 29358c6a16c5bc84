"""A message in Anthropic's form as it grows: generation events in, stream events out.

As in responses_stream.py a whole message is made by the same steps.  One block is open at a time;
what is of another kind, or the next call, closes it and opens the next.
"""

from __future__ import annotations

import msgspec

from sgen.server.errors import APIError
from sgen.server.events import (
    ContentDelta,
    Finished,
    GenerationEvent,
    ReasoningDelta,
    ToolCallDelta,
    ToolCallStart,
)
from sgen.server.wire_messages import (
    ContentBlock,
    MessageObject,
    MessageUsage,
    StopReason,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    error_message,
)

_encoder = msgspec.json.Encoder()


class MessageWriter:
    """`message` is always what has come so far; its `usage` must hold the prompt's tokens from
    the start.  The methods return the bytes of the events."""

    def __init__(self, message: MessageObject, request_id: str) -> None:
        self.message = message
        self._request_id = request_id
        self._index = -1  # of the block that was opened last
        self._open: ContentBlock | None = None
        self._pieces: list[str] = []  # of the open block

    def start(self) -> bytes:
        return _event("message_start", message=self.message) + _event("ping")

    def feed(self, event: GenerationEvent) -> bytes:
        match event:
            case ContentDelta(text=text):
                opened = b"" if isinstance(self._open, TextBlock) else self._begin(TextBlock())
                return opened + self._delta(text, "text_delta", text=text)
            case ReasoningDelta(text=text):
                is_open = isinstance(self._open, ThinkingBlock)
                opened = b"" if is_open else self._begin(ThinkingBlock())
                return opened + self._delta(text, "thinking_delta", thinking=text)
            case ToolCallStart(id=call_id, name=name):
                return self._begin(ToolUseBlock(f"toolu_{call_id.removeprefix('call_')}", name))
            case ToolCallDelta(arguments=text):
                return self._delta(text, "input_json_delta", partial_json=text)
            case Finished():
                return self._finish(event)

    def failure(self, error: APIError) -> bytes:
        return _data("error", error_message(error, self._request_id))

    def _begin(self, block: ContentBlock) -> bytes:
        ended = self._end()
        self._index += 1
        self._open = block
        return ended + _event("content_block_start", index=self._index, content_block=block)

    def _delta(self, piece: str, kind: str, **fields: str) -> bytes:
        self._pieces.append(piece)
        return _event("content_block_delta", index=self._index, delta={"type": kind, **fields})

    def _end(self, *, cut: bool = False) -> bytes:
        """Close the open block, where there is one.  A call that was cut is none: it does not
        become part of the message."""
        block, text = self._open, "".join(self._pieces)
        if block is None:
            return b""
        self._open, self._pieces = None, []
        match block:
            case TextBlock():
                block.text = text
            case ThinkingBlock():
                block.thinking = text
            case ToolUseBlock():
                block.input = msgspec.Raw(text.encode() or b"{}")
        if not (cut and isinstance(block, ToolUseBlock) and not _is_json(text)):
            self.message.content.append(block)
        return _event("content_block_stop", index=self._index)

    def _finish(self, event: Finished) -> bytes:
        said = self._end(cut=event.reason == "length")
        message, usage = self.message, event.usage
        message.stop_reason = _stop_reason(event)
        message.stop_sequence = event.stop if message.stop_reason == "stop_sequence" else None
        message.usage = MessageUsage(
            input_tokens=usage.prompt_tokens - usage.cached_tokens,
            cache_read_input_tokens=usage.cached_tokens,
            output_tokens=usage.completion_tokens,
        )
        reason = {"stop_reason": message.stop_reason, "stop_sequence": message.stop_sequence}
        said += _event("message_delta", delta=reason, usage=message.usage)
        return said + _event("message_stop")


def _stop_reason(event: Finished) -> StopReason:
    match event.reason:
        case "length":
            return "max_tokens"
        case "tool_calls":
            return "tool_use"
        case "stop":
            return "end_turn" if event.stop is None else "stop_sequence"


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        return False
    return True


def _event(kind: str, **fields: object) -> bytes:
    return _data(kind, {"type": kind, **fields})


def _data(kind: str, value: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encoder.encode(value))
