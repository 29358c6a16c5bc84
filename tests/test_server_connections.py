"""Limits at the limit and one past it; clients that go, stall, or talk nonsense: over sockets."""

from __future__ import annotations

import json
import time
from contextlib import suppress

from live_server import Live, live, read_all, until

from sgen.server.admission import stopping
from sgen.server.settings import Limits

ECHO = b"POST /play/echo HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


def exchange(server: Live, data: bytes) -> bytes:
    """What comes back for the bytes until the server closes."""
    with server.connect() as sock:
        sock.sendall(data)
        return read_all(sock)


def header_of(size: int) -> bytes:
    """A whole header of so many bytes."""
    start = b"GET /ping HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-fill: "
    return start + b"a" * (size - len(start) - 4) + b"\r\n\r\n"


def test_a_header_at_the_limit_and_one_byte_past_it() -> None:
    with live(Limits(header_bytes=1024)) as server:
        assert exchange(server, header_of(1024)).startswith(b"HTTP/1.1 200")
        refused = exchange(server, header_of(1025))
        assert refused.startswith(b"HTTP/1.1 431")
        assert b"header_too_large" in refused
        unending = exchange(server, b"GET /ping HTTP/1.1\r\nx-fill: " + b"a" * 4096)
        assert unending.startswith(b"HTTP/1.1 431")


def test_a_body_at_the_limit_and_one_byte_past_it() -> None:
    with live(Limits(body_bytes=1024)) as server:
        good = b'{"number": 7}'.ljust(1024)
        status, _, body = server.post("/play/echo", good)
        assert (status, json.loads(body)["number"]) == (200, 7)
        status, _, body = server.post("/play/echo", good + b" ")
        assert status == 413
        assert json.loads(body)["error"]["code"] == "body_too_large"
        chunked = ECHO + b"transfer-encoding: chunked\r\n\r\n"
        pieces = b"200\r\n" + b" " * 512 + b"\r\n"
        assert b"HTTP/1.1 413" in exchange(server, chunked + 3 * pieces + b"0\r\n\r\n")


def test_a_header_that_does_not_come() -> None:
    with live(Limits(header_seconds=0.1)) as server:
        late = exchange(server, b"GET /ping HTTP/1.1\r\nhost:")
        assert late.startswith(b"HTTP/1.1 408")
        assert exchange(server, b"") == b""
        # The second request of a connection is timed as well.
        kept = b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n"
        assert b"HTTP/1.1 408" in exchange(server, kept + b"GET")


def test_a_body_that_does_not_come() -> None:
    with live(Limits(body_seconds=0.1)) as server:
        late = exchange(server, ECHO + b"content-length: 10\r\n\r\n{")
        assert late.startswith(b"HTTP/1.1 408")
        assert b"body_timeout" in late


