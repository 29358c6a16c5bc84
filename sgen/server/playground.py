"""GET /: a page on which to try the model, in plain HTML, CSS and JavaScript, all from here.

The files stand under static/ and are read once.  The page loads nothing from elsewhere and has no
inline script, and its headers hold it to that; it needs no key, what it calls may.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sgen.server.errors import APIError
from sgen.server.http import server_of

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

TYPES = {
    "index.html": "text/html",
    "style.css": "text/css",
    "app.js": "text/javascript",
    "api.js": "text/javascript",
    "programs.js": "text/javascript",
    "view.js": "text/javascript",
}
"""The files of the page; there are no others under its address."""


async def page(request: Request) -> Response:
    """The page, or a file of it."""
    name = request.path_params.get("name", "index.html")
    if name not in TYPES or not server_of(request).settings.playground:
        raise APIError(404, "there is no such page", code="not_found")
    return Response(_content(name), media_type=TYPES[name], headers=HEADERS)


@cache
def _content(name: str) -> bytes:
    return (files("sgen.server") / "static" / name).read_bytes()


routes = [
    Route("/", page, methods=["GET"]),
    Route("/static/{name}", page, methods=["GET"]),
]
