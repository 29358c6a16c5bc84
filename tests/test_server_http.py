"""Bodies, names, keys, and answers to what is wrong, in one process."""

from __future__ import annotations

import json
from typing import Any

import pytest
from live_server import ServerFake, played_app
from starlette.testclient import TestClient

from sgen.server.json_depth import depth
from sgen.server.settings import Limits, Settings


def client(backend: ServerFake | None = None, **settings: Any) -> TestClient:
    app, _ = played_app(Settings(**settings), backend)
    return TestClient(app, raise_server_exceptions=False)


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (b'{"number": NaN}', "not JSON"),
        (b'{"number": Infinity}', "not JSON"),
        (b'{"anything": "\xff"}', "not JSON"),
        (b'{"anything": "\\ud800"}', "not JSON"),
        (b"[]", "Expected `object`"),
        (b'{"number": "1"}', "Expected `int`, got `str`"),
        (b'{"number": 1e999}', "out of range"),
    ],
)
def test_a_broken_body_is_a_400(body: bytes, text: str) -> None:
    answer = client().post("/play/echo", content=body, headers=JSON)
    assert answer.status_code == 400
    assert text in answer.json()["error"]["message"]


def test_what_is_wrong_in_a_body_is_named() -> None:
    answer = client().post("/play/echo", json={"items": [1, "x"]})
    assert answer.json()["error"]["param"] == "items[1]"
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_nesting_at_the_limit_and_one_past_it() -> None:
    with client(limits=Limits(json_depth=200)) as http:
        for levels, status in ((199, 200), (200, 400), (100_000, 400)):
            body = b'{"anything": ' + b"[" * levels + b"]" * levels + b"}"
            assert http.post("/play/echo", content=body, headers=JSON).status_code == status


def test_depth_is_told_without_strings() -> None:
    assert depth(b'{"a": "[[[[", "b": [1, {"c": "\\"[[[\\\\"}]}') == 3
    assert depth(b"1") == depth(b"") == 0


def test_of_two_members_of_one_name_the_last_counts() -> None:
    answer = client().post("/play/echo", content=b'{"number": 1, "number": 2}', headers=JSON)
    assert answer.json()["number"] == 2


def test_unknown_fields_are_ignored_and_counted() -> None:
    with client() as http:
        answer = http.post("/play/echo", json={"number": 3, "future": 1, "odd name": 2})
        assert answer.json()["number"] == 3
        text = http.get("/metrics").text
    assert 'sgen_unknown_fields_total{endpoint="/play/echo",field="future"} 1.0' in text
    assert 'field="other"} 1.0' in text
    assert "odd name" not in text


def test_a_body_of_many_unknown_fields_is_counted_as_few() -> None:
    body = {f"k{i}": 0 for i in range(1000)}
    with client() as http:
        assert http.post("/play/echo", json=body).status_code == 200
        text = http.get("/metrics").text
    assert text.count('sgen_unknown_fields_total{endpoint="/play/echo"') == 65
    assert 'field="other"} 936.0' in text


