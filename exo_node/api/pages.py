"""Lists in pages, as OpenAI's clients walk through them: `limit`, `after` the last one seen, `has_more`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exo_node.api.fields import bad


def whole_number(query: Mapping[str, str], name: str, default: int, high: int, *, low: int = 1) -> int:
    """A number from `low` to `high` in a URL. Raises `InvalidRequest`."""
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 18 and low <= int(text) <= high):
        raise bad(name, f"must be a whole number from {low} to {high}, got {text[:40]!r}")
    return int(text)


def boolean(query: Mapping[str, str], name: str) -> bool:
    """True or false in a URL, false where it is absent. Raises `InvalidRequest`."""
    text = query.get(name, "false")
    if text not in ("true", "false"):
        raise bad(name, f"must be true or false, got {text[:40]!r}")
    return text == "true"


def page(rows: Sequence[dict[str, Any]], limit: int) -> dict[str, Any]:
    """Of rows that were asked for with one more than the limit."""
    shown = list(rows[:limit])
    ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {"first_id": None, "last_id": None}
    return {"object": "list", "data": shown, **ends, "has_more": len(rows) > limit}
