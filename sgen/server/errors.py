"""Errors as a client sees them: a status, and `{"error": {message, type, param, code}}`."""

from __future__ import annotations

import logging
from typing import Any

from sgen.errors import (
    CancelledError,
    CapacityError,
    EngineClosedError,
    GrammarError,
    InvalidRequestError,
    ProgramError,
    SgenError,
)

log = logging.getLogger("sgen.server")


class APIError(Exception):
    """What is wrong with a request, or with us.  `retry_after` in seconds, where trying again
    helps."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "",
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind or _KINDS.get(status, "server_error" if status >= 500 else _INVALID)
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """As OpenAI's interface has it; Anthropic's makes its own of the fields."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


_INVALID = "invalid_request_error"
_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}


def as_api_error(error: BaseException, *, param: str | None = None) -> APIError:
    """Any exception as one; what nobody foresaw is logged, and says nothing of our insides."""
    match error:
        case APIError():
            return error
        case GrammarError():
            place = error.pointer if error.pointer is not None else None
            named = param if place is None else f"{param or 'schema'}{place}"
            if place is not None and place.startswith("/tools/"):
                named = place[1:]  # in a tool's parameters, whatever else has a grammar
            return APIError(400, _said(error), param=named, code="invalid_grammar")
        case CapacityError():
            return APIError(400, _said(error), param=error.param, code="context_length_exceeded")
        case InvalidRequestError():
            return APIError(400, _said(error), param=error.param or param, code="invalid_value")
        case ProgramError():
            return APIError(400, _said(error), param=param, code="invalid_program")
        case EngineClosedError():
            return APIError(503, _said(error), code="engine_unavailable", retry_after=5)
        case CancelledError():
            return APIError(499, _said(error), code="cancelled")
        case SgenError():
            return APIError(500, _said(error), code="engine_error")
    log.error("unexpected error", exc_info=error)
    return APIError(500, "internal error; the server's log has the cause", code="internal_error")


def _said(error: SgenError) -> str:
    """In one line, as it stands in JSON and in logs."""
    return f"{error.message}; {error.hint}" if error.hint else error.message
