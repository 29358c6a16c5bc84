"""POST /v1/chat/completions, as OpenAI has it, with the fields of vLLM, SGLang and llama.cpp.

An absent temperature is 1.  What is constrained comes out valid, unless `finish` is "truncate".
`enable_thinking: false` puts a thought that is empty before the answer.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import Any, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import sgen
from sgen.errors import SgenError
from sgen.protocol import ModelInfo, PromptPart, RoleStart, Text, Usage
from sgen.server.backend import ServerBackend
from sgen.server.errors import APIError
from sgen.server.events import (
    ContentDelta,
    Finished,
    GenerationEvent,
    Job,
    ReasoningDelta,
    ToolCallDelta,
    ToolCallStart,
)
from sgen.server.formats import (
    Constraint,
    check_top_logprobs,
    constraint_of,
    count_of,
    placed,
    placed_events,
    sampling_params,
)
from sgen.server.generation import Choice, collect, generate, total_usage
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
from sgen.server.logprobs import chat_logprobs
from sgen.server.prompts import chosen_tools, prompt_of, tools_of
from sgen.server.settings import Limits
from sgen.server.wire_chat import ChatRequest

_encode = msgspec.json.Encoder().encode

DONE = b"data: [DONE]\n\n"


async def chat_completions(request: Request) -> Response:
    """One answer, or with `stream` its pieces as they come."""
    server = server_of(request)
    body = await read_body(request, ChatRequest)
    model = check_model(request, body.model)
    async with admitted(request):
        info, limits = server.backend.info, server.settings.limits
        constraint = constraint_of(body, limits)
        job = _job(body, request_id(request), info, limits, constraint)
        names = {"prompt": "messages"}
        if body.max_completion_tokens is not None:
            names["max_tokens"] = "max_completion_tokens"
        head: dict[str, Any] = {
            "id": f"chatcmpl-{job.id}",
            "object": "chat.completion.chunk" if body.stream else "chat.completion",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint(info),
            "service_tier": None,
        }
        if body.stream:
            options = body.stream_options
            usage = options is not None and bool(options.include_usage)
            events = placed_events(generate(server.backend, job), constraint, names)
            return sse(request, _ChatStream(head, job, usage=usage).write(events), stream_error)
        said = collected(server.backend, constraint, job, names=names)
        choices = await until_disconnect(request, said)
        head["choices"] = [_choice(i, choice, job) for i, choice in enumerate(choices)]
        thinking = sum(choice.reasoning_tokens for choice in choices)
        head["usage"] = usage_body(total_usage([choice.usage for choice in choices]), thinking)
        return json_response(head)


def fingerprint(info: ModelInfo) -> str:
    """Changes with what could change a seeded answer: program, model, and how it is computed."""
    text = f"{sgen.__version__} {info.name} {info.compute}"
    return f"fp_{hashlib.blake2b(text.encode(), digest_size=5).hexdigest()}"


def usage_body(usage: Usage, reasoning_tokens: int = 0) -> dict[str, Any]:
    """As OpenAI's interfaces have it."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def stream_error(error: APIError) -> bytes:
    """The event of a stream that fails; nothing follows it."""
    return b"data: " + _encode(error.body()) + b"\n\n"


async def collected(
    backend: ServerBackend,
    constraint: Constraint | None,
    *jobs: Job,
    names: Mapping[str, str] = MappingProxyType({}),
) -> list[Choice]:
    """All choices; errors are placed (see formats.py)."""
    try:
        return await collect(backend, *jobs)
    except SgenError as error:
        raise placed(error, constraint, names) from error


def _job(
    body: ChatRequest,
    job_id: str,
    info: ModelInfo,
    limits: Limits,
    constraint: Constraint | None,
) -> Job:
    _check_unsupported(body)
    tools = tools_of(body.tools or [], limits)
    choice, callable_ones = chosen_tools(body, tools)
    prompt = prompt_of(body, () if choice.mode == "none" else tools)
    options = body.chat_template_kwargs
    if options is not None and options.enable_thinking is False:
        prompt = _without_thought(prompt, info)
    return Job(
        id=job_id,
        prompt=prompt,
        params=sampling_params(body, limits, _num_logprobs(body, limits)),
        grammar=constraint.spec if constraint is not None else None,
        tools=() if choice.mode == "none" else callable_ones,
        tool_choice=choice,
        n=count_of(body, limits),
        split_reasoning=body.separate_reasoning is not False,
        cache_salt=body.cache_salt or "",
    )


