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
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from sgen.errors import SgenError
from sgen.grammars.masks import Masker
from sgen.grammars.matcher import Matcher
from sgen.grammars.service import CompileLimits, CompileService
from sgen.grammars.vocabulary import Vocabulary
from sgen.protocol import (
    Chunk,
    GenerateRequest,
    GrammarSpec,
    ModelInfo,
    PromptPart,
    ScoreRequest,
    Scores,
    Text,
    Usage,
)
from sgen.runtime.batch import PAGE_SIZE
from sgen.runtime.chat import PromptEncoder
from sgen.runtime.choice import OptionTrie, check_options
from sgen.runtime.compute import Compute
from sgen.runtime.engine import EngineCore, EngineStats
from sgen.runtime.hub import resolve_model
from sgen.runtime.jobs import Handle
from sgen.runtime.loader import LoadedModel, load_model
from sgen.runtime.scheduler import Limits
from sgen.terminal import ProgressBar

T = TypeVar("T")

CACHE_BYTES = 1 << 30
"""Keys and values take up to this much memory, unless `cache_tokens` says otherwise."""

MASKER_BYTES = 256 << 20
"""Compiled grammars with their masks take up to this much memory beside what requests use."""


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
        config = loaded.model.config
        if cache_tokens is None:
            cache_tokens = max(2048, CACHE_BYTES // loaded.model.kv_bytes_per_token)
        self._encoder = PromptEncoder(loaded.tokenizer)
        self._vocabulary = loaded.tokenizer.vocabulary
        self._service = CompileService(compile_limits)
        self._maskers = _Maskers(self._service, self._vocabulary, MASKER_BYTES)
        self._post = _Post()
        self._core = EngineCore(
            loaded.model,
            self._vocabulary,
            -(-cache_tokens // PAGE_SIZE),
            limits=limits,
            deliver=self._post.deliver,
            debug=debug,
        )
        self._core.start()
        self.tokenizer = loaded.tokenizer
        self._info = ModelInfo(
            name=loaded.name,
            context_length=config.context_length,
            vocab_size=config.vocab_size,
            has_chat_template=self._encoder.has_template,
            compute=loaded.model.description,
        )

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
        return self._info

    async def extend(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        """Chunks as they come; closing the iterator cancels the request within one step."""
        self._core.check_open()
        tokens, matcher = await asyncio.to_thread(self._prepare, request)
        inbox = _Inbox[Chunk](self._post, self._core.withdraw)
        inbox.handle = self._core.submit(
            tokens,
            request.params,
            request_id=request.id,
            on_chunk=inbox.put,
            on_error=inbox.put,
            matcher=matcher,
            salt=request.cache_salt,
        )
        try:
            while True:
                chunk = await inbox.get()
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            self._core.withdraw(inbox.handle)

    async def score(self, request: ScoreRequest) -> Scores:
        """How likely each option is as the continuation of the prompt."""
        self._core.check_open()
        trie = await asyncio.to_thread(self._trie, request)
        inbox = _Inbox[Usage](self._post, self._core.withdraw)
        usage = Usage()
        inbox.handle = self._core.submit_score(
            [trie.needed(i) for i in range(len(request.options))],
            trie.base - 1,
            request_id=request.id,
            on_row=trie.add_row,
            on_done=inbox.put,
            on_error=inbox.put,
            salt=request.cache_salt,
        )
        try:
            for _ in request.options:
                usage = usage + await inbox.get()
        finally:
            self._core.withdraw(inbox.handle)
        return Scores(trie.scores(), usage)

    def cancel(self, request_id: str) -> None:
        """Stop a request, of whichever kind; unknown and finished ones are ignored."""
        self._core.cancel(request_id)

    def check_grammar(self, grammar: GrammarSpec) -> int:
        """Compile it; the least number of tokens of an output.  GrammarError if refused."""
        return self._maskers.get(grammar).min_tokens

    def count_tokens(self, prompt: Sequence[PromptPart]) -> int:
        return len(self._encoder.encode(prompt))

    # --- The rest ------------------------------------------------------------------------------

    def stats(self) -> EngineStats:
        """Counters since the start, and pages as they are now."""
        return self._core.stats()

    def close(self) -> None:
        """End all requests with EngineClosedError, the thread, and the compile workers."""
        self._service.close()
        self._core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _prepare(self, request: GenerateRequest) -> tuple[list[int], Matcher | None]:
        grammar = request.grammar
        matcher = None if grammar is None else Matcher(self._maskers.get(grammar))
        return self._encoder.encode(request.prompt), matcher

    def _trie(self, request: ScoreRequest) -> OptionTrie:
        prompt = request.prompt
        options = [self._encoder.encode([*prompt, Text(option)]) for option in request.options]
        first = self.tokenizer.bos_id
        if first is None and self._vocabulary.eos_ids:
            first = self._vocabulary.eos_ids[0]  # what models without one had between documents
        check_options(request.options)
        return OptionTrie(self._encoder.encode(prompt), options, first)


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


class _Maskers:
    """Maskers by their grammars' sources, the latest used, within a budget.  For any thread.

    Nobody holds the lock while compiling: a hard grammar makes only its own callers wait.
    """

    def __init__(self, service: CompileService, vocabulary: Vocabulary, max_bytes: int) -> None:
        self._service = service
        self._vocabulary = vocabulary
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[GrammarSpec, Masker] = OrderedDict()

    def get(self, grammar: GrammarSpec) -> Masker:
        """GrammarError if it is refused, or the vocabulary cannot write any text of it."""
        with self._lock:
            masker = self._kept.get(grammar)
            if masker is not None and not masker.outgrown:
                self._kept.move_to_end(grammar)
                return masker
        # What was outgrown is left to its running requests; new ones start from a small machine.
        masker = Masker(self._service.compile(grammar), self._vocabulary)
        with self._lock:
            known = self._kept.get(grammar)
            if known is not None and not known.outgrown:
                return known  # another caller was first
            self._kept[grammar] = masker
            self._kept.move_to_end(grammar)
            size = sum(m.num_bytes for m in self._kept.values())
            while size > self._max_bytes and len(self._kept) > 1:
                size -= self._kept.popitem(last=False)[1].num_bytes
        return masker
