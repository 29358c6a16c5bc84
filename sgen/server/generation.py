"""Runs jobs: the requests of all choices side by side, their events merged as they come.

Closing the iterator ends every request before it returns.  Where the whole output is constrained,
stop texts are left out: they could cut what must be valid, and the output ends by itself.  Where
only calls of tools in free text are, they are looked for in the text.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Literal, cast

import msgspec

from sgen.errors import CancelledError
from sgen.protocol import (
    Backend,
    Chunk,
    GenerateRequest,
    ModelInfo,
    TokenLogprob,
    ToolCall,
    Usage,
)
from sgen.runtime.stops import StopStrings
from sgen.server.events import (
    ContentDelta,
    Finished,
    GenerationEvent,
    Job,
    ReasoningDelta,
    ToolCallDelta,
    ToolCallStart,
)
from sgen.server.tool_grammar import job_grammar
from sgen.server.tool_parser import Logprobs, OutputParser

_AHEAD = 64  # events that wait for a slow reader before its requests wait too


class Choice(msgspec.Struct):
    """The whole of one choice."""

    text: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = []
    logprobs: list[TokenLogprob] = []
    reason: Literal["stop", "length", "tool_calls"] = "stop"
    stop: str | None = None
    usage: Usage = Usage()
    reasoning_tokens: int = 0


async def generate(backend: Backend, *jobs: Job) -> AsyncIterator[GenerationEvent]:
    """The events of all choices; those of a further job are counted on from the one before.

    Raises what the engine raises, before the first event where a request is at fault.
    """
    runs = _runs(backend.info, jobs)
    stream = _events(backend, runs[0]) if len(runs) == 1 else _merged(backend, runs)
    async with aclosing(cast(AsyncGenerator[GenerationEvent, None], stream)) as events:
        async for event in events:
            yield event


async def collect(backend: Backend, *jobs: Job) -> list[Choice]:
    """All choices of all jobs, when the last one has ended."""
    choices = [Choice() for job in jobs for _ in range(job.n)]
    stream = cast(AsyncGenerator[GenerationEvent, None], generate(backend, *jobs))
    pieces: list[list[str]] = [[] for _ in choices]
    arguments: list[list[list[str]]] = [[] for _ in choices]
    async with aclosing(stream) as events:
        async for event in events:
            choice = choices[event.choice]
            match event:
                case ContentDelta(_, text, logprobs):
                    pieces[event.choice].append(text)
                    choice.logprobs += logprobs
                case ReasoningDelta(_, text):
                    choice.reasoning += text
                case ToolCallStart(_, _, call_id, name):
                    choice.calls.append(ToolCall(name, "", call_id))
                    arguments[event.choice].append([])
                case ToolCallDelta(_, call, text):
                    arguments[event.choice][call].append(text)
                case Finished():
                    choice.reason, choice.stop = event.reason, event.stop
                    choice.usage, choice.reasoning_tokens = event.usage, event.reasoning_tokens
    for i, choice in enumerate(choices):
        choice.text = "".join(pieces[i])
        choice.calls = [
            msgspec.structs.replace(call, arguments="".join(texts))
            for call, texts in zip(choice.calls, arguments[i], strict=True)
        ]
    return choices


def total_usage(usages: Sequence[Usage]) -> Usage:
    """Of the choices of one prompt: they share it, so it counts once."""
    return Usage(
        max(u.prompt_tokens for u in usages),
        min(u.cached_tokens for u in usages),
        sum(u.completion_tokens for u in usages),
    )


class _Run(msgspec.Struct, frozen=True):
    """One choice.  `stops` are those that the engine does not know of."""

    choice: int
    request: GenerateRequest
    parser: OutputParser
    stops: tuple[str, ...]


def _runs(info: ModelInfo, jobs: Sequence[Job]) -> list[_Run]:
    runs: list[_Run] = []
    alone = sum(job.n for job in jobs) == 1
    for job in jobs:
        grammar = job_grammar(job, info)
        params = job.params
        stops: tuple[str, ...] = ()
        if grammar is not None and params.finish == "valid" and params.stop:
            if job.grammar is None and job.tool_choice.mode == "auto":
                stops = params.stop
            params = msgspec.structs.replace(params, stop=())
        for i in range(job.n):
            choice = len(runs)
            request = GenerateRequest(
                id=job.id if alone else f"{job.id}#{choice}",  # no client's id has a "#"
                prompt=job.prompt,
                params=msgspec.structs.replace(params, seed=_seed(params.seed, i)),
                grammar=grammar,
                cache_salt=job.cache_salt,
            )
            runs.append(_Run(choice, request, OutputParser(info, job, choice), stops))
    return runs


def _seed(seed: int | None, choice: int) -> int | None:
    """Choices of one seed would all be the same; the first one has the seed itself."""
    if seed is None or choice == 0:
        return seed
    digest = hashlib.blake2b(f"{seed} {choice}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


async def _events(backend: Backend, run: _Run) -> AsyncIterator[GenerationEvent]:
    stops = _Stops(run) if run.stops else None
    seen = thinking = 0  # tokens
    stream = cast(AsyncGenerator[Chunk, None], backend.extend(run.request))
    async with aclosing(stream) as chunks:
        async for chunk in chunks:
            if chunk.finish_reason == "cancelled":
                raise CancelledError("the request was cancelled")
            events = run.parser.feed(chunk)
            seen += len(chunk.token_ids)
            if events and isinstance(events[0], ReasoningDelta):
                thinking = seen  # with the marker that begins it
            for event in events:
                if stops is not None:
                    held, stop = stops.before(event)
                    if held is not None:
                        yield held
                    if stop is not None:
                        usage = await _end(backend, run.request.id, chunk, chunks)
                        yield Finished(run.choice, "stop", stop, usage, thinking)
                        return
                    if isinstance(event, ContentDelta):
                        continue
                if thinking and isinstance(event, Finished):
                    yield msgspec.structs.replace(event, reasoning_tokens=thinking)
                else:
                    yield event


class _Stops:
    """Content, but for what may be the beginning of a stop text."""

    def __init__(self, run: _Run) -> None:
        self._choice = run.choice
        self._texts = StopStrings(run.stops)
        self._logprobs = Logprobs()

    def before(self, event: GenerationEvent) -> tuple[ContentDelta | None, str | None]:
        """What may be shown of the content by now, and the stop text that it came to."""
        text, stop = "", None
        if isinstance(event, ContentDelta):
            self._logprobs.add(event.text, event.logprobs)
            text, stop = self._texts.push(event.text)
        elif not isinstance(event, ReasoningDelta):
            text = self._texts.flush()
        if not text:
            return None, stop
        return ContentDelta(self._choice, text, self._logprobs.take(len(text))), stop


async def _end(
    backend: Backend, request_id: str, chunk: Chunk, chunks: AsyncIterator[Chunk]
) -> Usage:
    """Stop a request, and wait for its usage."""
    backend.cancel(request_id)
    usage = chunk.usage
    if usage is None:
        async for rest in chunks:
            usage = rest.usage
    return usage or Usage()


async def _merged(backend: Backend, runs: Sequence[_Run]) -> AsyncIterator[GenerationEvent]:
    queue: asyncio.Queue[GenerationEvent | Exception | None] = asyncio.Queue(_AHEAD)
    tasks = [asyncio.create_task(_pump(backend, run, queue)) for run in runs]
    left = len(tasks)
    try:
        while left:
            item = await queue.get()
            if item is None:
                left -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(
    backend: Backend, run: _Run, queue: asyncio.Queue[GenerationEvent | Exception | None]
) -> None:
    stream = cast(AsyncGenerator[GenerationEvent, None], _events(backend, run))
    try:
        async with aclosing(stream) as events:
            async for event in events:
                await queue.put(event)
    except Exception as error:
        await queue.put(error)
    else:
        await queue.put(None)
