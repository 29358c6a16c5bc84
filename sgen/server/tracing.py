"""Spans of OpenTelemetry: one for each request that is no GET, named as is usual for models.

Off unless the extra `otel` is installed and OTEL_EXPORTER_OTLP_ENDPOINT, or that of traces, is set.
A span is made when its request has ended, so that nothing waits for one; a client's `traceparent`
is its parent.  No text of a prompt or an answer is in it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import sgen
from sgen.server.exchange import Exchange

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.util.types import AttributeValue

log = logging.getLogger("sgen.server.tracing")

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/messages": "chat",
}
_UNTRACED = ("GET", "HEAD", "OPTIONS")


class Tracing:
    """Writes spans to a provider."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = provider.get_tracer("sgen.server", sgen.__version__)
        self._propagator = TraceContextTextMapPropagator()

    def write(
        self, exchange: Exchange, method: str, route: str, status: int, headers: Mapping[str, str]
    ) -> None:
        """The span of a request that ends now."""
        if method in _UNTRACED:
            return
        from opentelemetry.trace import SpanKind, StatusCode

        end = time.time_ns()
        operation = _OPERATIONS.get(route)
        span = self._tracer.start_span(
            f"{operation} {exchange.model}"
            if operation and exchange.model
            else f"{method} {route}",
            context=self._propagator.extract(headers),
            kind=SpanKind.SERVER,
            attributes=_attributes(exchange, method, route, status, operation),
            start_time=end - int((time.monotonic() - exchange.started) * 1e9),
        )
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end(end)


def tracing_from_environment() -> Tracing | None:
    """None where it is off; a warning says so where it was asked for and cannot be."""
    wanted = any(os.environ.get(name) for name in _ENDPOINTS)
    if not wanted or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        log.warning("no traces: %s; pip install 'sgen[otel]'", error)
        return None
    named = Resource.create({"service.name": "sgen", "service.version": sgen.__version__})
    provider = TracerProvider(resource=named.merge(OTELResourceDetector().detect()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)  # at the end of the process it sends what is left


def _attributes(
    exchange: Exchange, method: str, route: str, status: int, operation: str | None
) -> dict[str, AttributeValue]:
    usage = exchange.usage
    found: dict[str, AttributeValue] = {
        "http.request.method": method,
        "http.route": route,
        "http.response.status_code": status,
        "gen_ai.provider.name": "sgen",
        "sgen.request.id": exchange.id,
    }
    if operation is not None:
        found["gen_ai.operation.name"] = operation
    if exchange.model:
        found["gen_ai.request.model"] = found["gen_ai.response.model"] = exchange.model
    if exchange.max_tokens is not None:
        found["gen_ai.request.max_tokens"] = exchange.max_tokens
    if usage.prompt_tokens:
        found["gen_ai.usage.input_tokens"] = usage.prompt_tokens
        found["gen_ai.usage.cache_read.input_tokens"] = usage.cached_tokens
        found["gen_ai.usage.output_tokens"] = usage.completion_tokens
    if exchange.finished:
        found["gen_ai.response.finish_reasons"] = tuple(exchange.finished)
    if status >= 400:
        found["error.type"] = str(status)
    return found