def test_what_is_no_http() -> None:
    with live() as server:
        answer = exchange(server, b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"invalid_http" in answer
        bad_chunk = exchange(server, ECHO + b"transfer-encoding: chunked\r\n\r\nzz\r\n")
        assert bad_chunk.startswith(b"HTTP/1.1 400")
        assert server.get("/health")[0] == 200


def test_one_connection_too_many() -> None:
    with live(Limits(connections=2)) as server, server.connect(), server.connect():
        status, headers, body = server.get("/health")
        assert status == 503
        assert "retry-after" in headers
        assert json.loads(body)["error"]["code"] == "too_many_connections"


def test_one_request_too_many_is_told_when_to_come_again() -> None:
    with live(Limits(running=1, queue=1)) as server:
        first = server.send("/play/forever", {})
        until(lambda: server.plays.started == 1)
        second = server.send("/play/forever", {})
        until(lambda: server.server.admission.waiting == 1)
        assert server.get("/ready")[0] == 503
        assert server.get("/health")[0] == 200
        status, headers, _ = server.post("/play/forever")
        assert status == 429
        assert int(headers["retry-after"]) >= 1
        first.close()  # its place goes to the one that waits
        until(lambda: server.plays.started == 2)
        second.close()
        until(lambda: server.server.admission.taken == 0)
        assert server.server.running == {}


def test_one_that_goes_while_it_waits_leaves_the_queue() -> None:
    with live(Limits(running=1, queue=1)) as server:
        first = server.send("/play/forever", {})
        until(lambda: server.plays.started == 1)
        server_waits = server.server.admission
        second = server.send("/play/forever", {})
        until(lambda: server_waits.waiting == 1)
        second.close()
        until(lambda: server_waits.waiting == 0)
        first.close()
        until(lambda: server_waits.taken == 0)
        assert server.plays.started == server.plays.ended == 1


def test_a_stream_ends_when_its_client_goes() -> None:
    with live() as server:
        sock = server.send("/play/stream", {"number": 1, "anything": "hang"})
        assert b"200 OK" in sock.recv(4096)
        sock.close()
        until(lambda: server.plays.ended == 1)
        until(lambda: server.server.running == {} and server.server.ids == set())


def test_a_stream_that_fails_says_so() -> None:
    with live() as server:
        status, headers, body = server.post("/play/stream", {"number": 2, "anything": "fail"})
        assert status == 200
        assert headers["content-type"].startswith("text/event-stream")
        assert body.startswith(b"data: 0\n\n")
        assert b"event: error" in body
        assert b"it went wrong" in body
        _, _, body = server.post("/play/stream", {"number": 1, "anything": "bug"})
        assert b"internal_error" in body
        assert b"secret" not in body


def test_an_error_before_the_first_event_is_an_answer_of_its_own() -> None:
    with live() as server:
        status, _, body = server.post("/play/stream", {"anything": "fail"})
        assert (status, json.loads(body)["error"]["code"]) == (400, "wrong")
        assert server.server.admission.taken == 0


def test_a_silent_stream_sends_comments() -> None:
    with live(Limits(keep_alive_seconds=0.05)) as server:
        with server.send("/play/stream", {"anything": "hang"}) as sock:
            got = b""
            while got.count(b": ping\n\n") < 2:
                got += sock.recv(4096)
        assert got.startswith(b"HTTP/1.1 200")


def test_a_slow_reader_holds_up_nobody_and_is_not_buffered() -> None:
    with live() as server:
        slow = server.send("/play/stream", {"number": 100_000, "items": [1000]})
        until(lambda: server.plays.started == 1)
        status, _, body = server.post("/play/stream", {"number": 50})
        assert (status, body.count(b"data:")) == (200, 50)
        # What the system's own buffers hold may be taken from it, but by far not all.
        assert server.plays.sent < 50_000
        slow.close()
        until(lambda: server.plays.ended == 2)


def test_beyond_twice_as_many_connections_there_is_not_even_an_answer() -> None:
    with live(Limits(connections=1)) as server, server.connect(), server.connect() as second:
        second.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: keep-alive\r\n")
        with server.connect() as third, suppress(ConnectionResetError):
            assert third.recv(1) == b""
        second.sendall(b"\r\n")
        assert second.recv(12) == b"HTTP/1.1 503"


def test_who_reads_nothing_for_too_long_is_cut_off() -> None:
    with live(Limits(write_seconds=1.0)) as server:
        slow = server.send("/play/stream", {"number": 100_000, "items": [1000]})
        until(lambda: server.plays.ended == 1)
        until(lambda: server.server.admission.taken == 0)
        slow.close()
        silent = server.send("/play/stream", {"number": 1, "anything": "hang"})
        got = silent.recv(4096)
        time.sleep(1.5)  # it has read all that there was, so it is not cut off
        assert server.plays.ended == 1
        silent.close()
        until(lambda: server.plays.ended == 2)
        assert got.startswith(b"HTTP/1.1 200")


def test_a_request_is_cancelled_by_its_id() -> None:
    with live() as server:
        headers = {"X-Request-Id": "mine"}
        sock = server.connect()
        sock.sendall(
            b"POST /play/stream HTTP/1.1\r\nhost: x\r\nx-request-id: mine\r\n"
            b'content-length: 35\r\n\r\n{"number": 1, "anything": "hang"  }'
        )
        assert b"x-request-id: mine" in sock.recv(4096).lower()
        status, _, _ = server.request("DELETE", "/v1/requests/mine", None, {})
        assert status == 200
        until(lambda: server.plays.ended == 1)
        got = b""
        while b"0\r\n\r\n" not in got:
            got += sock.recv(4096)
        assert b'"code":"cancelled"' in got
        sock.close()
        assert server.request("DELETE", "/v1/requests/mine", None, headers)[0] == 404


def test_all_are_told_when_the_server_stops() -> None:
    with live(Limits(running=2, queue=2)) as server:
        stream = server.send("/play/stream", {"number": 1, "anything": "hang"})
        plain = server.send("/play/forever", {})
        until(lambda: server.plays.started == 2)
        waiting = server.send("/play/forever", {})
        until(lambda: server.server.admission.waiting == 1)
        server.run(server.server.admission.drain)
        assert b"HTTP/1.1 503" in waiting.recv(4096)
        assert server.get("/ready")[0] == 503
        assert server.post("/play/forever")[0] == 503
        server.run(lambda: [end(stopping()) for end in list(server.server.running.values())])
        assert b"HTTP/1.1 503" in plain.recv(4096)
        got = b""
        while b"0\r\n\r\n" not in got:
            got += stream.recv(4096)
        assert b"shutting_down" in got
        for sock in (stream, plain, waiting):
            sock.close()
