"""Keeps secrets out of what foreign code says: a worker's log, the errors of providers and own functions. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

MASK = "***"
MIN_SECRET = 6  # characters; shorter values are words like "none", and masking them garbles every message

# Names of parameters and variables whose values are secret.
_SECRET_NAME = re.compile(r"key|token|secret|passw|credential|auth|cookie|headers|signature", re.IGNORECASE)
_COUNTS = re.compile(r"(^|_)(max|min|num|top|tokens?_limit|\w+_cost)(_|$)|tokens$|_per_token", re.IGNORECASE)
# What looks like a key wherever it stands: OpenAI and Anthropic keys, bearer headers, Google's ?key=.
_SHAPES = (
    (re.compile(r"\b(sk|pk|rk|gsk|xai|hf|AIza)[-_A-Za-z0-9]{12,}"), MASK),
    (re.compile(r"(?i)\b(bearer|basic) +[-._~+/=A-Za-z0-9]{6,}"), rf"\1 {MASK}"),
    (re.compile(r"([?&](?:api[-_]?key|key|token|sig)=)[^&\s'\"]+"), rf"\1{MASK}"),
)


def secrets_in(value: Any, name: str = "") -> set[str]:
    """Values below a secret-sounding name, at any depth of objects and lists.

    >>> sorted(secrets_in({"api_key": "abcdefgh", "extra_headers": {"x": "12345678"}, "max_tokens": "1000000"}))
    ['12345678', 'abcdefgh']
    """
    if isinstance(value, Mapping):
        found: set[str] = set()
        for key, inner in value.items():
            own = f"{key}"
            # Everything inside a secret-sounding object is secret, whatever its own name.
            found |= secrets_in(inner, name if is_secret_name(name) else own)
        return found
    if isinstance(value, list | tuple):
        return {secret for inner in value for secret in secrets_in(inner, name)}
    if isinstance(value, str) and len(value) >= MIN_SECRET and is_secret_name(name):
        return {value}
    return set()


def is_secret_name(name: str) -> bool:
    """Whether a parameter or variable of that name holds a secret."""
    return bool(_SECRET_NAME.search(name)) and not _COUNTS.search(name)


def secrets_of_environment(environment: Mapping[str, str]) -> set[str]:
    """Values of the variables whose names say that they are secret."""
    return {value for name, value in environment.items() if is_secret_name(name)}


class Masker:
    """Replaces known secrets, and whatever looks like one, by `***`."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # Longest first: a secret may hold another one.
        self._secrets = sorted({s for s in secrets if len(s) >= MIN_SECRET}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        for shape, instead in _SHAPES:
            text = shape.sub(instead, text)
        return text
