"""Exceptions of the SDK."""

from __future__ import annotations

import importlib.util

import httpx
import pytest

from exo_node import sdk
from exo_node.sdk import errors
from exo_node.sdk.errors import broken_off, error_for, no_answer


def response(status: int, **headers: str) -> httpx.Response:
    return httpx.Response(status, headers=headers, request=httpx.Request("POST", "http://x/v1/chat/completions"))


@pytest.mark.parametrize(
    ("status", "code", "name"),
    [
        (400, "c", "BadRequestError"),
        (400, "c", "InvalidRequestError"),
        (413, "c", "InvalidRequestError"),
        (400, "context_length_exceeded", "ContextWindowExceededError"),
        (401, "c", "AuthenticationError"),
        (502, "upstream_auth", "AuthenticationError"),
        (404, "c", "NotFoundError"),
        (429, "c", "RateLimitError"),
        (500, "c", "InternalServerError"),
        (503, "c", "ServiceUnavailableError"),
        (504, "c", "Timeout"),
        (507, "c", "APIError"),
    ],
)
def test_a_status_raises_litellms_class(status: int, code: str, name: str) -> None:
    """Where LiteLLM is installed, its own classes catch what the SDK raises, with the node's message and fields."""
    import litellm.exceptions  # here: seconds, which every process that only collects would take too

    answer = response(status, **{"retry-after": "7"})
    error = error_for(answer, {"error": {"message": "no room", "code": code, "param": "p"}})
    assert isinstance(error, getattr(litellm.exceptions, name))
    assert isinstance(error, getattr(sdk, name))
    assert (str(error), error.status_code, error.code, error.param) == ("no room", status, code, "p")
    assert error.response.headers["retry-after"] == "7"


def test_without_litellm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where LiteLLM is not installed, our own classes of the same names are raised."""
    import litellm.exceptions

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for cached in (errors.classes, errors._raised):
        cached.cache_clear()
    try:
        error = error_for(response(400), {"error": {"message": "m", "code": "context_length_exceeded"}})
        assert isinstance(error, errors.SDKError)
        assert isinstance(error, sdk.ContextWindowExceededError) and isinstance(error, sdk.InvalidRequestError)
        assert not isinstance(error, litellm.exceptions.ContextWindowExceededError)
    finally:
        for cached in (errors.classes, errors._raised):
            cached.cache_clear()


def test_bodies_that_are_no_openai_error() -> None:
    """An error as a bare text, or no JSON at all, still says something."""
    assert str(error_for(response(500), {"error": "kaput"})) == "kaput"
    assert str(error_for(response(502), None)) == "the node answered 502"


def test_errors_within_a_stream() -> None:
    """An event has no status: its type says whose fault it was."""
    assert isinstance(broken_off(response(200)), sdk.ServiceUnavailableError)
    event = {"error": {"message": "m", "type": "rate_limit_error", "code": None}}
    error = broken_off(response(200), event)
    assert isinstance(error, sdk.RateLimitError)
    assert error.status_code == 429


def test_no_node_says_what_to_do() -> None:
    """When nothing listens, the message names the address and the command that starts a node; late is Timeout."""
    error = no_answer(httpx.ConnectError("refused"), "http://127.0.0.1:1")
    assert isinstance(error, sdk.APIConnectionError)
    assert "start one with `exo`" in str(error)
    assert isinstance(no_answer(httpx.ReadTimeout(""), "http://x"), sdk.Timeout)


def test_unknown_names_are_no_attributes() -> None:
    """The package's front has no attribute that it does not name."""
    with pytest.raises(AttributeError, match="no attribute 'NoSuchError'"):
        _ = sdk.NoSuchError
