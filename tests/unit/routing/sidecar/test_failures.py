"""Failures as OpenAI's error objects."""

from __future__ import annotations

import pytest

from exo_node.routing.sidecar.failures import CallFailed, Failure


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (401, "authentication_error"), (429, "rate_limit_error"), (503, "server_error")],
)
def test_body_and_headers(status: int, kind: str) -> None:
    """The body is OpenAI's, with the cause in it; the headers carry the cause and when to come again."""
    failure = Failure(status, "server", "no", "x", None, 7.0)
    assert failure.body() == {"error": {"message": "no", "type": kind, "param": None, "code": "x", "cause": "server"}}
    assert failure.headers() == {"x-exo-cause": "server", "Retry-After": "7"}


def test_our_own() -> None:
    """A failure of ours has the status and code of its cause."""
    failure = CallFailed("gone", "unavailable").failure
    assert (failure.status, failure.code, failure.headers()) == (
        503,
        "upstream_unavailable",
        {"x-exo-cause": "unavailable"},
    )
