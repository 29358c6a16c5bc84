"""The engine that programs run on: a model, its tokenizer and grammars behind `Backend`.

Async callers get chunks as they come; the step loop runs in a thread of its own, and what takes
long before it (tokenizing, compiling a grammar) runs in worker threads, so nobody waits for it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

from sgen.errors import SgenError
from sgen.grammars.compile import compile_grammar
from sgen.grammars.masks import Masker
from sgen.grammars.matcher import Matcher
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
from sgen.runtime.engine import EngineCore, EngineStats
from sgen.runtime.hub import resolve_model
from sgen.runtime.jobs import Handle
from sgen.runtime.loader import LoadedModel, load_model
from sgen.runtime.scheduler import Limits
from sgen.terminal import ProgressBar

T = TypeVar("T")

CACHE_BYTES = 1 << 30
"""Keys and values take up to this much memory, unless `cache_tokens` says otherwise."""

MAX_GRAMMARS = 64
"""Compiled grammars that are kept, the latest used."""


class Engine:
    """A running model.  Close it, or use it as a context manager."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        cache_tokens: int | None = None,
        limits: Limits | None = None,
        debug: bool = False,
    ) -> None:
        config = loaded.model.config
        token_bytes = 2 * 4 * config.num_layers * config.num_kv_heads * config.head_dim
        if cache_tokens is None:
            cache_tokens = max(2048, CACHE_BYTES // token_bytes)
        self._encoder = PromptEncoder(loaded.tokenizer)
        self._vocabulary = loaded.tokenizer.vocabulary
        self._grammars = _GrammarCache(self._compile)
        self._core = EngineCore(
            loaded.model,
            self._vocabulary,
            -(-cache_tokens // PAGE_SIZE),
            limits=limits,
            debug=debug,
        )
        self._core.start()
        self.tokenizer = loaded.tokenizer
        self._info = ModelInfo(
            name=loaded.name,
            context_length=config.context_length,
            vocab_size=config.vocab_size,
            has_chat_template=self._encoder.has_template,
        )

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] | None = None,
        *,
        cache_tokens: int | None = None,
        limits: Limits | None = None,
        progress: bool | None = None,
    ) -> Self:
        """Load a GGUF file, a Hugging Face folder, or a model by its name.

        `model=None` is the embedded SmolLM2, which is pulled at first use.  `cache_tokens` is the
        size of the KV cache (default: what 1 GiB holds).  `progress` shows bars on stderr
        (default: where that is a terminal).  ModelNotFoundError, ModelFileError and
        UnsupportedModelError say what is wrong with a model.
        """
        with ProgressBar(enabled=sys.stderr.isatty() if progress is None else progress) as bar:
            path = resolve_model(model, progress=lambda n, of: bar.update("pulling", n, of))
            loaded = load_model(Path(path), progress=bar.update)
        return cls(loaded, cache_tokens=cache_tokens, limits=limits)

    # --- Backend -------------------------------------------------------------------------------

    @property
    def info(self) -> ModelInfo:
        return self._info

    async def extend(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        """Chunks as they come; closing the iterator cancels the request within one step."""
        self._core.check_open()
        tokens, matcher = await asyncio.to_thread(self._prepare, request)
        inbox = _Inbox[Chunk](self._core.withdraw)
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
        inbox = _Inbox[Usage](self._core.withdraw)
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
        return self._grammars.get(grammar).min_tokens

    def count_tokens(self, prompt: Sequence[PromptPart]) -> int:
        return len(self._encoder.encode(prompt))

    # --- The rest ------------------------------------------------------------------------------

    def stats(self) -> EngineStats:
        """Counters since the start, and pages as they are now."""
        return self._core.stats()

    def close(self) -> None:
        """End all requests with EngineClosedError and stop the thread."""
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

    def _compile(self, grammar: GrammarSpec) -> Masker:
        return Masker(compile_grammar(grammar), self._vocabulary)

    def _prepare(self, request: GenerateRequest) -> tuple[list[int], Matcher | None]:
        grammar = request.grammar
        matcher = None if grammar is None else Matcher(self._grammars.get(grammar))
        return self._encoder.encode(request.prompt), matcher

    def _trie(self, request: ScoreRequest) -> OptionTrie:
        prompt = request.prompt
        options = [self._encoder.encode([*prompt, Text(option)]) for option in request.options]
        first = self.tokenizer.bos_id
        if first is None and self._vocabulary.eos_ids:
            first = self._vocabulary.eos_ids[0]  # what models without one had between documents
        check_options(request.options)
        return OptionTrie(self._encoder.encode(prompt), options, first)


class _Inbox(Generic[T]):
    """What the engine's thread sends to one coroutine; errors are raised where it is awaited.

    `handle` is set before the coroutine first waits, hence before its loop can be closed.
    """

    def __init__(self, withdraw: Callable[[Handle], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[T | SgenError] = asyncio.Queue()
        self._withdraw = withdraw
        self.handle: Handle = ()

    def put(self, item: T | SgenError) -> None:
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)
        except RuntimeError:  # the loop was closed: nobody waits for this any more
            self._withdraw(self.handle)

    async def get(self) -> T:
        item = await self._queue.get()
        if isinstance(item, SgenError):
            raise item
        return item


class _GrammarCache:
    """Compiled grammars by their source, the latest used.  For any thread.

    Nobody holds the lock while compiling: a hard grammar makes only its own callers wait.
    """

    def __init__(self, compile_one: Callable[[GrammarSpec], Masker]) -> None:
        self._compile = compile_one
        self._lock = threading.Lock()
        self._kept: OrderedDict[GrammarSpec, Masker] = OrderedDict()

    def get(self, grammar: GrammarSpec) -> Masker:
        with self._lock:
            masker = self._kept.get(grammar)
            if masker is not None and masker.outgrown:
                # Running requests keep it; new ones start from a small automaton again.
                masker = None
                del self._kept[grammar]
        if masker is None:
            masker = self._compile(grammar)
        with self._lock:
            masker = self._kept.setdefault(grammar, masker)  # another caller may have been first
            self._kept.move_to_end(grammar)
            while len(self._kept) > MAX_GRAMMARS:
                self._kept.popitem(last=False)
        return masker
