"""The application: every endpoint, and what surrounds them all.

From outside in: the record of a request, CORS where it is asked for, the guard (limits, keys,
errors), then the routes.  Paths are matched exactly; a wrong one and a wrong method are told in
JSON, and OPTIONS says what a path takes.
"""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from sgen.server import (
    chat,
    completions,
    health,
    messages,
    models,
    openapi,
    playground,
    programs,
    responses,
    text,
)
from sgen.server.admission import Admission
from sgen.server.backend import ServerBackend
from sgen.server.errors import APIError
from sgen.server.exchange import Server
from sgen.server.metrics import Metrics
from sgen.server.middleware import Guard, Records, error_response
from sgen.server.observed import ObservedBackend
from sgen.server.settings import Settings
from sgen.server.tracing import Tracing

_INTERFACES = (
    *(health, models, text, openapi),
    *(chat, completions, responses, messages, programs, playground),
)


def create_app(
    backend: ServerBackend, settings: Settings, tracing: Tracing | None = None
) -> Starlette:
    """The server around a backend; `app.state.server` is what its endpoints share."""
    metrics = Metrics()
    limits = settings.limits
    server = Server(
        ObservedBackend(backend, metrics),
        settings,
        metrics,
        Admission(limits.running, limits.queue),
    )
    middleware = [Middleware(Records, server, tracing), Middleware(Guard, server)]
    if settings.cors_origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Request-Id", "Retry-After"],
        )
        middleware.insert(1, cors)
    app = Starlette(
        routes=[route for module in _INTERFACES for route in module.routes],
        middleware=middleware,
        exception_handlers={HTTPException: _no_route},
    )
    app.router.redirect_slashes = False
    app.state.server = server
    return app


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    methods = _methods(request)
    if methods and request.method == "OPTIONS":
        return Response(status_code=204, headers={"Allow": methods})
    path = request.url.path[:200]
    if error.status_code == 405:
        refused = APIError(
            405, f"{path} takes {methods}, not {request.method[:20]}", code="method_not_allowed"
        )
        response = error_response(request.scope, refused)
        response.headers["Allow"] = methods
        return response
    if error.status_code == 404:
        error_404 = APIError(404, f"there is nothing at {path}", code="not_found")
        return error_response(request.scope, error_404)
    return error_response(request.scope, APIError(error.status_code, str(error.detail)))


def _methods(request: Request) -> str:
    """All methods of the routes that match the path."""
    names: set[str] = set()
    routes: list[Any] = request.app.routes
    for route in routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            names |= route.methods or set()
    return ", ".join(sorted(names))
