"""Exceptions of the SDK."""

from __future__ import annotations

import litellm.exceptions
import pytest

from exo_node import sdk
from exo_node.sdk.errors import error_for


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "BadRequestError"),
        (400, "InvalidRequestError"),
        (401, "AuthenticationError"),
        (404, "NotFoundError"),
        (429, "RateLimitError"),
        (503, "ServiceUnavailableError"),
        (504, "Timeout"),
        (None, "APIConnectionError"),
    ],
)
def test_a_status_raises_litellms_class(status: int | None, name: str) -> None:
    """Where LiteLLM is installed, its own classes catch what the SDK raises, with the node's message and code."""
    error = error_for(status, {"error": {"message": "no room", "code": "c", "param": "p"}}, "http://x")
    assert isinstance(error, getattr(litellm.exceptions, name))
    assert isinstance(error, getattr(sdk, name))
    if status is not None:
        assert (str(error), error.code, error.param) == ("no room", "c", "p")  # type: ignore[attr-defined]


def test_no_node_says_what_to_do() -> None:
    """When nothing listens, the message names the address and the command that starts a node."""
    assert "start one with `exo`" in str(error_for(None, "refused", "http://127.0.0.1:1"))


def test_unknown_names_are_no_attributes() -> None:
    """The package's front has no attribute that it does not name."""
    with pytest.raises(AttributeError, match="no attribute 'NoSuchError'"):
        _ = sdk.NoSuchError
