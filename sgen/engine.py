"""The engine that programs run on: a model, its tokenizer and grammars behind `Backend`.

Async callers get chunks as they come; the step loop runs in a thread of its own, and what takes
long before it (tokenizing, compiling a grammar) is waited for in other threads, so that nobody
else waits; grammars are compiled in processes of their own (see grammars/service.py).
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from sgen.callback_engine import CallbackEngine
from sgen.errors import SgenError
from sgen.grammars.service import CompileLimits
from sgen.protocol import (
    Chunk,
    GenerateRequest,
    GrammarSpec,
    ModelInfo,
    PromptPart,
    ScoreRequest,
    Scores,
    Usage,
)
from sgen.runtime.compute import Compute
from sgen.runtime.hub import resolve_model
from sgen.runtime.jobs import Handle
from sgen.runtime.loader import LoadedModel, load_model
from sgen.runtime.scheduler import Limits
from sgen.runtime.stats import EngineStats
from sgen.terminal import ProgressBar

T = TypeVar("T")


class Engine:
    """A running model.  Close it, or use it as a context manager."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        cache_tokens: int | None = None,
        limits: Limits | None = None,
        compile_limits: CompileLimits | None = None,
        debug: bool = False,
    ) -> None:
        self._post = _Post()
        self._engine = CallbackEngine(
            loaded,
            deliver=self._post.deliver,
            cache_tokens=cache_tokens,
            limits=limits,
            compile_limits=compile_limits,
            debug=debug,
        )
        self.tokenizer = loaded.tokenizer

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] | None = None,
        *,
        cache_tokens: int | None = None,
        compute: Compute | None = None,
        limits: Limits | None = None,
        compile_limits: CompileLimits | None = None,
        progress: bool | None = None,
    ) -> Self:
        """Load a GGUF file, a Hugging Face folder, or a model by its name.

        `model=None` is the embedded SmolLM2, which is pulled at first use.  `cache_tokens` is the
        size of the KV cache (default: what 1 GiB holds); `compute` says which code, how many
        threads, and the type of keys and values; `compile_limits` are those of compiling a
        grammar.  `progress` shows bars on stderr (default: where that is a terminal).
        ModelNotFoundError, ModelFileError and UnsupportedModelError say what is wrong with a
        model.
        """
        with ProgressBar(enabled=sys.stderr.isatty() if progress is None else progress) as bar:
            path = resolve_model(model, progress=lambda n, of: bar.update("pulling", n, of))
            loaded = load_model(Path(path), progress=bar.update, compute=compute)
        return cls(loaded, cache_tokens=cache_tokens, limits=limits, compile_limits=compile_limits)

    # --- Backend -------------------------------------------------------------------------------

    @property
    def info(self) -> ModelInfo:
        return self._engine.info

    async def extend(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        """Chunks as they come; closing the iterator cancels the request within one step."""
        self._engine.check_open()
        prepared = await asyncio.to_thread(self._engine.prepare, request)
        inbox = _Inbox[Chunk](self._post, self._engine.withdraw)
        inbox.handle = self._engine.submit(request, prepared, inbox.put, inbox.put)
        try:
            while True:
                chunk = await inbox.get()
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            self._engine.withdraw(inbox.handle)

    async def score(self, request: ScoreRequest) -> Scores:
        """How likely each option is as the continuation of the prompt."""
        self._engine.check_open()
        trie = await asyncio.to_thread(self._engine.trie, request)
        inbox = _Inbox[Usage](self._post, self._engine.withdraw)
        usage = Usage()
        inbox.handle = self._engine.submit_score(request, trie, inbox.put, inbox.put)
        try:
            for _ in request.options:
                usage = usage + await inbox.get()
        finally:
            self._engine.withdraw(inbox.handle)
        return Scores(trie.scores(), usage)

    def cancel(self, request_id: str) -> None:
        """Stop a request, of whichever kind; unknown and finished ones are ignored."""
        self._engine.cancel(request_id)

    def check_grammar(self, grammar: GrammarSpec) -> int:
        """Compile it; the least number of tokens of an output.  GrammarError if refused."""
        return self._engine.check_grammar(grammar)

    def count_tokens(self, prompt: Sequence[PromptPart]) -> int:
        return len(self._engine.encode(prompt))

    # --- The rest ------------------------------------------------------------------------------

    def stats(self) -> EngineStats:
        """Counters since the start, and pages as they are now."""
        return self._engine.stats()

    def close(self) -> None:
        """End all requests with EngineClosedError, the thread, and the compile workers."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Post:
    """Wakes coroutines that have news, all of a loop at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._news: dict[asyncio.AbstractEventLoop, list[_Inbox[Any]]] = {}

    def add(self, inbox: _Inbox[Any]) -> None:
        with self._lock:
            self._news.setdefault(inbox.loop, []).append(inbox)

    def deliver(self) -> None:
        with self._lock:
            news, self._news = self._news, {}
        for loop, inboxes in news.items():
            try:
                loop.call_soon_threadsafe(_wake, inboxes)
            except RuntimeError:  # the loop was closed: nobody waits for this any more
                for inbox in inboxes:
                    inbox.refuse()


def _wake(inboxes: Sequence[_Inbox[Any]]) -> None:
    for inbox in inboxes:
        inbox.wake()


class _Inbox(Generic[T]):
    """What the engine's thread sends to one coroutine; errors are raised where it is awaited.

    `handle` is set before the coroutine first waits, hence before its loop can be closed.
    """

    def __init__(self, post: _Post, withdraw: Callable[[Handle], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.handle: Handle = ()
        self._post = post
        self._withdraw = withdraw
        self._items: deque[T | SgenError] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, item: T | SgenError) -> None:
        """From any thread; the coroutine is woken when the post is delivered."""
        self._items.append(item)
        self._post.add(self)

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def refuse(self) -> None:
        self._withdraw(self.handle)

    async def get(self) -> T:
        while not self._items:
            self._waiter = self.loop.create_future()
            await self._waiter
        item = self._items.popleft()
        if isinstance(item, SgenError):
            raise item
        return item
