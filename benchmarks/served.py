"""A server to measure: `sgen serve` in a process of its own, on a free port of the loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

START_SECONDS = 120.0
STOP_SECONDS = 45.0
CLI = "import sys; from sgen.cli import main; sys.exit(main())"


class Served(msgspec.Struct, frozen=True):
    """A running server: its address without /v1, and its HTTP process."""

    url: str
    process: subprocess.Popen[bytes]

    def get(self, path: str) -> Any:
        """The JSON (or else the text) of a GET; urllib's errors."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=30) as reply:
            text = reply.read().decode()
        return json.loads(text) if "json" in reply.headers["Content-Type"] else text

    @property
    def engine_pid(self) -> int:
        """The child that runs the engine.  ProcessLookupError while there is none."""
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for pid in map(int, task.read_text().split()):
            if b"sgen.server.engine_process" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        raise ProcessLookupError("the server has no engine process")


def is_ready(url: str) -> bool:
    """Does GET /ready say 200?"""
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def wait_until_ready(url: str, process: subprocess.Popen[bytes], seconds: float) -> None:
    """Returns when the server is ready.  TimeoutError after so many seconds, ChildProcessError
    where it ended."""
    until = time.monotonic() + seconds
    while not is_ready(url):
        if process.poll() is not None:
            raise ChildProcessError(f"sgen serve ended with {process.returncode}")
        if time.monotonic() > until:
            raise TimeoutError(f"not ready within {seconds:g} s")
        time.sleep(0.1)


@contextmanager
def serve(
    model: str | None = None, *options: str, log: Path | None = None, env: Mapping[str, str] = {}
) -> Iterator[Served]:
    """A ready server for as long as the block runs; then it drains.  `log` gets its output."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", CLI, "serve", *([model] if model else [])]
    out = log.open("wb") if log else subprocess.DEVNULL
    process = subprocess.Popen(
        [*command, "--port", str(port), *options],
        stdout=out,
        stderr=subprocess.STDOUT,
        env={**os.environ, **env},
    )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, process, START_SECONDS)
        yield Served(url, process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
