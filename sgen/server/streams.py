"""A stream of server-sent events that is never silent for long and never ends without a word.

Clients take a cut stream for a complete one: whatever goes wrong after the first byte is said in
an event.  One task takes the events and sends them; the response itself only watches: whether the
client is still there, whether the request is cancelled, and whether a comment is due.  A reader
that is slow holds up its own task alone, since nothing is taken that cannot be sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, cast

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sgen.server.errors import APIError, as_api_error
from sgen.server.exchange import Exchange

_COMMENT = b": ping\n\n"


class EventStream(Response):
    """`keep_alive` is in seconds; `ended` is called once, when all is over."""

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[bytes],
        on_error: Callable[[APIError], bytes],
        exchange: Exchange,
        keep_alive: float,
        *,
        ended: Callable[[], None],
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._events = cast(AsyncGenerator[bytes, None], events)
        self._on_error = on_error
        self._exchange = exchange
        self._keep_alive = keep_alive
        self._ended = ended
        self._started = False
        self._sending = False
        self._quiet = True  # nothing was sent since the last look

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pump = asyncio.ensure_future(self._pump(send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            error = await self._watch(pump, gone, send)
            pump.cancel()
            await asyncio.wait({pump})  # the engine has let go before the last byte is sent
            if error is not None and not self._started:
                raise error
            if not gone.done():
                await self._finish(error, send)
        finally:
            gone.cancel()
            pump.cancel()
            await asyncio.wait({pump, gone})
            self._ended()

    async def _watch(
        self, pump: asyncio.Future[None], gone: asyncio.Future[None], send: Send
    ) -> APIError | None:
        """Waits for the end; what went wrong, if anything did."""
        cancelled = self._exchange.cancelled
        ends: set[asyncio.Future[Any]] = {pump, gone, cancelled}
        while True:
            self._quiet = True
            done, _ = await asyncio.wait(
                ends, timeout=self._keep_alive, return_when=asyncio.FIRST_COMPLETED
            )
            if pump in done:
                return _fault(pump)
            if cancelled in done:
                return cancelled.result()
            if gone in done:
                return APIError(499, "the client closed the connection", code="client_closed")
            if self._quiet and not self._sending:
                await self._send(_COMMENT, send)

    async def _pump(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            async for event in events:
                await self._send(event, send)

    async def _send(self, data: bytes, send: Send) -> None:
        self._quiet, self._sending = False, True
        if not self._started:
            self._started = True
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": data, "more_body": True})
        self._sending = False

    async def _finish(self, error: APIError | None, send: Send) -> None:
        last = b"" if error is None else self._on_error(error)
        if not self._started:
            await self._send(b"", send)
        await send({"type": "http.response.body", "body": last, "more_body": False})


def _fault(pump: asyncio.Future[None]) -> APIError | None:
    if pump.cancelled():  # by its own doing: whoever cancels it from here does not ask
        return APIError(500, "the stream was cut short", code="internal_error")
    error = pump.exception()
    return None if error is None else as_api_error(error)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
