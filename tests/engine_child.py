"""An engine process without a model: `python -m tests.engine_child`, for tests of the link.

The prompt says what a request gets: "count N", N chunks; "hold", one chunk and no end; "die", the
end of the process in mid-stream; "garbage" and "huge", what no link knows; "slow", a `prepare` that
takes until the file that `model` names is there.  `model` "missing" cannot be loaded; "fails:FILE"
dies when it is loaded as often as FILE has bytes, and takes one away each time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sgen.errors import GrammarError, InvalidRequestError, ModelNotFoundError, SgenError
from sgen.protocol import (
    Chunk,
    GenerateRequest,
    GrammarSpec,
    ModelInfo,
    PromptPart,
    ScoreRequest,
    Text,
    Usage,
)
from sgen.runtime.stats import Counters, EngineStats
from sgen.server.engine_host import Progress, run
from sgen.server.link import EngineOptions

OnChunk = Callable[[Chunk], None]


class FakeEngine:
    """Each request runs in a thread of its own, a step for each of its chunks."""

    def __init__(self, options: EngineOptions, deliver: Callable[[], None]) -> None:
        self.info = ModelInfo(
            name=options.model or "", context_length=99, vocab_size=256, has_chat_template=False
        )
        self._deliver = deliver
        self._withdrawn: list[threading.Event] = []
        self._open: dict[str, threading.Event] = {}

    def prepare(self, request: GenerateRequest) -> str:
        text = _text(request.prompt)
        while text == "slow" and not Path(self.info.name).exists():
            time.sleep(0.01)
        if text == "bug":
            raise ZeroDivisionError("by design")
        return text

    def trie(self, request: ScoreRequest) -> int:
        raise InvalidRequestError("no options here", param="options", hint="none")

    def knows(self, grammar: GrammarSpec) -> bool:
        return grammar.source == "known"

    def check_grammar(self, grammar: GrammarSpec) -> int:
        if grammar.source == "bad":
            raise GrammarError("bad word", keyword="w", pointer="/a/0", hint="mend it")
        return len(grammar.source)

    def encode(self, prompt: Sequence[PromptPart]) -> list[int]:
        return list(_text(prompt).encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode()

    def render(self, prompt: Sequence[PromptPart]) -> str:
        return _text(prompt)

    def submit(
        self,
        request: GenerateRequest,
        prepared: str,
        on_chunk: OnChunk,
        on_error: Callable[[SgenError], None],
    ) -> threading.Event:
        ended = self._open[request.id] = threading.Event()
        threading.Thread(target=self._run, args=(request, prepared, on_chunk, ended)).start()
        return ended

    def submit_score(self, *args: object) -> None:
        raise AssertionError("`trie` refuses them all")

    def cancel(self, request_id: str) -> None:
        if request_id in self._open:
            self._open[request_id].set()

    def withdraw(self, handle: threading.Event) -> None:
        handle.set()

    def stats(self) -> EngineStats:
        return EngineStats(len(self._open), 0, 1, 1, 0, 0, Counters())

    def close(self) -> None:
        for ended in list(self._open.values()):
            ended.set()

    def _run(
        self, request: GenerateRequest, text: str, on_chunk: OnChunk, ended: threading.Event
    ) -> None:
        word, _, number = text.partition(" ")
        for i in range(int(number or 1)):
            on_chunk(Chunk(text=f"{i} ", token_ids=(i,)))
            self._deliver()
        if word == "die":
            os._exit(3)
        if word in ("garbage", "huge"):
            os.write(0, b"\x05\0\0\0hello" if word == "garbage" else b"\xff\xff\xff\xff")
        if word in ("hold", "garbage", "huge"):
            ended.wait()
        del self._open[request.id]
        reason = "cancelled" if ended.is_set() else "stop"
        on_chunk(Chunk(finish_reason=reason, usage=Usage(1, 0, 1)))
        self._deliver()


def load(options: EngineOptions, progress: Progress, deliver: Callable[[], None]) -> FakeEngine:
    progress("reading", 1, 2)
    model = options.model or ""
    if model == "missing":
        raise ModelNotFoundError("no such model", hint="look elsewhere")
    if model.startswith("fails:"):
        left = Path(model.removeprefix("fails:"))
        size = left.stat().st_size
        if size:
            left.write_bytes(b"x" * (size - 1))
            os._exit(4)
    return FakeEngine(options, deliver)


def _text(prompt: Sequence[PromptPart]) -> str:
    return "".join(part.text for part in prompt if isinstance(part, Text))


if __name__ == "__main__":
    run(load)
