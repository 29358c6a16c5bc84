"""Spans: what they say, whose children they are, and that none is made unasked."""

from __future__ import annotations

import subprocess
import sys

import pytest
from live_server import ServerFake
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from starlette.testclient import TestClient

from sgen.server.app import create_app
from sgen.server.settings import Settings
from sgen.server.tracing import Tracing, tracing_from_environment

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def traced(
    path: str, body: object, backend: ServerFake | None = None, **headers: str
) -> list[ReadableSpan]:
    """The spans of a probe and one request."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = create_app(backend or ServerFake(default="hi"), Settings(), Tracing(provider))
    with TestClient(app) as http:
        http.get("/health")
        http.post(path, json=body, headers=headers)
    return list(exporter.get_finished_spans())


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_one_span(stream: bool) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 9, "stream": stream}
    (span,) = traced(
        "/v1/chat/completions",
        body,
        traceparent=f"00-{TRACE}-{PARENT}-01",
        **{"X-Request-Id": "r-1"},
    )
    assert span.name == "chat fake"
    found = dict(span.attributes or {})
    assert found.pop("gen_ai.usage.input_tokens", 0) != 0
    assert found.pop("gen_ai.usage.output_tokens", 0) == 2
    assert found.pop("gen_ai.usage.cache_read.input_tokens", None) == 0
    assert found == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "gen_ai.provider.name": "sgen",
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "fake",
        "gen_ai.response.model": "fake",
        "gen_ai.request.max_tokens": 9,
        "gen_ai.response.finish_reasons": ("stop",),
        "sgen.request.id": "r-1",
    }
    assert span.parent is not None
    assert f"{span.parent.trace_id:032x}" == f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.start_time <= span.end_time


def test_what_fails_says_so() -> None:
    (refused,) = traced("/v1/chat/completions", {"messages": [], "model": "other"})
    assert refused.attributes is not None
    assert refused.attributes["error.type"] == "404"
    assert refused.name == "POST /v1/chat/completions"
    assert (refused.parent, refused.status.status_code) == (None, StatusCode.UNSET)
    down = ServerFake()
    down.state = "restarting"
    (failed,) = traced("/v1/completions", {"prompt": "x"}, down)
    assert failed.status.status_code is StatusCode.ERROR


def test_a_broken_parent_is_none() -> None:
    (span,) = traced("/tokenize", {"prompt": "x"}, traceparent="00-zz-zz-01")
    assert span.parent is None


def test_off_unless_an_endpoint_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert tracing_from_environment() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert tracing_from_environment() is None
    monkeypatch.delenv("OTEL_TRACES_EXPORTER")
    assert tracing_from_environment() is not None


def test_the_server_runs_without_the_packages() -> None:
    code = (
        "import os, sys\n"
        "sys.modules['opentelemetry'] = None\n"
        "os.environ['OTEL_EXPORTER_OTLP_ENDPOINT'] = 'http://127.0.0.1:9'\n"
        "import sgen.server.serve\n"
        "from sgen.server.tracing import tracing_from_environment\n"
        "assert tracing_from_environment() is None\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "pip install 'sgen[otel]'" in ran.stderr
