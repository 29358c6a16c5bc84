"""Is it alive, does it take requests, what does it count?

`/health`: 200 while the engine is there, also while the server drains or its queue is full; 503
while the engine starts, restarts or has failed.  `/ready`: 200 when a request would be taken now;
else 503.  `/ping`: the HTTP process alone.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import sgen
from sgen.errors import SgenError
from sgen.runtime.stats import EngineStats
from sgen.server.errors import APIError
from sgen.server.exchange import Server, exchange_of
from sgen.server.http import json_response, model_names, read_body, server_of
from sgen.server.metrics import CONTENT_TYPE

_STATS_SECONDS = 1.0


async def health(request: Request) -> Response:
    """Is the engine there?"""
    state = server_of(request).backend.state
    return _answer(state == "ready", state)


async def ready(request: Request) -> Response:
    """Would a request be taken now?"""
    server = server_of(request)
    if server.admission.draining:
        return _answer(False, "draining")
    if server.admission.full:
        return _answer(False, "full")
    return _answer(server.backend.state == "ready", server.backend.state)


async def ping(request: Request) -> Response:
    """Is the HTTP process there?"""
    return Response(status_code=200)


async def version(request: Request) -> Response:
    """The version of sgen."""
    return json_response({"version": sgen.__version__})


async def metrics(request: Request) -> Response:
    """Counters for Prometheus."""
    server = server_of(request)
    restarts = getattr(server.backend, "restarts", 0)
    server.metrics.engine(await _stats(server), queued=server.admission.waiting, restarts=restarts)
    return Response(server.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


async def server_info(request: Request) -> Response:
    """What routers ask of a worker: which model, how large, how busy."""
    server = server_of(request)
    info = server.backend.info
    stats = await _stats(server)
    limits = server.settings.limits
    return json_response(
        {
            "version": sgen.__version__,
            "model_path": info.name,
            "served_model_name": model_names(server)[0],
            "context_length": info.context_length,
            "max_running_requests": limits.running,
            "max_queued_requests": limits.queue,
            "tp_size": 1,
            "dp_size": 1,
            "status": server.backend.state,
            "started": server.started,
            "compute": info.compute,
            "limits": limits,
            "internal_states": [] if stats is None else [stats],
        }
    )


async def model_info(request: Request) -> Response:
    """What the model is and can do."""
    server = server_of(request)
    info = server.backend.info
    return json_response(
        {
            "model_path": info.name,
            "tokenizer_path": info.name,
            "served_model_name": model_names(server)[0],
            "is_generation": True,
            "max_context_length": info.context_length,
            "vocab_size": info.vocab_size,
            "has_chat_template": info.has_chat_template,
            "tool_format": info.tool_format,
            "reasoning": info.reasoning is not None,
        }
    )


async def cancel(request: Request) -> Response:
    """Ends a request of the same key by its id; its client is told so."""
    return _cancel(request, request.path_params["id"])


async def abort(request: Request) -> Response:
    """The same in SGLang's form: {"rid": id}, or {"abort_all": true}."""
    wanted = await read_body(request, AbortRequest)
    server = server_of(request)
    if wanted.abort_all:
        key = exchange_of(request.scope).key
        ids = [one for one in server.running if server.keys[one] == key]
        for one in ids:
            server.running[one](_cancelled())
        return json_response({"cancelled": ids})
    return _cancel(request, wanted.rid)


class AbortRequest(msgspec.Struct):
    rid: str = ""
    abort_all: bool = False


def _cancel(request: Request, wanted: str) -> Response:
    server = server_of(request)
    end = server.running.get(wanted)
    if end is None or server.keys[wanted] != exchange_of(request.scope).key:
        raise APIError(404, f"no request {wanted[:80]!r} is running", code="request_not_found")
    end(_cancelled())
    return json_response({"id": wanted, "object": "request", "cancelled": True})


def _cancelled() -> APIError:
    return APIError(499, "the request was cancelled", code="cancelled")


def _answer(good: bool, state: str) -> Response:
    body: dict[str, Any] = {"status": "ok" if good else state}
    response = json_response(body, 200 if good else 503)
    if not good and state != "failed":
        response.headers["Retry-After"] = "5"
    return response


async def _stats(server: Server) -> EngineStats | None:
    """None while the engine is down or too busy to say."""
    if server.backend.state != "ready":
        return None
    try:
        async with asyncio.timeout(_STATS_SECONDS):
            return await server.backend.stats()
    except (SgenError, TimeoutError):
        return None


routes = [
    Route("/health", health),
    Route("/health_generate", health),
    Route("/ready", ready),
    Route("/ping", ping, methods=["GET", "POST"]),
    Route("/version", version),
    Route("/metrics", metrics),
    Route("/server_info", server_info),
    Route("/get_server_info", server_info),
    Route("/model_info", model_info),
    Route("/get_model_info", model_info),
    Route("/v1/requests/{id}", cancel, methods=["DELETE"]),
    Route("/abort_request", abort, methods=["POST"]),
]
