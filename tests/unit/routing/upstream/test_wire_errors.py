"""Each provider's failures are told apart, and no message holds a key."""

from __future__ import annotations

import json
import ssl
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from exo_node.routing.call import WORKER_LOST, UpstreamError
from exo_node.routing.upstream.wire_errors import (
    MAX_MESSAGE,
    error_from_event,
    error_from_exception,
    error_from_response,
    scrub,
)
from exo_node.types import Usage


def answered(status: int, body: Any, headers: dict[str, str] | None = None, **options: Any) -> UpstreamError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return error_from_response("b", status, CIMultiDict(headers or {}), raw, **options)


def openai(message: str, code: str | None = None, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def google(code: int, status: str, message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"code": code, "status": status, "message": message, **more}}


def anthropic(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


@pytest.mark.parametrize(
    ("status", "body", "cause", "shown"),
    [
        (401, openai("Incorrect API key provided: sk-12*****9.", "invalid_api_key"), "auth", 502),
        (403, {"error": "forbidden"}, "auth", 502),
        (402, openai("Insufficient Balance"), "auth", 502),
        (400, google(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.",
                     details=[{"reason": "API_KEY_INVALID"}]), "auth", 502),
        (404, openai("The model `x` does not exist", "model_not_found"), "not_found", 404),
        (404, {"error": {"code": "DeploymentNotFound", "message": "No such deployment."}}, "not_found", 404),
        (404, b"404 page not found", "not_found", 404),
        (404, {"error": "model 'x' not found"}, "not_found", 404),
        (307, b"", "not_found", 404),
        (400, openai("foo/bar is not a valid model ID"), "not_found", 404),
        (429, openai("Rate limit reached", "rate_limit_exceeded", "requests"), "rate_limited", 429),
        (429, google(429, "RESOURCE_EXHAUSTED", "Quota exceeded"), "rate_limited", 429),
        (413, openai("Request too large: tokens per minute", "rate_limit_exceeded", "tokens"), "rate_limited", 429),
        (400, openai("This model's maximum context length is 8192 tokens.", "context_length_exceeded"), "context", 400),
        (400, anthropic("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"), "context", 400),
        (400, google(400, "INVALID_ARGUMENT", "The input token count (1200000) exceeds the maximum number of tokens"),
         "context", 400),
        (400, {"object": "error", "message": "This model's maximum context length is 10 tokens", "code": 400},
         "context", 400),
        (400, openai("The response was filtered due to our content management policy.", "content_filter"),
         "content_filter", 400),
        (400, {"error": {"code": "x", "message": "no", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
         "content_filter", 400),
        (400, openai("Invalid 'temperature'", "invalid_value"), "bad_request", 400),
        (422, {"detail": [{"loc": ["body", "n"], "msg": "bad"}]}, "bad_request", 422),
        (413, openai("too big"), "bad_request", 413),
        (400, openai("This model does not support tools"), "unavailable", 400),
        (400, anthropic("invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
         "auth", 502),
        (500, b"<html>Internal</html>", "server", 502),
        (529, anthropic("overloaded_error", "Overloaded"), "server", 502),
        (503, {"message": "busy"}, "server", 502),
        (408, b"", "timeout", 504),
    ],
)  # fmt: skip
def test_answers(status: int, body: Any, cause: str, shown: int) -> None:
    """Status and body say the cause; the client sees its own faults as they are and ours as a gateway's."""
    error = answered(status, body)
    assert (error.cause, error.status, error.upstream_status) == (cause, shown, status)
    assert error.message.startswith("b answered ")
    assert "<html>" not in error.message
    assert error.fails_over == (cause not in ("bad_request", "content_filter"))


def test_bad_request_keeps_the_providers_words() -> None:
    """Code and parameter of the request's own fault reach the client."""
    body = {"error": {"message": "Invalid 'n'", "type": "invalid_request_error", "param": "n", "code": "invalid_value"}}
    error = answered(400, body)
    assert (error.code, error.param, error.type) == ("invalid_value", "n", "invalid_request_error")


def test_retry_after_comes_with_429_and_overload_only() -> None:
    """The provider's wait is kept where waiting helps."""
    headers = {"Retry-After": "7"}
    assert [answered(s, openai("x"), headers).retry_after for s in (429, 503, 400)] == [7.0, 7.0, None]
    assert (
        answered(429, openai("x"), {"Retry-After": "Tue, 14 Nov 2023 22:13:50 GMT"}, now=1_700_000_000.0).retry_after
        == 30
    )


def test_only_the_sidecar_names_its_cause() -> None:
    """`error.cause` and the code are taken from our own sidecar, not from a provider."""
    body = {"error": {"message": "x", "code": "upstream_dns", "cause": "dns"}}
    assert answered(502, body).cause == "server"
    assert (answered(502, body, trusted=True).cause, answered(502, body, trusted=True).code) == ("dns", "upstream_dns")


def test_only_the_sidecar_says_what_was_used() -> None:
    """A provider's own word for what a refused call has cost is none of its business."""
    body = {"error": {"message": "no", "code": "invalid_tool_call", "usage": {"prompt_tokens": 7}}}
    assert answered(502, body, trusted=True).used == Usage(7, 0)
    assert answered(502, body).used is None


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("prompt is too long: 300000 tokens > 200000 maximum", "context"),
        ("This model does not support prefill. The conversation must end with a user message.", "unavailable"),
        ("Your credit balance is too low to access the Anthropic API.", "auth"),
        ("anthropic does not support parameters: ['logit_bias'], for model=claude-x.", "unavailable"),
        ("temperature: range: 0..1", "bad_request"),
    ],
)
def test_what_the_sidecar_calls_a_bad_request(message: str, cause: str) -> None:
    """LiteLLM does not know the words of every provider for every kind of call: they are read once more."""
    body = {"error": {"message": message, "code": "upstream_bad_request", "cause": "bad_request"}}
    assert answered(400, body, trusted=True).cause == cause
    event = error_from_event("b", body, trusted=True)
    assert (event.cause, event.fails_over) == (cause, cause != "bad_request")


def test_a_parameter_that_litellm_refuses() -> None:
    """Another backend may know it; where there is none, the client is told its name."""
    said = "anthropic does not support parameters: ['n'], for model=claude-x."
    body = {"message": said, "code": "unsupported_parameter", "cause": "bad_request", "param": "n"}
    error = answered(400, {"error": body}, trusted=True)
    assert (error.cause, error.fails_over) == ("unavailable", True)
    assert (error.status, error.code, error.param) == (400, "unsupported_parameter", "n")
    assert error.type == "invalid_request_error"


def test_events() -> None:
    """An error in a stream has its cause by code, number or type."""
    assert error_from_event("b", {"error": {"message": "x", "code": "429"}}).cause == "rate_limited"
    assert error_from_event("b", {"error": {"message": "x", "code": 401}}).cause == "auth"
    assert error_from_event("b", {"error": {"message": "x", "type": "invalid_request_error"}}).cause == "bad_request"
    assert error_from_event("b", {"error": {"message": "maximum context length", "code": 400}}).cause == "context"
    assert error_from_event("b", {"error": "x"}).cause == "server"
    assert error_from_event("b", {"error": True}).cause == "server"


def test_exceptions() -> None:
    """What a socket says, where no socket is needed to say it."""
    assert error_from_exception("b", TimeoutError()).cause == "timeout"
    assert error_from_exception("b", ConnectionResetError()).cause == "reset"
    assert error_from_exception("b", aiohttp.ServerDisconnectedError()).cause == "reset"
    assert error_from_exception("b", aiohttp.ClientPayloadError()).cause == "reset"
    assert error_from_exception("b", ssl.SSLError()).cause == "tls"


def test_a_worker_that_dies_is_not_the_providers_fault() -> None:
    """On the sidecar's socket a broken connection is our own helper's; the provider may have been asked already."""
    for lost in (ConnectionResetError(), aiohttp.ServerDisconnectedError(), aiohttp.ClientPayloadError()):
        error = error_from_exception("b", lost, unix=True)
        assert (error.cause, error.code) == ("reset", WORKER_LOST)
    assert error_from_exception("b", TimeoutError(), unix=True).cause == "timeout"


@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided: sk-proj-abcdefghijklmnop1234. See",
        "Incorrect API key provided: sk-12********************wxyz.",
        "Received=gsk_abcdefghijklmnopqrstuvwx, Key Hash=0123456789abcdef0123456789abcdef0123",
        "Authorization: Bearer my-own-token-1",
        "https://x/v1beta/models/m:generateContent?key=AIzaSyA-abcdefghijklmnopqrstuv failed",
        "the key planted-secret is wrong",
    ],
)
def test_nothing_like_a_key_stays(text: str) -> None:
    """Configured secrets go, and so does what looks like one."""
    said = scrub(text, ("planted-secret",))
    assert "[key]" in said
    for secret in ("abcdefghijkl", "wxyz", "0123456789abcdef", "my-own-token-1", "planted-secret"):
        assert secret not in said


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["error", "message", "code", "details", "param", "type", "detail", "innererror", "cause"]),
        inner, max_size=4), max_leaves=12), st.integers(300, 599), st.booleans())  # fmt: skip
def test_any_body_gives_an_error(body: Any, status: int, trusted: bool) -> None:
    """Whatever a provider answers, it becomes one error with one line."""
    error = answered(status, body, trusted=trusted)
    assert "\n" not in error.message
    assert len(error.message) <= MAX_MESSAGE + 100
    if isinstance(body, dict):
        assert error_from_event("b", body).cause
