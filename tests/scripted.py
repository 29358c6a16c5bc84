"""What a model says, written down beforehand, for tests of what an interface makes of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from starlette.testclient import TestClient

from sgen.protocol import ModelInfo, PromptPart, Usage
from sgen.server.app import create_app
from sgen.server.events import (
    ContentDelta,
    Finished,
    GenerationEvent,
    ReasoningDelta,
    ToolCallDelta,
    ToolCallStart,
)
from sgen.server.settings import Settings

USAGE = Usage(prompt_tokens=12, cached_tokens=4, completion_tokens=5)
STOPPED = Finished(0, "stop", None, USAGE)
CUT = Finished(0, "length", None, USAGE)
HELLO = (ContentDelta(0, "Hel"), ContentDelta(0, "lo"), STOPPED)
CALLS = (
    ReasoningDelta(0, "I look."),
    ContentDelta(0, "Wait."),
    ToolCallStart(0, 0, "call_a1", "weather"),
    ToolCallDelta(0, 0, '{"city": '),
    ToolCallDelta(0, 0, '"Paris"}'),
    ToolCallStart(0, 1, "call_b2", "weather"),
    ToolCallDelta(0, 1, '{"city": "Rome"}'),
    Finished(0, "tool_calls", None, USAGE),
)


def events_of(text: str) -> list[dict[str, Any]]:
    """Of a stream whose events are named by their types."""
    blocks = [block.split("\n") for block in text.split("\n\n") if block.startswith("event:")]
    events = [json.loads(data.removeprefix("data: ")) for _, data in blocks]
    assert [name for name, _ in blocks] == [f"event: {event['type']}" for event in events]
    return events


class StillBackend:
    """An engine that is ready, and whose prompts have a token a part."""

    info = ModelInfo(name="model", context_length=100, vocab_size=256, has_chat_template=True)
    state = "ready"

    async def tokenize(self, prompt: Sequence[PromptPart]) -> list[int]:
        return list(range(len(prompt)))


class Script:
    """Stands for `generate` of a module: notes the jobs, and says its events; an error among
    them is raised."""

    def __init__(self, events: Sequence[GenerationEvent | Exception]) -> None:
        self.events = events
        self.jobs: list[Any] = []

    async def __call__(self, backend: object, job: object) -> AsyncIterator[GenerationEvent]:
        self.jobs.append(job)
        for event in self.events:
            if isinstance(event, Exception):
                raise event
            yield event


class Scripted:
    """A server, whose engine is a script where one module asks for it."""

    def __init__(self, module: Any, patch: pytest.MonkeyPatch) -> None:
        self._module, self._patch = module, patch
        app = create_app(StillBackend(), Settings())  # type: ignore[arg-type]
        self.client = TestClient(app)

    def post(
        self, path: str, body: dict[str, Any], *events: GenerationEvent | Exception
    ) -> tuple[Any, Script]:
        """The response, and the script with the jobs that it was asked for."""
        script = Script(events or HELLO)
        self._patch.setattr(self._module, "generate", script)
        return self.client.post(path, json=body), script
