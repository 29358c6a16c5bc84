"""`sgen serve`: its options, its port, its signals, and the embedded model behind it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sgen.cli import main
from sgen.errors import InvalidRequestError
from sgen.serve_command import _keys, _limits

SECONDS = 120


class Served:
    """A server in a process of its own, started with the command line."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sgen.cli", "serve", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "SGEN_THREADS": "1"},
        )
        assert self.process.stdout is not None
        self.ready = self.process.stdout.readline()
        found = re.search(r":(\d+)$", self.ready.strip())
        assert found, self.ready
        self.port = int(found.group(1))

    def request(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        raw = None if body is None else json.dumps(body).encode()
        connection.request(method, path, raw, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        try:
            return answer.status, answer.read()
        finally:
            connection.close()

    def stop(self, number: signal.Signals) -> tuple[int, str]:
        """The exit status and the log."""
        self.process.send_signal(number)
        _, log = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, log


@pytest.fixture
def served(smollm2_path: Path) -> Iterator[Served]:
    one = Served([str(smollm2_path), "--served-name", "small"])
    try:
        yield one
    finally:
        one.process.kill()
        one.process.communicate()


def test_a_server_says_where_it_is_and_ends_well(served: Served) -> None:
    assert served.ready.startswith("sgen ")
    assert served.request("GET", "/ready")[0] == 200
    models = json.loads(served.request("GET", "/v1/models")[1])
    assert models["data"][0]["id"] == "small"
    ids = json.loads(served.request("POST", "/tokenize", {"prompt": "hello world"})[1])["tokens"]
    text = json.loads(served.request("POST", "/detokenize", {"tokens": ids})[1])["text"]
    assert text == "hello world"
    status, log = served.stop(signal.SIGTERM)
    assert status == 0
    assert "Traceback" not in log
    assert '"path":"/tokenize","status":200' in log


def long_stream(server: Served) -> http.client.HTTPResponse:
    """A stream that has begun, and goes on for longer than a test."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
    body = {
        "messages": [{"role": "user", "content": "Count."}],
        "max_tokens": 7000,
        "ignore_eos": True,
        "stream": True,
    }
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    assert answer.readline().startswith(b"data: ")
    return answer


def test_what_runs_at_the_deadline_is_told_so(smollm2_path: Path) -> None:
    server = Served([str(smollm2_path), "--limit", "drain_seconds=0.2"])
    try:
        answer = long_stream(server)
        server.process.send_signal(signal.SIGTERM)
        rest = answer.read()  # the stream is whole, its last event the error
        assert b'"code":"shutting_down"' in rest
        assert server.process.wait(SECONDS) == 0
    finally:
        server.process.kill()
        server.process.communicate()


def test_a_second_interrupt_ends_at_once_and_says_so_in_the_streams(served: Served) -> None:
    answer = long_stream(served)
    served.process.send_signal(signal.SIGINT)
    while served.request("GET", "/ready")[0] != 503:
        assert answer.readline(), "what runs goes on after the first"
    served.process.send_signal(signal.SIGINT)
    assert b'"error"' in answer.read()
    assert served.process.wait(SECONDS) == 130


def test_a_port_in_use_is_told_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 1
    assert f"port {port} of 127.0.0.1 is in use" in capsys.readouterr().err


def test_a_model_that_is_not_there_ends_the_server(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "no-such-model", "--port", "0"]) == 1
    assert "no-such-model" in capfd.readouterr().err


def test_limits_by_name() -> None:
    limits = _limits(["queue=0", "body_seconds=0.5", "json_depth=7"])
    assert (limits.queue, limits.body_seconds, limits.json_depth) == (0, 0.5, 7)
    for wrong in ("queue", "nothing=1", "queue=-1", "running=0", "running=many"):
        with pytest.raises(InvalidRequestError, match="--limit"):
            _limits([wrong])


def test_keys_come_from_three_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGEN_API_KEYS", "b, c")
    path = tmp_path / "keys"
    path.write_text("d\n\na\n")
    assert _keys(["a"], str(path)) == ("a", "b", "c", "d")
    monkeypatch.delenv("SGEN_API_KEYS")
    path.write_text("\n")
    with pytest.raises(InvalidRequestError, match="has no key"):
        _keys([], str(path))


@pytest.mark.parametrize("option", ["--threads", "--cache-tokens", "--max-running"])
def test_counts_below_one_are_refused_before_an_engine_starts(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", option, "0"]) == 1
    assert f"{option} must be at least 1, not 0" in capsys.readouterr().err


def test_an_unknown_limit_is_named() -> None:
    with pytest.raises(InvalidRequestError, match="there is no limit foo"):
        _limits(["foo=1"])
