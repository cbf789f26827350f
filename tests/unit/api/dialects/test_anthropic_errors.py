"""Errors in Anthropic's shape."""

from __future__ import annotations

import pytest

from exo_node.api.dialects.anthropic_errors import error_body
from exo_node.api.errors import REQUEST_ID
from exo_node.errors import ExoError


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, "invalid_request_error"), (401, "authentication_error"), (403, "permission_error"),
        (404, "not_found_error"), (405, "invalid_request_error"), (413, "request_too_large"),
        (422, "invalid_request_error"), (429, "rate_limit_error"), (500, "api_error"), (502, "api_error"),
        (503, "overloaded_error"), (504, "timeout_error"), (529, "overloaded_error"),
    ],
)  # fmt: skip
def test_each_status_has_its_type(status: int, said: str) -> None:
    """And the request's id is in the body."""
    REQUEST_ID.set("req-1")
    body = error_body(ExoError("why", status=status))
    assert body == {"type": "error", "error": {"type": said, "message": "why"}, "request_id": "req-1"}
