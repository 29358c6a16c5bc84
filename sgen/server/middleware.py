"""What surrounds every endpoint: a record, a log line, bounds on what comes in, keys, and errors.

Plain ASGI: nothing here holds a body or a stream back.  Whatever an endpoint raises becomes JSON
if nothing was sent yet.  A body is counted and timed as it is read, whoever reads it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from typing import Any

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sgen.server.auth import check_key, check_origin
from sgen.server.errors import APIError, as_api_error
from sgen.server.exchange import Exchange, Server, exchange_of, set_exchange
from sgen.server.settings import Limits
from sgen.server.tracing import Tracing
from sgen.server.wire_messages import error_message

log = logging.getLogger("sgen.server.requests")

_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9._:-]")
_LONGEST_ID = 64
_DISCARD_SECONDS = 1.0
_CLOSED = 499


class Records:
    """The outermost: gives each request its id and record, and writes them down at the end."""

    def __init__(self, app: ASGIApp, server: Server, tracing: Tracing | None) -> None:
        self._app = app
        self._server = server
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(self._new_id(Headers(scope=scope).get("x-request-id", "")))
        set_exchange(scope, exchange)
        status = _CLOSED  # where nothing is answered, there is nobody to answer

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = headers["Request-Id"] = exchange.id
            await send(message)

        self._server.ids.add(exchange.id)
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            self._server.end(exchange)
            self._server.ids.discard(exchange.id)
            self._write_down(scope, exchange, status)

    def _new_id(self, given: str) -> str:
        wanted = _NOT_IN_IDS.sub("", given)[:_LONGEST_ID]
        if not wanted:
            return f"req-{uuid.uuid4().hex}"
        return f"{wanted}-{uuid.uuid4().hex[:8]}" if wanted in self._server.ids else wanted

    def _write_down(self, scope: Scope, exchange: Exchange, status: int) -> None:
        seconds = time.monotonic() - exchange.started
        route = scope.get("route")
        path = getattr(route, "path", "other")
        metrics = self._server.metrics
        metrics.requests.labels(_method(scope), path, str(status)).inc()
        metrics.seconds.labels(path).observe(seconds)
        if self._tracing is not None:
            headers = Headers(scope=scope)
            self._tracing.write(exchange, _method(scope), path, status, headers)
        usage = exchange.usage
        line: dict[str, Any] = {
            "id": exchange.id,
            "method": _method(scope),
            "path": scope["path"][:200],
            "status": status,
            "ms": round(seconds * 1000, 1),
        }
        if usage.prompt_tokens:
            line["prompt_tokens"] = usage.prompt_tokens
            line["cached_tokens"] = usage.cached_tokens
            line["completion_tokens"] = usage.completion_tokens
        log.info("%s", msgspec.json.encode(line).decode())


class Guard:
    """Checks what comes in, and turns every error into an answer."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app = app
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive, self._server.settings.limits)
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, body.receive, note_start)
        except ClientDisconnect:
            if not started:
                await _no_answer(scope, receive, send)
        except Exception as error:
            if started:
                raise
            response = error_response(scope, as_api_error(error))
            if not body.complete and _has_body(scope):
                # The rest of the body is thrown away for a while, so that the client, which is
                # still writing, gets to read the answer.
                await body.discard(scope)
                response.headers["Connection"] = "close"
            await response(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        settings = self._server.settings
        limits = settings.limits
        if _header_bytes(scope) > limits.header_bytes:
            raise header_too_large(limits.header_bytes)
        headers = Headers(scope=scope)
        key = check_key(settings.api_keys, scope["method"], scope["path"], headers)
        exchange_of(scope).key = key
        check_origin(settings, scope["method"], headers)
        length = headers.get("content-length", "0")
        if int(length) > limits.body_bytes:
            raise _body_too_large(limits.body_bytes)
        coding = headers.get("content-encoding", "identity").strip().lower()
        if coding != "identity":
            raise APIError(
                415,
                f"bodies in {coding[:40]!r} coding are not read: send them as they are",
                code="unsupported_content_encoding",
            )


class _Body:
    """A body on its way in; reading raises APIError 413 or 408 where it is too much or too slow."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self._receive = receive
        self._limits = limits
        self._count = 0
        self._deadline = 0.0
        self.complete = False

    async def receive(self) -> Message:
        if self.complete:
            return await self._receive()
        message = await self._next_part()
        if message["type"] == "http.request":
            self._count += len(message.get("body", b""))
            if self._count > self._limits.body_bytes:
                raise _body_too_large(self._limits.body_bytes)
            self.complete = not message.get("more_body", False)
        return message

    async def _next_part(self) -> Message:
        now = asyncio.get_running_loop().time()
        self._deadline = self._deadline or now + self._limits.body_seconds
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._receive()
        except TimeoutError:
            seconds = self._limits.body_seconds
            raise APIError(
                408, f"the body did not come within {seconds:g} s", code="body_timeout"
            ) from None

    async def discard(self, scope: Scope) -> None:
        """Read on for a moment; what comes is dropped."""
        if Headers(scope=scope).get("expect"):
            return  # it waits for our word to send anything
        more, room = True, 4 * self._limits.body_bytes
        try:
            async with asyncio.timeout(_DISCARD_SECONDS):
                while more and room > 0:
                    message = await self._receive()
                    more = message.get("more_body", False)
                    room -= len(message.get("body", b""))
        except TimeoutError:
            pass


def error_response(scope: Scope, error: APIError) -> Response:
    """An error in the form of the interface that the path belongs to."""
    body: object = error.body()
    if scope["path"].startswith(("/v1/messages", "/messages")):
        body = error_message(error, exchange_of(scope).id)
    return Response(
        msgspec.json.encode(body), error.status, error.headers, media_type="application/json"
    )


def header_too_large(limit: int) -> APIError:
    return APIError(431, f"the header is larger than {limit:,} bytes", code="header_too_large")


def _body_too_large(limit: int) -> APIError:
    return APIError(413, f"the body is larger than {limit:,} bytes", code="body_too_large")


def _header_bytes(scope: Scope) -> int:
    """As HTTP/1.1 writes it: the request line, the fields, and the empty line."""
    query = scope["query_string"]
    line = len(scope["method"]) + 1 + len(scope["raw_path"]) + len(query) + bool(query) + 11
    return line + sum(len(name) + len(value) + 4 for name, value in scope["headers"]) + 2


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _method(scope: Scope) -> str:
    known = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
    return scope["method"] if scope["method"] in known else "other"


async def _no_answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Nobody reads it; ASGI asks for one all the same."""
    await Response(status_code=_CLOSED)(scope, receive, send)
