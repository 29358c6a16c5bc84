"""A backend without a model, for tests of programs: it says what it is told to say.

Deterministic: the same requests get the same answers, whatever runs beside them.  It keeps all
requests that it got, and counts those that are open, so that a test can show that none is left.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import lru_cache

from sgen.grammars.compile import compile_grammar
from sgen.grammars.masks import Masker
from sgen.grammars.matcher import Matcher
from sgen.grammars.vocabulary import Vocabulary
from sgen.protocol import (
    Chunk,
    FinishReason,
    GenerateRequest,
    GrammarSpec,
    ModelInfo,
    OptionScore,
    PromptPart,
    RoleEnd,
    RoleStart,
    ScoreRequest,
    Scores,
    Text,
    Tokens,
    Usage,
)

Answer = str | Exception | Sequence["str | Exception"] | Callable[[GenerateRequest], str]
"""A text, an error to raise, one of these for each request in turn (the last for all further
ones), or a function of the request."""


class FakeBackend:
    """Answers requests from a script.

    `answers` and `choices` are looked up by the variable's name (a request's id ends with it).
    Without an answer a constrained request gets the least text that its grammar allows, and a
    free one `default`.  A token is a character.  `delay` seconds pass
    before each chunk of `chunk` characters.  `hold` names variables whose requests never end by
    themselves after their first chunk.
    """

    def __init__(
        self,
        answers: Mapping[str, Answer] | None = None,
        *,
        choices: Mapping[str, str] | None = None,
        default: Answer = "ok",
        delay: float = 0.0,
        chunk: int = 3,
        hold: Sequence[str] = (),
        context_length: int = 4096,
    ) -> None:
        self.answers = dict(answers or {})
        self.choices = dict(choices or {})
        self.default = default
        self.delay = delay
        self.chunk = chunk
        self.hold = frozenset(hold)
        self.requests: list[GenerateRequest | ScoreRequest] = []
        self.open: set[str] = set()
        self.most_open = 0
        self.cancelled: list[str] = []
        self._turns: dict[str, int] = {}
        self._info = ModelInfo(
            name="fake", context_length=context_length, vocab_size=256, has_chat_template=True
        )

    @property
    def info(self) -> ModelInfo:
        """A small model with a chat template."""
        return self._info

    async def extend(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        """The scripted answer in pieces, cut as the request's parameters say."""
        name = request_name(request)
        self._start(request)
        try:
            text, reason, stop = self._cut(request, self._answer(name, request))
            for i in range(0, len(text), self.chunk):
                await asyncio.sleep(self.delay)
                piece = text[i : i + self.chunk]
                yield Chunk(text=piece, token_ids=tuple(map(ord, piece)))
                if name in self.hold:
                    await asyncio.Event().wait()
            await asyncio.sleep(self.delay)
            prompt = self.count_tokens(request.prompt)
            usage = Usage(prompt_tokens=prompt, completion_tokens=len(text))
            self.open.discard(request.id)
            yield Chunk(finish_reason=reason, stop=stop, usage=usage)
        finally:
            self._end(request.id)

    async def score(self, request: ScoreRequest) -> Scores:
        """The scripted choice, or else the first option, gets nine parts of ten."""
        name = request_name(request)
        self._start(request)
        try:
            await asyncio.sleep(self.delay)
            chosen = self.choices.get(name, request.options[0])
            rest = max(1, len(request.options) - 1)
            scores = [
                OptionScore(
                    tree=0.9 if o == chosen else 0.1 / rest,
                    logprobs=tuple((-0.1 if o == chosen else -1.0) for _ in o),
                )
                for o in request.options
            ]
            self.open.discard(request.id)
            return Scores(tuple(scores), Usage())
        finally:
            self._end(request.id)

    def cancel(self, request_id: str) -> None:
        """Note that it was asked for; unknown and finished ones are ignored."""
        if request_id in self.open:
            self._end(request_id)

    def check_grammar(self, grammar: GrammarSpec) -> int:
        """The bytes of a shortest text."""
        return _masker(grammar).min_tokens

    def count_tokens(self, prompt: Sequence[PromptPart]) -> int:
        """A token for each character and each role's start and end."""
        marks = sum(isinstance(part, (RoleStart, RoleEnd)) for part in prompt)
        return marks + len(prompt_text(prompt))

    def _start(self, request: GenerateRequest | ScoreRequest) -> None:
        assert request.id not in self.open, "ids of running requests are unique"
        self.requests.append(request)
        self.open.add(request.id)
        self.most_open = max(self.most_open, len(self.open))

    def _end(self, request_id: str) -> None:
        """A request that ends here without its last chunk was cancelled."""
        if request_id in self.open:
            self.open.discard(request_id)
            self.cancelled.append(request_id.rsplit(":", 1)[-1])

    def _answer(self, name: str, request: GenerateRequest) -> str:
        answer = self.answers.get(name)
        if answer is None:
            answer = self.default if request.grammar is None else least_text(request.grammar)
        if isinstance(answer, Sequence) and not isinstance(answer, str):
            turn = self._turns.get(name, 0)
            self._turns[name] = turn + 1
            answer = answer[min(turn, len(answer) - 1)]
        if isinstance(answer, Exception):
            self.open.discard(request.id)
            raise answer
        return answer if isinstance(answer, str) else answer(request)

    def _cut(self, request: GenerateRequest, text: str) -> tuple[str, FinishReason, str | None]:
        found = [(text.index(stop), stop) for stop in request.params.stop if stop in text]
        stop = None
        if found:
            end, stop = min(found)
            text = text[:end]
        limit = request.params.max_tokens
        constrained = request.grammar is not None and request.params.finish == "valid"
        if limit is not None and len(text) > limit and not constrained:
            return text[:limit], "length", None
        return text, "stop", stop


def request_name(request: GenerateRequest | ScoreRequest) -> str:
    """The variable that a request is for."""
    return request.id.rsplit(":", 1)[-1]


def prompt_text(prompt: Sequence[PromptPart]) -> str:
    """The texts of a prompt, without roles."""
    return "".join(p.text for p in prompt if isinstance(p, (Text, Tokens)))


def least_text(grammar: GrammarSpec) -> str:
    """The first of the choices, or else a shortest text of the grammar; GrammarError if it is
    refused."""
    masker = _masker(grammar)
    if grammar.kind == "choices":
        first: str = json.loads(grammar.source)[0]
        return first
    matcher = Matcher(masker)
    text = bytearray()
    while not matcher.is_accepting():
        allowed = matcher.allowed(masker.min_tokens - len(text))
        text.append(next(b for b in range(256) if allowed[b // 32] >> (b % 32) & 1))
        assert matcher.accept(text[-1]), "what the mask allows is accepted"
    return text.decode()


@lru_cache(maxsize=64)
def _masker(grammar: GrammarSpec) -> Masker:
    return Masker(compile_grammar(grammar), _BYTES)


_BYTES = Vocabulary([*(bytes([b]) for b in range(256)), b""], [256])
