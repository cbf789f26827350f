"""Lists in pages, as OpenAI's clients walk through them: `limit`, `after` the last one seen, `has_more`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exo_node.api.calls import refuse_unknown
from exo_node.api.fields import bad


def whole_number(query: Mapping[str, str], name: str, default: int, high: int) -> int:
    """A number from 1 to `high` in a URL. Raises `InvalidRequest`."""
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= high):
        raise bad(name, f"must be a whole number from 1 to {high}, got {text[:40]!r}")
    return int(text)


def known_only(query: Mapping[str, str], names: tuple[str, ...]) -> None:
    """Raises `InvalidRequest` for a parameter that does nothing."""
    refuse_unknown(query, names)


def page(rows: Sequence[dict[str, Any]], limit: int) -> dict[str, Any]:
    """Of rows that were asked for with one more than the limit."""
    shown = list(rows[:limit])
    ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {"first_id": None, "last_id": None}
    return {"object": "list", "data": shown, **ends, "has_more": len(rows) > limit}
