"""What every endpoint uses: its server, its body, its place in the engine, and its answers.

An endpoint raises its errors; app.py turns them into answers.  Bodies are bounded before they get
here (see middleware.py).  Whatever an endpoint runs is cancelled when its client goes away, when
the request is cancelled by its id, and when the server stops; in each case its iterators are
closed before the answer ends.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sgen.server.errors import APIError
from sgen.server.exchange import Exchange, Server, exchange_of
from sgen.server.field_values import allowed_values
from sgen.server.json_depth import check_depth
from sgen.server.streams import EventStream

__all__ = [
    "Endpoint",
    "Server",
    "admitted",
    "check_model",
    "json_response",
    "read_body",
    "request_id",
    "server_of",
    "sse",
    "until_disconnect",
]

T = TypeVar("T")

Endpoint = Callable[[Request], Awaitable[Response]]

_PLACE = re.compile(r" - at `(?:key in )?\$\.?(.*)`$")


def server_of(request: Request) -> Server:
    server = request.app.state.server
    assert isinstance(server, Server)
    return server


def request_id(request: Request) -> str:
    """The client's X-Request-Id where it is a sound one, or else a new one; no other request that
    is not yet answered has it."""
    return exchange_of(request.scope).id


async def read_body(request: Request, type: type[T]) -> T:
    """The JSON body.  APIError 400 names the place of what is wrong in it, 415 asks for JSON.

    Of two members of one name the last is taken.  Fields that the type has not are counted.
    """
    _check_content_type(request)
    body = await request.body()
    if not body:
        raise APIError(400, "the body is empty: send a JSON object", code="invalid_json")
    server = server_of(request)
    check_depth(body, server.settings.limits.json_depth)
    try:
        value = msgspec.json.decode(body, type=type)
    except msgspec.ValidationError as error:
        raise _invalid_field(type, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise APIError(400, f"the body is not JSON: {error}", code="invalid_json") from None
    _count_unknown(server, request.scope["path"], body, type)
    return value


def check_model(request: Request, name: str | None) -> str:
    """The name to answer with: the one that was asked for, if it is served here, or else an
    APIError 404 that says what is."""
    names = model_names(server_of(request))
    if name and name not in names:
        served = ", ".join(names)
        message = f"the model {name[:200]!r} is not served here; served: {served}"
        raise APIError(404, message, param="model", code="model_not_found")
    exchange_of(request.scope).model = name = name or names[0]
    return name


def model_names(server: Server) -> list[str]:
    """Those given first: the first one is what the model is called in answers."""
    return list(dict.fromkeys([*server.settings.served_names, server.backend.info.name]))


@asynccontextmanager
async def admitted(request: Request) -> AsyncIterator[None]:
    """A place in the engine for as long as the block runs, or the stream that it returns.

    APIError 429 with Retry-After when too many wait, 503 while the engine is down or the server
    stops.
    """
    server, exchange = server_of(request), exchange_of(request.scope)
    server.check_takes_requests()
    server.begin(exchange)
    try:
        await until_disconnect(request, _take_place(server, exchange))
        yield
    finally:
        if not exchange.streams:
            server.end(exchange)


async def until_disconnect(request: Request, coroutine: Coroutine[Any, Any, T]) -> T:
    """What the coroutine returns.  It is cancelled when the client goes (APIError 499) and when
    the request is cancelled (the error that it is cancelled with)."""
    exchange = exchange_of(request.scope)
    work = asyncio.ensure_future(coroutine)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        ends: set[asyncio.Future[Any]] = {work, gone, exchange.cancelled}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        if exchange.cancelled.done():
            raise exchange.cancelled.result()
        gone.result()  # raises what was wrong with a body that nobody read before
        raise APIError(499, "the client closed the connection", code="client_closed")
    finally:
        gone.cancel()
        work.cancel()
        await asyncio.wait({work, gone})


def sse(
    request: Request,
    events: AsyncIterator[bytes],
    on_error: Callable[[APIError], bytes],
) -> Response:
    """The events as text/event-stream.  An error before the first of them is raised, as those of
    any endpoint; one after it is sent as what `on_error` makes of it, and ends the stream."""
    server, exchange = server_of(request), exchange_of(request.scope)
    exchange.streams = True
    return EventStream(
        events,
        on_error,
        exchange,
        server.settings.limits.keep_alive_seconds,
        ended=lambda: server.end(exchange),
    )


def json_response(value: Any, status: int = 200) -> Response:
    """Anything that msgspec encodes, as JSON."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def _take_place(server: Server, exchange: Exchange) -> None:
    exchange.place = await server.admission.take()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _check_content_type(request: Request) -> None:
    # Browsers send the other types to any site unasked: a page must not reach a server on
    # loopback by a form.
    given = request.headers.get("content-type", "application/json")
    kind = given.partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and "+json" in kind):
        raise APIError(
            415,
            f"the body is {kind[:80]!r}: send JSON, with Content-Type: application/json",
            code="unsupported_media_type",
        )


def _invalid_field(kind: Any, text: str) -> APIError:
    place = _PLACE.search(text)
    name = place.group(1) if place else ""
    allowed = allowed_values(kind, name) if text.startswith("Invalid enum value") else []
    if allowed:
        text += f"; it may be {', '.join(allowed)}"
    return APIError(400, text.replace("`$`", "the body"), param=name or None, code="invalid_value")


def _count_unknown(server: Server, path: str, body: bytes, kind: Any) -> None:
    known = _field_names(kind)
    if known is not None:
        names = [
            n for n in msgspec.json.decode(body, type=dict[str, msgspec.Raw]) if n not in known
        ]
        server.metrics.unknown_fields(path, names)


@cache
def _field_names(kind: Any) -> frozenset[str] | None:
    """None where it is not one Struct: then nobody knows which fields are too many.

    msgspec evaluates every annotation again when it is asked: 3 ms for a chat."""
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return None
    return frozenset(f.encode_name for f in msgspec.structs.fields(kind))
