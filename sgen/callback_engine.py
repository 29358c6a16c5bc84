"""An engine by callbacks: a model, its tokenizer and its grammars, ready for requests.

`prepare` and `trie` do what takes long before a request can be queued (rendering, tokenizing,
compiling a grammar): they block, so they are for threads that nobody else waits for.  `submit` and
`submit_score` only queue.  Callbacks come on the step loop's thread and must not block; `deliver`
is called once a step when they have been (see runtime/engine.py).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import msgspec

from sgen.errors import CapacityError, InvalidRequestError
from sgen.grammars.masks import Masker
from sgen.grammars.matcher import Matcher
from sgen.grammars.service import CompileLimits, CompileService
from sgen.grammars.vocabulary import Vocabulary
from sgen.protocol import (
    GenerateRequest,
    GrammarSpec,
    ModelInfo,
    PromptPart,
    RoleStart,
    ScoreRequest,
    Text,
    Tokens,
    ToolCall,
    ToolDefinition,
    Usage,
)
from sgen.runtime.batch import PAGE_SIZE
from sgen.runtime.chat import PromptEncoder
from sgen.runtime.choice import OptionTrie, check_options
from sgen.runtime.engine import EngineCore
from sgen.runtime.jobs import Handle, OnChunk, OnError
from sgen.runtime.loader import LoadedModel
from sgen.runtime.scheduler import Limits
from sgen.runtime.stats import EngineStats

CACHE_BYTES = 1 << 30
"""Keys and values take up to this much memory, unless `cache_tokens` says otherwise."""

MASKER_BYTES = 256 << 20
"""Compiled grammars with their masks take up to this much memory beside what requests use."""

_NORMALIZED = 3
"""A normalizer makes one byte of so many at most (NFC, of Hangul's letters)."""

_JSON = 8
"""JSON text may have so many bytes for one of what a template shows of it."""


class Prepared(NamedTuple):
    """What a request becomes before it is queued."""

    tokens: list[int]
    matcher: Matcher | None


class CallbackEngine:
    """A running model.  For any thread; `close` it."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        deliver: Callable[[], None],
        cache_tokens: int | None = None,
        limits: Limits | None = None,
        compile_limits: CompileLimits | None = None,
        unknown_keywords: Literal["refuse", "note"] = "refuse",
        debug: bool = False,
    ) -> None:
        # "note": keywords that no draft defines are annotations in all schemas, whatever they say.
        self._note_unknown = unknown_keywords == "note"
        config = loaded.model.config
        if cache_tokens is None:
            cache_tokens = max(2048, CACHE_BYTES // loaded.model.kv_bytes_per_token)
        self.tokenizer = loaded.tokenizer
        self._encoder = PromptEncoder(loaded.tokenizer)
        self._vocabulary = loaded.tokenizer.vocabulary
        self._token_bytes = max(map(len, self._vocabulary.token_bytes))  # of text, at most
        if loaded.tokenizer.normalizes:
            self._token_bytes *= _NORMALIZED
        self.compile_service = CompileService(compile_limits)
        self._maskers = Maskers(self.compile_service, self._vocabulary, MASKER_BYTES)
        self.info = ModelInfo(
            name=loaded.name,
            context_length=config.context_length,
            vocab_size=config.vocab_size,
            has_chat_template=self._encoder.has_template,
            compute=loaded.model.description,
            tool_format=self._encoder.tool_format,
            reasoning=self._encoder.reasoning,
            reasoning_open=self._encoder.reasoning_open,
        )
        self._core = EngineCore(
            loaded.model,
            self._vocabulary,
            -(-cache_tokens // PAGE_SIZE),
            limits=limits,
            deliver=deliver,
            debug=debug,
        )
        self._core.start()

    def check_open(self) -> None:
        """EngineClosedError if nothing can be submitted any more."""
        self._core.check_open()

    # --- before a request is queued: these block -------------------------------------------------

    def prepare(self, request: GenerateRequest) -> Prepared:
        """Tokens and matcher.  CapacityError for a text that can never fit, before it is
        tokenized; GrammarError, InvalidRequestError."""
        self._check_length(request.prompt)
        grammar = request.grammar
        matcher = None if grammar is None else Matcher(self._masker(grammar))
        return Prepared(self._encoder.encode(request.prompt), matcher)

    def trie(self, request: ScoreRequest) -> OptionTrie:
        """The options of a request behind its prompt, as tokens."""
        prompt = request.prompt
        self._check_length(prompt)
        options = [self._encoder.encode([*prompt, Text(option)]) for option in request.options]
        first = self.tokenizer.bos_id
        if first is None and self._vocabulary.eos_ids:
            first = self._vocabulary.eos_ids[0]  # what models without one had between documents
        check_options(request.options)
        return OptionTrie(self._encoder.encode(prompt), options, first)

    def knows(self, grammar: GrammarSpec) -> bool:
        """Is it compiled, so that `prepare` does not wait for that?"""
        return self._maskers.knows(self._as_meant(grammar))

    def check_grammar(self, grammar: GrammarSpec) -> int:
        """Compile it; the least number of tokens of an output.  GrammarError if refused."""
        return self._masker(grammar).min_tokens

    def _masker(self, grammar: GrammarSpec) -> Masker:
        return self._maskers.get(self._as_meant(grammar))

    def _as_meant(self, grammar: GrammarSpec) -> GrammarSpec:
        return msgspec.structs.replace(grammar, unknown="note") if self._note_unknown else grammar

    def encode(self, prompt: Sequence[PromptPart]) -> list[int]:
        """The tokens of a prompt, whose text may be of any length."""
        self._check_length([part for part in prompt if _least_tokens(part) == 1])
        return self._encoder.encode(prompt)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens; special ones add nothing.  InvalidRequestError for unknown ones."""
        size = len(self._vocabulary)
        wrong = next((i for i in ids if not 0 <= i < size), None)
        if wrong is not None:
            raise InvalidRequestError(
                f"token {wrong} is outside the model's vocabulary of {size}", param="tokens"
            )
        return self.tokenizer.decode(ids)

    def render(self, prompt: Sequence[PromptPart]) -> str:
        """The text of a prompt, special tokens by their names."""
        self._check_length([part for part in prompt if _least_tokens(part) == 1])
        return self._encoder.render(prompt)

    def _check_length(self, prompt: Sequence[PromptPart]) -> None:
        """Each token of a text has some bytes of it, so what has more than the longest tokens
        could hold is refused at no cost; messages, tools and calls take a token each at least."""
        size = sum(map(_least_bytes, prompt))
        pieces = sum(map(_least_tokens, prompt))
        length = self.info.context_length
        if size // self._token_bytes + pieces > length:
            raise CapacityError(
                f"the prompt has {size:,} bytes of text, and {pieces:,} messages, tools, calls and "
                f"tokens, which no {length:,} tokens can hold, and that is the model's context",
                param="prompt",
                hint="shorten the prompt",
            )

    # --- requests --------------------------------------------------------------------------------

    def submit(
        self, request: GenerateRequest, prepared: Prepared, on_chunk: OnChunk, on_error: OnError
    ) -> Handle:
        """Queue it; one last chunk or one error ends it.  Errors as EngineCore.submit has them."""
        return self._core.submit(
            prepared.tokens,
            request.params,
            request_id=request.id,
            on_chunk=on_chunk,
            on_error=on_error,
            matcher=prepared.matcher,
            salt=request.cache_salt,
        )

    def submit_score(
        self,
        request: ScoreRequest,
        trie: OptionTrie,
        on_done: Callable[[Usage], None],
        on_error: OnError,
    ) -> Handle:
        """Queue the scoring of a request's options; `on_done`, or `on_error`, comes once for each.
        Then `trie.scores()` are known."""
        return self._core.submit_score(
            [trie.needed(i) for i in range(len(request.options))],
            trie.base - 1,
            request_id=request.id,
            on_row=trie.add_row,
            on_done=on_done,
            on_error=on_error,
            salt=request.cache_salt,
        )

    def cancel(self, request_id: str) -> None:
        """Stop a request, of whichever kind; unknown and finished ones are ignored."""
        self._core.cancel(request_id)

    def withdraw(self, handle: Handle) -> None:
        """Stop what one call submitted, and never another request that has its id by now."""
        self._core.withdraw(handle)

    def stats(self) -> EngineStats:
        """Counters since the start, and pages as they are now."""
        return self._core.stats()

    def close(self) -> None:
        """End all requests with EngineClosedError, the thread, and the compile workers."""
        self.compile_service.close()
        self._core.close()


def _least_bytes(part: PromptPart) -> int:
    """What it adds to a prompt, or less: JSON may be shown without its white space and escapes."""
    match part:
        case Text(text):
            return len(text)
        case ToolCall(name, json) | ToolDefinition(name, parameters=json):
            return len(name) + len(json) // _JSON
    return 0


def _least_tokens(part: PromptPart) -> int:
    """What it takes beside the bytes of its text, or less: a template marks each message."""
    match part:
        case Tokens(ids):
            return len(ids)
        case RoleStart() | ToolCall() | ToolDefinition():
            return 1
    return 0


class Maskers:
    """Maskers by their grammars' sources, the latest used, within a budget.  For any thread.

    Nobody holds the lock while compiling: a hard grammar makes only its own callers wait.
    """

    def __init__(self, service: CompileService, vocabulary: Vocabulary, max_bytes: int) -> None:
        self._service = service
        self._vocabulary = vocabulary
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[GrammarSpec, Masker] = OrderedDict()

    def knows(self, grammar: GrammarSpec) -> bool:
        """Is it here, so that `get` compiles nothing?"""
        with self._lock:
            masker = self._kept.get(grammar)
            return masker is not None and not masker.outgrown

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
