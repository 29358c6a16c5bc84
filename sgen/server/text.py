"""Tokens of texts, texts of tokens, and prompts as the model's template writes them.

Each takes what vLLM's and llama.cpp's endpoints of that name take, and answers with the fields of
both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sgen.protocol import PromptPart, Text
from sgen.server.backend import ServerBackend
from sgen.server.errors import APIError
from sgen.server.http import (
    admitted,
    check_model,
    json_response,
    read_body,
    server_of,
    until_disconnect,
)
from sgen.server.prompts import prompt_of, tools_of
from sgen.server.settings import Limits
from sgen.server.wire_chat import ChatMessage, ChatRequest, ChatTool


class TokenizeRequest(msgspec.Struct):
    """A text by `prompt` or `content`, or the `messages` and `tools` of a chat."""

    prompt: str | None = None
    content: str | None = None
    messages: list[ChatMessage] | None = None
    tools: list[ChatTool] | None = None
    model: str | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    with_pieces: bool = False
    return_token_strs: bool = False


class DetokenizeRequest(msgspec.Struct):
    tokens: list[int]
    model: str | None = None


class TemplateRequest(msgspec.Struct):
    messages: list[ChatMessage]
    tools: list[ChatTool] | None = None
    model: str | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


async def tokenize(request: Request) -> Response:
    """The tokens of a text or of messages."""
    body = await read_body(request, TokenizeRequest)
    check_model(request, body.model)
    await _check_size(request)
    prompt = _prompt(body, server_of(request).settings.limits)
    async with admitted(request):
        tokens = _tokens(server_of(request).backend, prompt, body)
        return json_response(await until_disconnect(request, tokens))


async def _tokens(
    backend: ServerBackend, prompt: Sequence[PromptPart], body: TokenizeRequest
) -> dict[str, Any]:
    ids = await backend.tokenize(prompt)
    answer: dict[str, Any] = {
        "count": len(ids),
        "max_model_len": backend.info.context_length,
        "tokens": ids,
    }
    if body.with_pieces or body.return_token_strs:
        pieces = {one: await backend.detokenize([one]) for one in set(ids)}
        if body.return_token_strs:
            answer["token_strs"] = [pieces[one] for one in ids]
        if body.with_pieces:
            answer["tokens"] = [{"id": one, "piece": pieces[one]} for one in ids]
    return answer


async def detokenize(request: Request) -> Response:
    """The text of tokens."""
    body = await read_body(request, DetokenizeRequest)
    check_model(request, body.model)
    await _check_size(request)
    async with admitted(request):
        text = await until_disconnect(request, server_of(request).backend.detokenize(body.tokens))
    return json_response({"prompt": text, "content": text, "text": text})


async def apply_template(request: Request) -> Response:
    """Messages as the model is shown them."""
    body = await read_body(request, TemplateRequest)
    check_model(request, body.model)
    await _check_size(request)
    server = server_of(request)
    parts = _parts(body.messages, body, server.settings.limits)
    async with admitted(request):
        text = await until_disconnect(request, server.backend.apply_template(parts))
    return json_response({"prompt": text})


async def _check_size(request: Request) -> None:
    """No context bounds these texts: seconds of the engine's work would fit in a body."""
    most = server_of(request).settings.limits.text_bytes
    if len(await request.body()) > most:
        message = f"the body is larger than the {most:,} bytes that are allowed here"
        raise APIError(413, message, code="text_too_large")


def _prompt(body: TokenizeRequest, limits: Limits) -> Sequence[PromptPart]:
    given = [x for x in (body.prompt, body.content, body.messages) if x is not None]
    if len(given) != 1:
        message = "give one of prompt, content and messages"
        raise APIError(400, message, param="prompt", code="invalid_value")
    if body.messages is not None:
        return _parts(body.messages, body, limits)
    return [Text(str(given[0]))]


def _parts(
    messages: list[ChatMessage], body: TokenizeRequest | TemplateRequest, limits: Limits
) -> Sequence[PromptPart]:
    """The prompt that a chat of the same messages and tools would have."""
    chat = ChatRequest(
        messages=messages,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
    )
    return prompt_of(chat, tools_of(body.tools or [], limits))


routes = [
    Route("/tokenize", tokenize, methods=["POST"]),
    Route("/detokenize", detokenize, methods=["POST"]),
    Route("/apply-template", apply_template, methods=["POST"]),
]
