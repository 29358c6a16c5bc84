"""Who may call: those with a key, in `Authorization: Bearer KEY` or in `x-api-key: KEY`.

Without keys in the settings anybody may.  Open to all, since probes and browsers bring no key and
nothing there tells of requests: /health, /ready, /ping, and the playground's own files.  /metrics
is not open.

Without keys whatever a browser of this machine opens could call, so that what changes or costs
something is refused to pages of other origins.  With keys no page has one that it was not given.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from sgen.server.errors import APIError
from sgen.server.settings import Settings

OPEN_PATHS = frozenset({"/", "/health", "/ready", "/ping"})
OPEN_FOLDER = "/static/"


def check_key(keys: Sequence[str], method: str, path: str, headers: Headers) -> str:
    """The key that is given, or "" where none is needed; APIError 401 unless it is one of the
    keys.  How long it takes says nothing of them."""
    is_open = path in OPEN_PATHS or path.startswith(OPEN_FOLDER) or method == "OPTIONS"
    if not keys or is_open:
        return ""
    given = _given(headers)
    if not given:
        raise APIError(401, "no API key: send Authorization: Bearer KEY", code="missing_api_key")
    given_bytes = given.encode("latin-1")  # as Starlette decodes header fields
    matches = [hmac.compare_digest(given_bytes, key.encode()) for key in keys]
    if not any(matches):
        raise APIError(401, "the API key is not a valid one", code="invalid_api_key")
    return given


def check_origin(settings: Settings, method: str, headers: Headers) -> None:
    """APIError 403 where a page asks that is neither the server's own nor one of cors_origins."""
    if settings.api_keys or method in ("GET", "HEAD", "OPTIONS"):
        return
    origin = headers.get("origin")
    if origin is None:
        foreign = headers.get("sec-fetch-site") in ("cross-site", "same-site")
    elif {origin, "*"} & set(settings.cors_origins):
        foreign = False
    else:
        foreign = not _is_own(origin, headers.get("host", ""), settings.host)
    if foreign:
        name = "this page" if origin is None else f"pages of {origin[:200]}"
        message = f"{name} may not call this server; --cors-origin lets an origin in"
        raise APIError(403, message, code="origin_refused")


def _is_own(origin: str, host: str, bound: str) -> bool:
    try:
        page = urlsplit(origin)
        name = page.hostname or ""
    except ValueError:
        return False
    if page.netloc.lower() != host.lower():
        return False
    # Any name can be made to point at loopback, by whoever owns it.
    return not _is_loopback(bound) or _is_loopback(name)


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _given(headers: Headers) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
