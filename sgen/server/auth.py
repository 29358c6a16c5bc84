"""Who may call: those with a key, in `Authorization: Bearer KEY` or in `x-api-key: KEY`.

Without keys in the settings anybody may.  Open to all, since probes and browsers bring no key and
nothing there tells of requests: /health, /ready, /ping, and the playground's own files.  /metrics
is not open.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers

from sgen.server.errors import APIError

OPEN_PATHS = frozenset({"/", "/health", "/ready", "/ping"})
OPEN_FOLDER = "/static/"


def check_key(keys: Sequence[str], method: str, path: str, headers: Headers) -> None:
    """APIError 401 unless one of the keys is given, or none is needed.  How long it takes says
    nothing of the keys."""
    is_open = path in OPEN_PATHS or path.startswith(OPEN_FOLDER) or method == "OPTIONS"
    if not keys or is_open:
        return
    given = _given(headers)
    if not given:
        raise APIError(401, "no API key: send Authorization: Bearer KEY", code="missing_api_key")
    given_bytes = given.encode("latin-1")  # as Starlette decodes header fields
    matches = [hmac.compare_digest(given_bytes, key.encode()) for key in keys]
    if not any(matches):
        raise APIError(401, "the API key is not a valid one", code="invalid_api_key")


def _given(headers: Headers) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