@pytest.mark.parametrize(
    ("host", "headers", "status"),
    [
        ("127.0.0.1:8000", {}, 200),
        ("127.0.0.1:8000", {"Origin": "http://127.0.0.1:8000"}, 200),
        ("LOCALHOST:8000", {"Origin": "http://localhost:8000"}, 200),
        ("[::1]:8000", {"Origin": "http://[::1]:8000"}, 200),
        ("127.0.0.1:8000", {"Origin": "https://a.example"}, 200),
        ("127.0.0.1:8000", {"Origin": "http://127.0.0.1:9000"}, 403),
        ("127.0.0.1:8000", {"Origin": "http://evil.example"}, 403),
        ("evil.example", {"Origin": "http://evil.example"}, 403),
        ("127.0.0.1:8000", {"Origin": "null"}, 403),
        ("127.0.0.1:8000", {"Origin": "http://[x"}, 403),
        ("127.0.0.1:8000", {"Sec-Fetch-Site": "cross-site"}, 403),
        ("127.0.0.1:8000", {"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_pages_of_others_may_not_call(host: str, headers: dict[str, str], status: int) -> None:
    settings: dict[str, Any] = {"cors_origins": ("https://a.example",)}
    with client(**settings) as http:
        given = {"Host": host, **headers}
        assert http.post("/play/echo", json={}, headers=given).status_code == status
        assert http.get("/v1/models", headers=given).status_code == 200
    with client(api_keys=("k",), **settings) as http:  # no page has the key unless it was given
        given = {"Host": host, "Authorization": "Bearer k", **headers}
        assert http.post("/play/echo", json={}, headers=given).status_code == 200
    if host == "evil.example":  # a name of one's own, where others may come too
        with client(host="0.0.0.0") as http:
            given = {"Host": host, **headers}
            assert http.post("/play/echo", json={}, headers=given).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {**JSON, "Content-Encoding": "gzip"},
    ],
)
def test_other_kinds_of_body_are_a_415(headers: dict[str, str]) -> None:
    assert client().post("/play/echo", content=b"{}", headers=headers).status_code == 415


def test_unknown_paths_and_methods() -> None:
    with client() as http:
        missing = http.get("/v1/nothing")
        assert missing.status_code == 404
        assert missing.json()["error"]["code"] == "not_found"
        assert http.get("/v1/models/").status_code == 404
        wrong = http.put("/play/echo")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
        asked = http.options("/v1/models")
        assert (asked.status_code, asked.headers["allow"]) == (204, "GET, HEAD")
        assert http.head("/v1/models").status_code == 200
        assert http.post("/v1/embeddings", json={}).status_code == 404


def test_a_key_is_asked_for_except_by_probes() -> None:
    with client(api_keys=("one", "zwei-ü")) as http:
        assert http.get("/v1/models").status_code == 401
        assert http.get("/metrics").status_code == 401
        assert http.get("/health").status_code == http.get("/ready").status_code == 200
        for headers, status in (
            ({"Authorization": "Bearer one"}, 200),
            ({"authorization": "bearer one"}, 200),
            ({"x-api-key": "one"}, 200),
            ({"Authorization": "Bearer on"}, 401),
            ({"Authorization": "Bearer one "}, 200),
            ({"Authorization": "Basic one"}, 401),
            ({"x-api-key": ""}, 401),
        ):
            assert http.get("/v1/models", headers=headers).status_code == status, headers
        other: list[tuple[bytes, bytes]] = [(b"x-api-key", "zwei-ü".encode())]
        assert http.get("/v1/models", headers=other).status_code == 200


def test_errors_of_messages_have_anthropic_s_form() -> None:
    answer = client(api_keys=("one",)).post("/v1/messages", json={})
    assert answer.status_code == 401
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == "authentication_error"


def test_cors_only_where_it_is_asked_for() -> None:
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    refused = client().options("/play/echo", headers=asked)
    assert "access-control-allow-origin" not in refused.headers
    with client(cors_origins=("https://a.example",), api_keys=("k",)) as http:
        allowed = http.options("/play/echo", headers=asked)
        assert allowed.headers["access-control-allow-origin"] == "https://a.example"
        # A page may read what is wrong, too.
        error = http.get("/v1/models", headers={"Origin": "https://a.example"})
        assert error.status_code == 401
        assert error.headers["access-control-allow-origin"] == "https://a.example"


def test_request_ids_are_kept_or_made() -> None:
    with client() as http:
        assert http.get("/ping", headers={"X-Request-Id": "a-1"}).headers["x-request-id"] == "a-1"
        odd = http.get("/ping", headers={"X-Request-Id": "a b<c>" + "d" * 100})
        assert odd.headers["x-request-id"] == "abc" + "d" * 61
        both = http.post("/v1/messages", json={}, headers={"X-Request-Id": "a-2"})
        assert both.headers["request-id"] == both.headers["x-request-id"] == "a-2"
        assert both.json()["request_id"] == "a-2"
        made = {http.get("/ping").headers["x-request-id"] for _ in range(2)}
        assert len(made) == 2


def test_the_model_goes_by_each_of_its_names() -> None:
    with client(served_names=("gpt-4o", "org/one")) as http:
        listed = [one["id"] for one in http.get("/v1/models").json()["data"]]
        assert listed == ["gpt-4o", "org/one", "fake"]
        assert http.get("/v1/models/org/one").json()["id"] == "org/one"
        missing = http.get("/v1/models/other")
        assert missing.status_code == 404
        assert missing.json()["error"]["code"] == "model_not_found"
        assert "org/one" in missing.json()["error"]["message"]


@pytest.mark.parametrize("state", ["starting", "restarting", "failed", "closed"])
def test_without_an_engine_requests_are_a_503(state: Any) -> None:
    backend = ServerFake()
    backend.state = state
    with client(backend) as http:
        assert http.get("/health").status_code == http.get("/ready").status_code == 503
        answer = http.post("/play/forever", json={})
        assert answer.status_code == 503
        assert ("retry-after" in answer.headers) == (state != "failed")
        assert http.get("/ping").status_code == http.get("/metrics").status_code == 200


def test_what_routers_ask_of_a_worker() -> None:
    with client() as http:
        info = http.get("/get_server_info").json()
        assert info["internal_states"][0]["num_pages"] == 10
        assert http.get("/server_info").json()["context_length"] == 4096
        assert http.get("/model_info").json()["is_generation"] is True
        assert "sgen_kv_cache_pages_used 6.0" in http.get("/metrics").text


def test_tokens_and_templates() -> None:
    with client() as http:
        assert http.post("/tokenize", json={"prompt": "abc"}).json()["count"] == 3
        assert http.post("/tokenize", json={"content": "ab"}).json()["tokens"] == [0, 1]
        assert http.post("/tokenize", json={}).status_code == 400
        text = http.post("/detokenize", json={"tokens": [104, 105]}).json()
        assert text["prompt"] == text["content"] == "hi"
        messages = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
        assert "hi" in http.post("/apply-template", json={"messages": messages}).json()["prompt"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"prompt": "x" * 50}),
        ("/detokenize", {"tokens": [65] * 12}),
        ("/apply-template", {"messages": [{"role": "user", "content": "x" * 9}]}),
    ],
)
def test_texts_are_bounded_and_wait_for_a_place(path: str, body: dict[str, Any]) -> None:
    size = len(json.dumps(body, separators=(",", ":")))
    for most, status in ((size, 200), (size - 1, 413)):
        with client(limits=Limits(text_bytes=most)) as http:
            raw = json.dumps(body, separators=(",", ":")).encode()
            assert http.post(path, content=raw, headers=JSON).status_code == status
    app, _ = played_app(Settings())
    app.state.server.admission.draining = True
    with TestClient(app) as http:
        assert http.post(path, json=body).status_code == 503


