"""How long to wait is read from every provider's way of saying it."""

from __future__ import annotations

from typing import Any

import pytest
from multidict import CIMultiDict

from exo_node.routing.upstream.retry_after import MAX_RETRY_AFTER, duration, retry_after

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "Tue, 14 Nov 2023 22:13:50 GMT"}, 30.0),
        ({"Retry-After": "Tue, 14 Nov 2023 22:00:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-3"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "999999999"}, MAX_RETRY_AFTER),
        ({"retry-after-ms": "250", "Retry-After": "1"}, 0.25),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"x-ratelimit-remaining-requests": "9", "x-ratelimit-reset-requests": "6m0s"}, None),
        (
            {
                "x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "1h",
                "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "120ms",
            },
            0.12,
        ),
        ({"X-RateLimit-Reset": str(int(NOW) + 9)}, 9.0),
        ({"X-RateLimit-Reset": str(int(NOW + 9) * 1000)}, 9.0),
        (
            {
                "anthropic-ratelimit-tokens-remaining": "0",
                "anthropic-ratelimit-tokens-reset": "2023-11-14T22:14:00Z",
            },
            40.0,
        ),
        ({}, None),
    ],
)  # fmt: skip
def test_headers(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds from Retry-After (a number or a date), retry-after-ms and the limits' resets."""
    assert retry_after(CIMultiDict(headers), NOW) == (None if seconds is None else pytest.approx(seconds))


def test_google_says_it_in_the_body() -> None:
    """RetryInfo among an error's details."""
    error: dict[str, Any] = {"details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"}]}
    assert retry_after({}, NOW, error) == 34.5


@pytest.mark.parametrize(
    ("text", "seconds"), [("1m30s", 90.0), ("2h", 7200.0), ("120ms", 0.12), ("3", 3.0), ("x", None), ("1d", None)]
)
def test_duration(text: str, seconds: float | None) -> None:
    """Go's notation, as OpenAI and Groq use it."""
    assert duration(text) == seconds
