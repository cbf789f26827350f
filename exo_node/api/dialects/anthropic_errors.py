"""Errors as Anthropic's API says them: https://docs.anthropic.com/en/api/errors . Pure."""

from __future__ import annotations

from typing import Any

from exo_node.api.errors import REQUEST_ID
from exo_node.errors import ExoError

_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_body(error: ExoError) -> dict[str, Any]:
    """`{"type": "error", "error": {type, message}, "request_id"}`."""
    status = error.status
    said = _TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": said, "message": error.message}, "request_id": REQUEST_ID.get()}
