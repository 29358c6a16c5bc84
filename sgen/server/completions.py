"""POST /v1/completions: text that goes on from prompts, without a chat template.

Special tokens that a prompt's text spells out are plain characters; a prompt of token ids may hold
them.  Choices of the first prompt come first, then those of the second.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from functools import reduce
from operator import add
from typing import Any, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sgen.protocol import PromptPart, Text, TokenLogprob, Tokens, Usage
from sgen.server.backend import ServerBackend
from sgen.server.chat import (
    DONE,
    collected,
    fingerprint,
    stream_error,
    usage_body,
)
from sgen.server.errors import APIError
from sgen.server.events import ContentDelta, Finished, GenerationEvent, Job
from sgen.server.formats import (
    Constraint,
    check_top_logprobs,
    constraint_of,
    count_of,
    placed_events,
    sampling_params,
)
from sgen.server.generation import Choice, generate, total_usage
from sgen.server.http import (
    admitted,
    check_model,
    json_response,
    read_body,
    request_id,
    server_of,
    sse,
    until_disconnect,
)
from sgen.server.logprobs import completion_logprobs
from sgen.server.settings import Limits
from sgen.server.wire_completions import CompletionRequest

_encode = msgspec.json.Encoder().encode


async def completions(request: Request) -> Response:
    """One answer for all prompts, or with `stream` its pieces as they come."""
    server = server_of(request)
    body = await read_body(request, CompletionRequest)
    model = check_model(request, body.model)
    async with admitted(request):
        limits = server.settings.limits
        constraint = constraint_of(body, limits)
        jobs = _jobs(body, request_id(request), limits, constraint)
        echoes = await until_disconnect(request, _echoes(body, jobs, server.backend))
        head: dict[str, Any] = {
            "id": f"cmpl-{request_id(request)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint(server.backend.info),
        }
        if body.stream:
            options = body.stream_options
            usage = options is not None and bool(options.include_usage)
            events = placed_events(generate(server.backend, *jobs), constraint)
            chunks = _write(events, head, echoes, jobs[0], usage=usage)
            return sse(request, chunks, stream_error)
        choices = await until_disconnect(request, collected(server.backend, constraint, *jobs))
        head["choices"] = [
            _choice(i, echoes[i] + choice.text, choice, jobs[0], len(echoes[i]))
            for i, choice in enumerate(choices)
        ]
        head["usage"] = usage_body(_usage([choice.usage for choice in choices], jobs[0].n))
        return json_response(head)


def _jobs(
    body: CompletionRequest, job_id: str, limits: Limits, constraint: Constraint | None
) -> list[Job]:
    n = count_of(body, limits)
    if body.suffix:
        raise _wrong("suffix is not supported: the text goes on at its end", "suffix")
    if body.best_of not in (None, n):
        raise _wrong("best_of is not supported: choose among n", "best_of")
    if body.echo and body.logprobs is not None:
        raise _wrong("logprobs of an echoed prompt are not supported", "echo")
    check_top_logprobs("logprobs", body.logprobs, limits)
    prompts = _prompts(body.prompt)
    if len(prompts) * n > limits.running:
        message = f"{len(prompts)} prompts with {n} choices each are more than {limits.running}"
        raise _wrong(message, "prompt")
    params = sampling_params(body, limits, body.logprobs)
    return [
        Job(
            id=f"{job_id}#p{i}" if len(prompts) > 1 else job_id,
            prompt=prompt,
            params=params,
            grammar=constraint.spec if constraint is not None else None,
            n=n,
            split_reasoning=False,
            cache_salt=body.cache_salt or "",
        )
        for i, prompt in enumerate(prompts)
    ]


def _prompts(given: str | list[str | int | list[int]]) -> list[tuple[PromptPart, ...]]:
    if isinstance(given, str):
        return [(Text(given),)]
    texts = [item for item in given if isinstance(item, str)]
    ids = [item for item in given if isinstance(item, int)]
    lists = [item for item in given if isinstance(item, list)]
    if not given or max(len(texts), len(ids), len(lists)) < len(given):
        raise _wrong("prompt is a text, texts, token ids, or lists of token ids", "prompt")
    if texts:
        return [(Text(text),) for text in texts]
    return [(Tokens(tuple(item), ""),) for item in ([ids] if ids else lists)]


async def _echoes(
    body: CompletionRequest, jobs: Sequence[Job], backend: ServerBackend
) -> list[str]:
    """What stands before each choice's text."""
    echoes: list[str] = []
    for job in jobs:
        part = job.prompt[0]
        text = ""
        if body.echo and isinstance(part, Text):
            text = part.text
        elif body.echo and isinstance(part, Tokens):
            text = await backend.detokenize(part.ids)
        echoes += [text] * job.n
    return echoes


def _usage(usages: Sequence[Usage], n: int) -> Usage:
    prompts = [total_usage(usages[i : i + n]) for i in range(0, len(usages), n)]
    return reduce(add, prompts)


def _choice(index: int, text: str, choice: Choice, job: Job, offset: int) -> dict[str, Any]:
    wanted = job.params.logprobs is not None
    return {
        "index": index,
        "text": text,
        "logprobs": completion_logprobs(choice.logprobs, offset) if wanted else None,
        "finish_reason": choice.reason,
        "stop_reason": choice.stop,
    }


async def _write(
    events: AsyncIterator[GenerationEvent],
    head: dict[str, Any],
    echoes: Sequence[str],
    job: Job,
    *,
    usage: bool,
) -> AsyncIterator[bytes]:
    """Events as chunks; the first comes with the first event."""
    before = b"data: " + _encode(head)[:-1] + b',"choices":['
    behind = b'],"usage":null}\n\n' if usage else b"]}\n\n"
    offsets = [len(echo) for echo in echoes]
    unsaid = {i: echo for i, echo in enumerate(echoes) if echo}
    usages: dict[int, Usage] = {}
    async with aclosing(cast(AsyncGenerator[GenerationEvent, None], events)) as stream:
        async for event in stream:
            text: str = ""
            logprobs: tuple[TokenLogprob, ...] = ()
            if isinstance(event, ContentDelta):
                text, logprobs = event.text, event.logprobs
            elif isinstance(event, Finished):
                usages[event.choice] = event.usage
            i = event.choice
            said = unsaid.pop(i, "") + text
            entry = _delta(event, said, logprobs, job, offsets[i])
            offsets[i] += len(text)
            yield before + _encode(entry) + behind
    if usage:
        total = _usage([usages[i] for i in sorted(usages)], job.n)
        yield before + b'],"usage":' + _encode(usage_body(total)) + b"}\n\n"
    yield DONE


def _delta(
    event: GenerationEvent, text: str, logprobs: Sequence[TokenLogprob], job: Job, offset: int
) -> dict[str, Any]:
    reason, stop = (event.reason, event.stop) if isinstance(event, Finished) else (None, None)
    wanted = job.params.logprobs is not None
    return {
        "index": event.choice,
        "text": text,
        "logprobs": completion_logprobs(logprobs, offset) if wanted else None,
        "finish_reason": reason,
        "stop_reason": stop,
    }


def _wrong(message: str, param: str) -> APIError:
    return APIError(400, message, param=param, code="invalid_value")


routes = [Route("/v1/completions", completions, methods=["POST"])]
