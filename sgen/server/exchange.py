"""A request and its response while they last, and what all of them share.

Every HTTP request has one `Exchange`, from its header to the last byte of its response.  While it
has a place in the engine or waits for one, `Server.running` has its id.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from starlette.types import Scope

from sgen.protocol import Usage
from sgen.server.admission import Admission, Place
from sgen.server.backend import ServerBackend
from sgen.server.errors import APIError
from sgen.server.metrics import Metrics
from sgen.server.settings import Settings

Cancel = Callable[[APIError], None]
"""Ends a request; the error is what its client is told."""

_KEY = "sgen.exchange"


class Exchange:
    """What is known of a request.  `usage` is the sum over its requests to the engine, of which
    `finished` has the reasons that they ended for, and `max_tokens` what the last one may take."""

    def __init__(self, request_id: str) -> None:
        self.id = request_id
        self.key = ""  # that its client gave
        self.started = time.monotonic()
        self.usage = Usage()
        self.model = ""  # by the name that the client calls it
        self.max_tokens: int | None = None
        self.finished: list[str] = []
        self.place: Place | None = None
        self.streams = False  # the response holds the place, and not the endpoint
        self.cancelled: asyncio.Future[APIError] = asyncio.get_running_loop().create_future()

    def cancel(self, error: APIError) -> None:
        """End it; `error` is what the client is told.  A second one changes nothing."""
        if not self.cancelled.done():
            self.cancelled.set_result(error)


@dataclass
class Server:
    """What the endpoints share."""

    backend: ServerBackend
    settings: Settings
    metrics: Metrics
    admission: Admission
    running: dict[str, Cancel] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)  # of those that run
    ids: set[str] = field(default_factory=set)  # of all requests that have not ended
    started: float = field(default_factory=time.time)

    def begin(self, exchange: Exchange) -> None:
        self.running[exchange.id] = exchange.cancel
        self.keys[exchange.id] = exchange.key

    def end(self, exchange: Exchange) -> None:
        """Give back what a request holds; a second time does nothing."""
        self.running.pop(exchange.id, None)
        self.keys.pop(exchange.id, None)
        if exchange.place is not None:
            exchange.place.release()

    def check_takes_requests(self) -> None:
        """APIError 503 while the engine is down or the server is about to stop."""
        state = self.backend.state
        if state == "failed":
            raise APIError(503, "the engine has failed", code="engine_failed")
        if state != "ready":
            raise APIError(503, f"the engine is {state}", code="engine_unavailable", retry_after=5)


current: ContextVar[Exchange | None] = ContextVar("current", default=None)
"""The exchange that a task works for."""


def exchange_of(scope: Scope) -> Exchange:
    exchange = scope[_KEY]
    assert isinstance(exchange, Exchange)
    return exchange


def set_exchange(scope: Scope, exchange: Exchange) -> None:
    scope[_KEY] = exchange
    current.set(exchange)
