"""The life of a server: bind, start the engine, serve, drain, end.

The port is taken first, so that a second server fails before it loads anything; while the engine
starts, requests are told 503.  SIGTERM and SIGINT drain: no new work is taken, what runs goes on
until the deadline, what still runs then is told so and ended.  A second SIGINT ends at once.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette

from sgen.errors import SgenError
from sgen.server.admission import stopping
from sgen.server.app import create_app
from sgen.server.connections import connection_class
from sgen.server.exchange import Server
from sgen.server.link import EngineOptions
from sgen.server.remote import RemoteEngine
from sgen.server.settings import Settings
from sgen.server.tracing import tracing_from_environment
from sgen.terminal import ProgressBar

log = logging.getLogger("sgen.server")

_LAST_WORDS = 2.0  # seconds for streams to say that they end
_INTERRUPTED = 130


class PortError(SgenError):
    """The address cannot be listened on."""


def serve(settings: Settings, options: EngineOptions) -> int:
    """Serve until a signal; the exit status.  PortError where the port is taken, and the errors
    of Engine.load where the model cannot be loaded."""
    with bind(settings.host, settings.port) as sock:
        return asyncio.run(_serve(settings, options, sock))


def bind(host: str, port: int) -> socket.socket:
    """A socket on the address; port 0 takes any free one."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise PortError(f"cannot listen on {host}: {error}") from error
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(address)
        sock.listen(1)  # a bound port may still be listened on by another
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            hint = "choose another --port; --port 0 takes any free one"
            raise PortError(f"port {port} of {host} is in use", hint=hint) from error
        raise PortError(f"cannot listen on port {port} of {host}: {error.strerror}") from error
    return sock


class WebServer(uvicorn.Server):
    """uvicorn, whose signals are handled elsewhere."""

    def __init__(self, app: Starlette, settings: Settings) -> None:
        limits = settings.limits
        config = uvicorn.Config(
            app,
            http=connection_class(limits),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            h11_max_incomplete_event_size=limits.header_bytes,
            timeout_keep_alive=max(1, int(limits.idle_seconds)),
            timeout_graceful_shutdown=int(_LAST_WORDS),
        )
        super().__init__(config)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(settings: Settings, options: EngineOptions, sock: socket.socket) -> int:
    bar = ProgressBar(enabled=sys.stderr.isatty())
    backend = RemoteEngine(options, progress=bar.update)
    app = create_app(backend, settings, tracing_from_environment())
    web = WebServer(app, settings)
    signals = _Signals()
    log.info("loading %s; requests are told 503 until then", options.model or "the default model")
    serving = asyncio.create_task(web.serve(sockets=[sock]))
    starting = asyncio.create_task(backend.start())
    try:
        with bar:
            await _first(starting, serving, signals.asked)
        if starting.done():
            starting.result()
            _say_ready(backend, settings, options, sock)
            await _first(serving, signals.asked)
        await drain(app.state.server, settings.limits.drain_seconds, signals.forced)
    finally:
        starting.cancel()
        web.should_exit = True
        web.force_exit = signals.forced.done()
        await asyncio.gather(serving, starting, return_exceptions=True)
        await backend.close()
    return _INTERRUPTED if signals.forced.done() else 0


async def drain(server: Server, seconds: float, forced: asyncio.Future[None]) -> None:
    """Take nothing new; wait until nothing runs, the deadline, or `forced`; end the rest."""
    server.admission.drain()
    if server.running:
        log.info("waiting %g s at most for %d running", seconds, len(server.running))
    await _idle(server, seconds, forced)
    for cancel in list(server.running.values()):
        cancel(stopping())
    await _idle(server, _LAST_WORDS, forced)


async def _idle(server: Server, seconds: float, forced: asyncio.Future[None]) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while server.running and not forced.done():
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0:
            return
        await asyncio.wait({forced}, timeout=min(left, 0.05))


class _Signals:
    """`asked` to end by SIGTERM or SIGINT, `forced` by a SIGINT after that."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.asked: asyncio.Future[None] = loop.create_future()
        self.forced: asyncio.Future[None] = loop.create_future()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on, number)

    def _on(self, number: signal.Signals) -> None:
        if not self.asked.done():
            log.info("%s: no new requests; what runs goes on (SIGINT again ends it)", number.name)
            self.asked.set_result(None)
        elif number == signal.SIGINT and not self.forced.done():
            self.forced.set_result(None)


async def _first(*ends: asyncio.Future[None]) -> None:
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)


def _say_ready(
    backend: RemoteEngine, settings: Settings, options: EngineOptions, sock: socket.socket
) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    info = backend.info
    print(f"sgen {info.name} on http://{host}:{sock.getsockname()[1]}")
    keys = "API key needed" if settings.api_keys else "no API key needed"
    longest = min(info.context_length, options.cache_tokens or info.context_length)
    print(f"{info.compute}; requests of up to {longest:,} tokens; {keys}", flush=True)
