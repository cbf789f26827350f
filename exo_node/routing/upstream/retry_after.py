"""How long a provider asks to wait, in each provider's own way of saying it. Pure."""

from __future__ import annotations

import email.utils
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

MAX_RETRY_AFTER = 24 * 3600.0  # seconds; longer ones are monthly quotas and mistakes


def retry_after(headers: Mapping[str, str], now: float, error: Mapping[str, Any] | None = None) -> float | None:
    """Seconds to wait, as the provider says it; None where it does not.

    `Retry-After` (seconds or HTTP date, RFC 9110 10.2.3), OpenAI's and Azure's `retry-after-ms` and
    `x-ratelimit-reset-*` ("6m0s", or a Unix time), Anthropic's `anthropic-ratelimit-*-reset` (RFC 3339), Google's
    RetryInfo in the error body. `headers` must look names up without regard to case.
    """
    wait: float | None = None
    if (ms := number(headers.get("retry-after-ms"))) is not None:
        wait = ms / 1000
    elif (text := headers.get("Retry-After")) is not None:
        wait = standard(text, now)
    if wait is None:
        wait = _reset(headers, now)
    if wait is None:
        for detail in details_of(error or {}):
            if isinstance(detail.get("retryDelay"), str):
                wait = duration(detail["retryDelay"])
    return None if wait is None else min(max(0.0, wait), MAX_RETRY_AFTER)


def standard(text: str, now: float) -> float | None:
    """Seconds of a `Retry-After` header, negative for a date that has passed; None where it is neither form."""
    if (seconds := number(text)) is not None:
        return seconds
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() - now
    except ValueError:
        return None


def duration(text: str) -> float | None:
    """Seconds of Go's notation ("1m30.5s", "120ms"), of a plain number; None where it is neither."""
    if (plain := number(text)) is not None:
        return plain
    if not re.fullmatch(r"(?:\d+(?:\.\d+)?(?:ms|us|h|m|s))+", text):
        return None
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}
    return sum(float(n) * units[unit] for n, unit in re.findall(r"(\d+(?:\.\d+)?)(ms|us|h|m|s)", text))


def details_of(error: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The objects of Google's `details` list."""
    details = error.get("details")
    return [one for one in details if isinstance(one, dict)] if isinstance(details, list) else []


def number(value: object) -> float | None:
    """A finite number that is not negative, also as text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None


def _reset(headers: Mapping[str, str], now: float) -> float | None:
    """The longest of the resets of limits that are used up (of all limits, where what remains is not said)."""
    waits: list[float] = []
    for limit in ("requests", "tokens", "input-tokens", "output-tokens", ""):
        end = f"-{limit}" if limit else ""
        if headers.get(f"x-ratelimit-remaining{end}", "0") == "0":
            text = headers.get(f"x-ratelimit-reset{end}")
            wait = duration(text) if text else None
            if wait is not None:
                # Unix times come in seconds (GitHub's way) and milliseconds (OpenRouter's).
                waits.append(wait / 1000 - now if wait > 1e11 else wait - now if wait > 1e8 else wait)
        if limit and headers.get(f"anthropic-ratelimit-{limit}-remaining", "0") == "0":
            text = headers.get(f"anthropic-ratelimit-{limit}-reset")
            if text:
                try:
                    waits.append(datetime.fromisoformat(text).timestamp() - now)
                except ValueError:
                    continue
    return max(waits) if waits else None
