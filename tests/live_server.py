"""A server on loopback in front of a fake backend, and endpoints that do what tests need.

`Live.server` is what the endpoints share; it lives in the server's own thread.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sgen.errors import EngineClosedError, InvalidRequestError
from sgen.frontend.fake import FakeBackend
from sgen.protocol import GrammarSpec, PromptPart
from sgen.runtime.stats import Counters, EngineStats
from sgen.server.app import create_app
from sgen.server.backend import EngineState
from sgen.server.errors import APIError
from sgen.server.exchange import Server
from sgen.server.http import admitted, json_response, read_body, sse, until_disconnect
from sgen.server.serve import WebServer, bind
from sgen.server.settings import Limits, Settings

SECONDS = 20.0
"""Nothing here takes that long."""


class ServerFake(FakeBackend):
    """The fake backend with what a server asks of one besides; `state` is as a test sets it."""

    state: EngineState = "ready"

    async def check(self, grammar: GrammarSpec) -> int:
        return self.check_grammar(grammar)

    async def tokenize(self, prompt: Sequence[PromptPart]) -> list[int]:
        return list(range(self.count_tokens(prompt)))

    async def detokenize(self, ids: Sequence[int]) -> str:
        if any(not 0 <= one < 0x110000 for one in ids):
            raise InvalidRequestError("there is no such token", param="tokens")
        return "".join(map(chr, ids))

    async def apply_template(self, prompt: Sequence[PromptPart]) -> str:
        return repr(prompt)

    async def stats(self) -> EngineStats:
        if self.state != "ready":
            raise EngineClosedError("the engine is down")
        return EngineStats(len(self.open), 0, 10, 4, 3, 0, Counters())


class Body(msgspec.Struct):
    number: int = 0
    items: list[int] = []
    anything: Any = None


class Plays:
    """Endpoints under /play.  `ended` counts those that came to their end or were cancelled."""

    def __init__(self) -> None:
        self.started = 0
        self.ended = 0
        self.sent = 0

    async def echo(self, request: Request) -> Response:
        return json_response(await read_body(request, Body))

    async def forever(self, request: Request) -> Response:
        await request.body()
        async with admitted(request):
            await until_disconnect(request, self._forever())
        return json_response({})

    async def _forever(self) -> None:
        self.started += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.ended += 1

    async def stream(self, request: Request) -> Response:
        """`number` events, then an error, an endless silence or an end, as `anything` says."""
        body = await read_body(request, Body)
        async with admitted(request):
            return sse(request, self._events(body), error_event)

    async def _events(self, body: Body) -> AsyncIterator[bytes]:
        self.started += 1
        try:
            for i in range(body.number):
                await asyncio.sleep(0)
                self.sent += 1
                yield b"data: %d\n\n" % i + b":" * (body.items[0] if body.items else 0) + b"\n\n"
            if body.anything == "fail":
                raise APIError(400, "it went wrong", code="wrong")
            if body.anything == "bug":
                raise ZeroDivisionError("secret")
            if body.anything == "hang":
                await asyncio.Event().wait()
        finally:
            self.ended += 1

    @property
    def routes(self) -> list[Route]:
        return [
            Route("/play/echo", self.echo, methods=["POST"]),
            Route("/play/forever", self.forever, methods=["POST"]),
            Route("/play/stream", self.stream, methods=["POST"]),
        ]


def error_event(error: APIError) -> bytes:
    return b"event: error\ndata: " + msgspec.json.encode(error.body()) + b"\n\n"


def played_app(settings: Settings, backend: ServerFake | None = None) -> tuple[Starlette, Plays]:
    plays = Plays()
    app = create_app(backend or ServerFake(), settings)
    app.router.routes.extend(plays.routes)
    return app, plays


class Live:
    """A running server."""

    def __init__(self, app: Starlette, plays: Plays, port: int, loop: Any) -> None:
        self.plays = plays
        self.port = port
        self.loop: asyncio.AbstractEventLoop = loop
        self.server: Server = app.state.server

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)

    def post(
        self, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, header and body of an answer."""
        raw = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        return self.request(
            "POST", path, raw, {"Content-Type": "application/json", **(headers or {})}
        )

    def get(self, path: str) -> tuple[int, dict[str, str], bytes]:
        return self.request("GET", path, None, {})

    def request(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            fields = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, fields, answer.read()
        finally:
            connection.close()

    def send(self, path: str, body: Any) -> socket.socket:
        """Begin a request and leave its answer unread."""
        raw = json.dumps(body).encode()
        sock = self.connect()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        sock.sendall(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
        return sock

    def run(self, function: Callable[[], Any]) -> Any:
        """Call it in the server's thread."""

        async def call() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(SECONDS)


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread brings about."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


def read_all(sock: socket.socket) -> bytes:
    """Up to the end of the connection; one that is reset ends too."""
    got = b""
    try:
        while data := sock.recv(1 << 16):
            got += data
    except ConnectionError:
        pass
    return got


@contextmanager
def live(limits: Limits | None = None, *, backend: ServerFake | None = None) -> Iterator[Live]:
    """A server with these limits on a free port."""
    settings = Settings(limits=limits or Limits())
    app, plays = played_app(settings, backend)
    sock = bind("127.0.0.1", 0)
    web = WebServer(app, settings)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(web.serve(sockets=[sock]),))
    thread.start()
    try:
        until(lambda: web.started)
        yield Live(app, plays, sock.getsockname()[1], loop)
    finally:
        web.should_exit = web.force_exit = True
        thread.join(SECONDS)
        loop.close()
