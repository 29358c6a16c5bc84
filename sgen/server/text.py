"""Tokens of texts, texts of tokens, and prompts as the model's template writes them.

Each takes what vLLM's and llama.cpp's endpoints of that name take, and answers with the fields of
both.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sgen.protocol import PromptPart, Role, RoleEnd, RoleStart, Text
from sgen.server.errors import APIError
from sgen.server.http import check_model, json_response, read_body, server_of


class TextContent(msgspec.Struct):
    text: str
    type: str = "text"


class TextMessage(msgspec.Struct):
    role: Role
    content: str | list[TextContent] = ""


class TokenizeRequest(msgspec.Struct):
    """A text by `prompt` or `content`, or `messages`."""

    prompt: str | None = None
    content: str | None = None
    messages: list[TextMessage] | None = None
    model: str | None = None
    add_generation_prompt: bool = True
    with_pieces: bool = False
    return_token_strs: bool = False


class DetokenizeRequest(msgspec.Struct):
    tokens: list[int]
    model: str | None = None


class TemplateRequest(msgspec.Struct):
    messages: list[TextMessage]
    model: str | None = None
    add_generation_prompt: bool = True


async def tokenize(request: Request) -> Response:
    """The tokens of a text or of messages."""
    body = await read_body(request, TokenizeRequest)
    check_model(request, body.model)
    backend = server_of(request).backend
    ids = await backend.tokenize(_prompt(body))
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
    return json_response(answer)


async def detokenize(request: Request) -> Response:
    """The text of tokens."""
    body = await read_body(request, DetokenizeRequest)
    check_model(request, body.model)
    text = await server_of(request).backend.detokenize(body.tokens)
    return json_response({"prompt": text, "content": text, "text": text})


async def apply_template(request: Request) -> Response:
    """Messages as the model is shown them."""
    body = await read_body(request, TemplateRequest)
    check_model(request, body.model)
    parts = _parts(body.messages, body.add_generation_prompt)
    return json_response({"prompt": await server_of(request).backend.apply_template(parts)})


def _prompt(body: TokenizeRequest) -> list[PromptPart]:
    given = [x for x in (body.prompt, body.content, body.messages) if x is not None]
    if len(given) != 1:
        message = "give one of prompt, content and messages"
        raise APIError(400, message, param="prompt", code="invalid_value")
    if body.messages is not None:
        return _parts(body.messages, body.add_generation_prompt)
    return [Text(str(given[0]))]


def _parts(messages: list[TextMessage], opens: bool) -> list[PromptPart]:
    parts: list[PromptPart] = []
    for message in messages:
        content = message.content
        text = content if isinstance(content, str) else "".join(c.text for c in content)
        parts += [RoleStart(message.role), Text(text), RoleEnd()]
    return [*parts, RoleStart("assistant")] if opens else parts


routes = [
    Route("/tokenize", tokenize, methods=["POST"]),
    Route("/detokenize", detokenize, methods=["POST"]),
    Route("/apply-template", apply_template, methods=["POST"]),
]
