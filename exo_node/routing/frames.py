"""Server-sent events that the adapter makes itself, and the ring's chunks. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from exo_node.types import Usage

HEADER_LIMIT = 1000  # characters of a header of ours: proxies bound all of them together, mostly to 8 KB


def frame(event: Mapping[str, Any]) -> bytes:
    """As `api.sse.frame`, in a tenth of the time, but what is no number becomes `null`."""
    return b"data: " + orjson.dumps(event, option=orjson.OPT_NON_STR_KEYS) + b"\n\n"


def events_in(raw: bytes) -> Iterable[dict[str, Any]]:
    """The events of complete frames, as the adapter relays them: one `data:` line each."""
    for line in raw.split(b"\n"):
        if line.startswith(b"data:"):
            text = line[5:].strip()
            if text.startswith(b"{"):
                yield orjson.loads(text)


def usage_object(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def usage_event(head: Mapping[str, Any], usage: Usage, exo: Mapping[str, Any] | None) -> dict[str, Any]:
    """The event that `stream_options.include_usage` asks for."""
    event = {**head, "choices": [], "usage": usage_object(usage)}
    if exo is not None:
        event["exo"] = exo
    return event


def header_value(text: str) -> str:
    """`text` as a header may carry it: printable ASCII on one line."""
    if text.isascii() and text.isprintable():
        return text[:HEADER_LIMIT]
    return "".join(c if " " <= c <= "~" else "?" for c in " ".join(text.split()))[:HEADER_LIMIT]
