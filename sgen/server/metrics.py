"""What Prometheus reads at /metrics.

Names are those of vLLM with our prefix, where it has the same thing.  Labels never come from a
client but for the names of unknown fields, of which a bounded number is kept apart.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from sgen.protocol import Usage
from sgen.runtime.stats import EngineStats

CONTENT_TYPE = CONTENT_TYPE_LATEST

_LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_STEPS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
_MOST_FIELDS = 256
_MOST_OF_A_BODY = 64


class Metrics:
    """The counters of one server; they are in its own registry."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "sgen_http_requests", "Answered.", ("method", "path", "status"), registry=registry
        )
        self.seconds = Histogram(
            "sgen_http_request_duration_seconds",
            "From the header to the last byte of the answer.",
            ("path",),
            buckets=_LATENCIES,
            registry=registry,
        )
        self.first_token = _histogram(
            registry, "time_to_first_token_seconds", "To the first token.", _LATENCIES
        )
        self.inter_token = _histogram(
            registry, "inter_token_latency_seconds", "Between two pieces of output.", _STEPS
        )
        self.generation = _histogram(
            registry, "e2e_request_latency_seconds", "Of a request to the engine.", _LATENCIES
        )
        self.finished = Counter(
            "sgen_request_success",
            "Requests to the engine that ended.",
            ("finished_reason",),
            registry=registry,
        )
        self.aborted = _counter(registry, "request_aborted", "Given up before their end.")
        self._prompt = _counter(registry, "prompt_tokens", "Of prompts.")
        self._cached = _counter(registry, "prompt_tokens_cached", "Of prompts, not computed.")
        self._generated = _counter(registry, "generation_tokens", "Generated.")
        self._unknown = Counter(
            "sgen_unknown_fields",
            "Fields of bodies that were ignored.",
            ("endpoint", "field"),
            registry=registry,
        )
        self._known_unknown: set[tuple[str, str]] = set()
        self._running = _gauge(registry, "num_requests_running", "In the engine.")
        self._waiting = _gauge(registry, "num_requests_waiting", "For the engine.")
        self._used_pages = _gauge(registry, "kv_cache_pages_used", "Held by requests or the tree.")
        self._all_pages = _gauge(registry, "kv_cache_pages_total", "Of 16 tokens.")
        self._usage = _gauge(registry, "kv_cache_usage_perc", "Pages used; 1 is all.")
        self._ready = _gauge(registry, "engine_ready", "1 when it takes requests.")
        self._restarts = _gauge(registry, "engine_restarts", "Of the engine's process.")

    def tokens(self, usage: Usage) -> None:
        self._prompt.inc(usage.prompt_tokens)
        self._cached.inc(usage.cached_tokens)
        self._generated.inc(usage.completion_tokens)

    def unknown_fields(self, endpoint: str, names: Sequence[str]) -> None:
        """Fields of a body were ignored; strange names, those after the first few of a body, and
        those after the first few hundred of all are "other"."""
        others = max(0, len(names) - _MOST_OF_A_BODY)
        for name in names[:_MOST_OF_A_BODY]:
            label = (endpoint, name)
            if label not in self._known_unknown:
                if len(self._known_unknown) >= _MOST_FIELDS or not _FIELD.fullmatch(name):
                    others += 1
                    continue
                self._known_unknown.add(label)
            self._unknown.labels(*label).inc()
        if others:
            self._unknown.labels(endpoint, "other").inc(others)

    def engine(self, stats: EngineStats | None, *, queued: int, restarts: int) -> None:
        """How the engine is now; None while it is down.  `queued` have not reached it yet."""
        self._ready.set(stats is not None)
        self._restarts.set(restarts)
        self._running.set(0 if stats is None else stats.num_running)
        self._waiting.set(queued + (0 if stats is None else stats.num_waiting))
        if stats is not None:
            used = stats.num_pages - stats.free_pages
            self._used_pages.set(used)
            self._all_pages.set(stats.num_pages)
            self._usage.set(used / max(1, stats.num_pages))

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)


def _counter(registry: CollectorRegistry, name: str, text: str) -> Counter:
    return Counter(f"sgen_{name}", text, registry=registry)


def _gauge(registry: CollectorRegistry, name: str, text: str) -> Gauge:
    return Gauge(f"sgen_{name}", text, registry=registry)


def _histogram(
    registry: CollectorRegistry, name: str, text: str, buckets: tuple[float, ...]
) -> Histogram:
    return Histogram(f"sgen_{name}", text, buckets=buckets, registry=registry)