def _check_unsupported(body: ChatRequest) -> None:
    for name, hint in (
        ("chat_template", "the template is the model's own; none is taken from a request"),
        ("functions", "functions are not supported: send tools (and tool_choice)"),
        ("function_call", "function_call is not supported: send tools and tool_choice"),
    ):
        if bytes(getattr(body, name)) not in (b"", b"null"):
            raise APIError(400, hint, param=name, code="unsupported")


def _num_logprobs(body: ChatRequest, limits: Limits) -> int | None:
    top = body.top_logprobs
    if top and not body.logprobs:
        message = "top_logprobs needs logprobs to be true"
        raise APIError(400, message, param="top_logprobs", code="invalid_value")
    check_top_logprobs("top_logprobs", top, limits)
    return (top or 0) if body.logprobs else None


def _without_thought(prompt: tuple[PromptPart, ...], info: ModelInfo) -> tuple[PromptPart, ...]:
    if info.reasoning is None or not isinstance(prompt[-1], RoleStart):
        return prompt
    begin, end = info.reasoning
    opened = "" if info.reasoning_open else begin
    return (*prompt, Text(f"{opened}\n\n{end}\n\n"))


def _choice(index: int, choice: Choice, job: Job) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": choice.text or (None if choice.calls else ""),
        "refusal": None,
    }
    if choice.reasoning:
        message["reasoning_content"] = message["reasoning"] = choice.reasoning
    if choice.calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in choice.calls
        ]
    wanted = job.params.logprobs is not None
    return {
        "index": index,
        "message": message,
        "logprobs": chat_logprobs(choice.logprobs) if wanted else None,
        "finish_reason": choice.reason,
    }


class _ChatStream:
    """Events as chunks.  What is the same in all chunks of a stream is encoded once."""

    def __init__(self, head: dict[str, Any], job: Job, *, usage: bool) -> None:
        self._head = b"data: " + _encode(head)[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if usage else b"]}\n\n"
        before = [self._head + b'{"index":%d,"delta":{"content":' % i for i in range(job.n)]
        self._before = before
        self._behind = b'},"logprobs":null,"finish_reason":null}' + self._tail
        self._num = job.n
        self._usage = usage

    async def write(self, events: AsyncIterator[GenerationEvent]) -> AsyncIterator[bytes]:
        """Begins when the first event is there, so that a refused request has a status."""
        ends: list[Finished] = []
        started = False
        async with aclosing(cast(AsyncGenerator[GenerationEvent, None], events)) as stream:
            async for event in stream:
                if not started:
                    started = True
                    for i in range(self._num):
                        yield self._chunk(i, {"role": "assistant", "content": ""})
                if type(event) is ContentDelta and not event.logprobs:
                    yield self._before[event.choice] + _encode(event.text) + self._behind
                    continue
                if isinstance(event, Finished):
                    ends.append(event)
                yield self._event(event)
        if self._usage:
            thinking = sum(end.reasoning_tokens for end in ends)
            total = usage_body(total_usage([end.usage for end in ends]), thinking)
            yield self._head + b'],"usage":' + _encode(total) + b"}\n\n"
        yield DONE

    def _event(self, event: GenerationEvent) -> bytes:
        match event:
            case ContentDelta(choice, text, logprobs):
                return self._chunk(choice, {"content": text}, chat_logprobs(logprobs))
            case ReasoningDelta(choice, text):
                return self._chunk(choice, {"reasoning_content": text, "reasoning": text})
            case ToolCallStart(choice, call, call_id, name):
                start: dict[str, Any] = {"index": call, "id": call_id, "type": "function"}
                start["function"] = {"name": name, "arguments": ""}
                return self._chunk(choice, {"tool_calls": [start]})
            case ToolCallDelta(choice, call, text):
                delta = {"index": call, "function": {"arguments": text}}
                return self._chunk(choice, {"tool_calls": [delta]})
            case Finished(choice, reason):
                return self._chunk(choice, {}, reason=reason)

    def _chunk(
        self,
        choice: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None = None,
        reason: str | None = None,
    ) -> bytes:
        entry = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return self._head + _encode(entry) + self._tail


routes = [Route("/v1/chat/completions", chat_completions, methods=["POST"])]