def test_a_template_shows_what_a_chat_would() -> None:
    function = {"name": "look", "arguments": '{"at": 1}'}
    chat: dict[str, Any] = {
        "messages": [
            {"role": "developer", "content": "be kind"},
            {"role": "assistant", "tool_calls": [{"id": "c", "function": function}]},
            {"role": "tool", "tool_call_id": "c", "content": "seen"},
        ],
        "tools": [{"type": "function", "function": {"name": "look"}}],
    }
    backend = ServerFake(default="hi")
    with client(backend) as http:
        shown = http.post("/apply-template", json=chat).json()["prompt"]
        assert http.post("/v1/chat/completions", json=chat).status_code == 200
        asked = backend.requests[-1].prompt
        assert shown == repr(asked)
        assert http.post("/tokenize", json=chat).json()["count"] == backend.count_tokens(asked)
        wrong = http.post("/tokenize", json={"messages": [{"role": "cat", "content": "x"}]})
        assert wrong.json()["error"]["param"] == "messages.0.role"


def test_requests_of_another_key_are_not_to_be_ended() -> None:
    app, _ = played_app(Settings(api_keys=("a", "b")))
    server, ended = app.state.server, []
    for one in ("a", "b"):
        server.running[f"of-{one}"], server.keys[f"of-{one}"] = ended.append, one
    with TestClient(app, headers={"x-api-key": "a"}) as http:
        assert http.delete("/v1/requests/of-b").status_code == 404
        assert http.post("/abort_request", json={"rid": "of-b"}).status_code == 404
        assert not ended
        all_mine = http.post("/abort_request", json={"abort_all": True})
        assert all_mine.json() == {"cancelled": ["of-a"]}
    assert len(ended) == 1
