"""A client's connection: uvicorn's on h11, with the bounds that the application cannot see to.

A header comes whole within its time and size, or is refused in JSON; there are so many connections
and no more; a reader that takes nothing for long is cut off by the kernel.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from functools import partial
from typing import Any, cast

import h11
import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from sgen.server.errors import APIError
from sgen.server.middleware import header_too_large
from sgen.server.settings import Limits


def connection_class(limits: Limits) -> type[asyncio.Protocol]:
    """What uvicorn makes for each connection."""
    return cast(type[asyncio.Protocol], partial(Connection, limits))


class Connection(H11Protocol):
    def __init__(
        self,
        limits: Limits,
        *,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        super().connection_made(transport)
        excess = len(self.connections) - self._limits.connections
        if excess > self._limits.connections:
            transport.abort()  # not even a word for those who do not read it
            return
        if excess > 0:
            self.app = _too_many
        _bound_writes(transport, self._limits.write_seconds)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()
        elif self._header_timer is None and not self.transport.is_closing():
            self._start_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        begun = self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]
        if begun and not self.transport.is_closing():
            self._start_timer()  # of a header that began to come before this answer ended

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls for what is no HTTP, while it handles h11's error."""
        error = sys.exc_info()[1]
        if isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == 431:
            self._refuse(header_too_large(self._limits.header_bytes))
        else:
            self._refuse(APIError(400, f"this is no HTTP/1.1: {error}", code="invalid_http"))

    def _start_timer(self) -> None:
        self._stop_timer()
        self._header_timer = self.loop.call_later(self._limits.header_seconds, self._late)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _late(self) -> None:
        self._header_timer = None
        seconds = self._limits.header_seconds
        if self.conn.trailing_data[0]:
            message = f"the header did not come within {seconds:g} s"
            self._refuse(APIError(408, message, code="header_timeout"))
        else:
            self.transport.close()

    def _refuse(self, error: APIError) -> None:
        """Answer without the application, and close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = msgspec.json.encode(error.body())
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            for event in (
                h11.Response(status_code=error.status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _bound_writes(transport: asyncio.Transport, seconds: float) -> None:
    sock = transport.get_extra_info("socket")
    if hasattr(socket, "TCP_USER_TIMEOUT") and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


async def _too_many(scope: Scope, receive: Receive, send: Send) -> None:
    error = APIError(503, "too many connections", code="too_many_connections", retry_after=1)
    response = Response(
        msgspec.json.encode(error.body()),
        error.status,
        {**error.headers, "Connection": "close"},
        media_type="application/json",
    )
    await response(scope, receive, send)
