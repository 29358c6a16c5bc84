"""A client that behaves badly on purpose: raw HTTP/1.1 over sockets of the loopback.

It sends whatever bytes it is given, leaves in the middle, and reads as slowly as it is told.  All
times are seconds.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import msgspec

CHAT = "/v1/chat/completions"


class Answer(msgspec.Struct):
    """What came back.  `stamps`: when each event of a stream came, from the request's start."""

    status: int = 0
    headers: dict[str, str] = {}
    body: bytes = b""
    stamps: list[float] = []
    seconds: float = 0.0

    @property
    def events(self) -> list[str]:
        """The data of the events of a stream."""
        lines = self.body.decode("utf-8", "replace").splitlines()
        return [line[6:] for line in lines if line.startswith("data: ")]


def request(path: str, body: Any = None, *, method: str = "", extra: str = "") -> bytes:
    """The bytes of a request; a body is JSON, or bytes as they are.  `extra`: header lines."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    verb = method or ("GET" if body is None else "POST")
    head = f"{verb} {path} HTTP/1.1\r\nHost: sgen\r\nConnection: close\r\n{extra}"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    return head.encode() + b"\r\n" + data


@asynccontextmanager
async def connected(
    url: str, *, receive_buffer: int | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection, closed at the end without a word to the server."""
    place = urlsplit(url)
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (place.hostname, place.port))
    limit = receive_buffer or 1 << 16
    reader, writer = await asyncio.open_connection(sock=sock, limit=limit)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def send(url: str, data: bytes, *, leave_after: float | None = None) -> Answer:
    """Sends the bytes and reads to the end of the connection, or leaves after a while, with
    whatever has come until then.  A reset or an early end is an answer too, if a short one."""
    started, answer = time.perf_counter(), Answer()
    with suppress(TimeoutError, OSError, asyncio.IncompleteReadError):
        async with asyncio.timeout(leave_after), connected(url) as (reader, writer):
            writer.write(data)
            with suppress(OSError):  # it may answer and close before it has read everything
                await writer.drain()
            await _read(reader, answer, started)
    answer.seconds = time.perf_counter() - started
    return answer


async def _read(reader: asyncio.StreamReader, answer: Answer, started: float) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    answer.status = int(head[0].split()[1])
    pairs = (line.partition(":") for line in head[1:] if line)
    answer.headers = {name.lower(): value.strip() for name, _, value in pairs}
    chunked = answer.headers.get("transfer-encoding") == "chunked"
    while True:
        if chunked:
            size = int((await reader.readline()).split(b";")[0] or b"0", 16)
            piece = (await reader.readexactly(size + 2))[:size]
        else:
            piece = await reader.read(1 << 16)
        if not piece:
            return
        answer.body += piece
        answer.stamps.append(time.perf_counter() - started)


def chat(text: str, tokens: int, **fields: Any) -> bytes:
    """A chat request of so many tokens, whatever the model would like to end with."""
    body = {
        "messages": [{"role": "user", "content": text}],
        "max_tokens": tokens,
        "ignore_eos": True,
        **fields,
    }
    return request(CHAT, body)
