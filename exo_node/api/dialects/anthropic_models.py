"""Rows of `/v1/models` for Anthropic's clients, which ask at the same path as OpenAI's. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from exo_node.api.fields import bad

PREFIX = "/anthropic"  # of paths for clients with that address
VERSION = "anthropic-version"  # the header that their clients send
MAX_LIMIT = 1000


def is_theirs(path: str, headers: Mapping[str, str]) -> bool:
    """Whether a request for a path that OpenAI's API has too comes from a client of Anthropic's."""
    return VERSION in headers or path.startswith(f"{PREFIX}/")


def anthropic_model(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with Anthropic's fields too."""
    created = datetime.fromtimestamp(row.get("created") or 0, UTC)
    return {
        **{name: value for name, value in row.items() if name != "capabilities"},  # a list here, an object with them
        "type": "model",
        "display_name": row.get("name") or row["id"],
        "created_at": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "max_input_tokens": row.get("context_length"),
    }


def models_page(rows: Sequence[Mapping[str, Any]], query: Mapping[str, str]) -> dict[str, Any]:
    """A page of the list: all of it, but for `limit`, `after_id` and `before_id`. Raises `InvalidRequest`."""
    limit = _limit(query.get("limit"), len(rows))
    ids = [row["id"] for row in rows]
    after, before = (_position(ids, query.get(name), name) for name in ("after_id", "before_id"))
    low, high = 0 if after is None else after + 1, len(rows) if before is None else before
    if before is not None and after is None:  # the page that ends there
        page, more = rows[max(low, high - limit) : high], high - limit > low
    else:
        page, more = rows[low : min(high, low + limit)], low + limit < high
    data = [anthropic_model(row) for row in page]
    ends = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "has_more": more, "first_id": ends[0], "last_id": ends[1]}


def _limit(value: str | None, everything: int) -> int:
    if value is None:
        return max(1, everything)
    if not (value.isascii() and value.isdigit() and len(value) <= 4 and 1 <= int(value) <= MAX_LIMIT):
        raise bad("limit", f"must be between 1 and {MAX_LIMIT}, got {value[:20]!r}")
    return int(value)


def _position(ids: list[str], wanted: str | None, name: str) -> int | None:
    if not wanted:
        return None
    if wanted not in ids:
        raise bad(name, f"there is no model {wanted[:80]!r}")
    return ids.index(wanted)
