"""Small shapes of the Responses API."""

from __future__ import annotations

from exo_node.api.dialects.responses_shapes import error_code, error_frame, logprobs_of, usage_of
from exo_node.errors import ExoError, InvalidRequest, NoCapacity, RateLimited
from tests.unit.api.dialects.responses_events import parsed


def test_usage_of_little() -> None:
    """Providers leave out details and sums, or say null; this API has all of them."""
    bare = usage_of({"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": None})
    assert bare == {
        "input_tokens": 3, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0}, "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 5,
    }  # fmt: skip
    assert usage_of({})["total_tokens"] == 0


def test_logprobs_of_little() -> None:
    """Bytes that a provider does not give are the token's; none are none."""
    (token,) = logprobs_of({"content": [{"token": "é", "logprob": -1.0, "bytes": None, "top_logprobs": None}]})
    assert token == {"token": "é", "logprob": -1.0, "bytes": [195, 169], "top_logprobs": []}
    assert logprobs_of(None) == logprobs_of({"content": None}) == []


def test_errors() -> None:
    """A response's error has one of few codes; the event has our own, with the field."""
    codes = [error_code(one) for one in (RateLimited("x"), InvalidRequest("x"), NoCapacity("x"), ExoError("x"))]
    assert codes == ["rate_limit_exceeded", "invalid_prompt", "server_error", "server_error"]
    (event,) = parsed(error_frame(NoCapacity("full", param="model"), 0))
    assert (event.code, event.message, event.param) == ("no_capacity", "full", "model")
