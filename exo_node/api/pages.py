"""Lists in pages, as OpenAI's clients walk through them: `limit`, `after` the last one seen, `has_more`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from exo_node.api.fields import bad

_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


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


def point_in_time(name: str, text: str, now: float, *, end: bool = False) -> float:
    """Seconds since 1970 of a time in a URL: a date ("2026-11-21", UTC; as an `end` with all of that day), ISO 8601,
    seconds since 1970, or an age ("90m", "24h", "7d", "2w"). Raises `InvalidRequest`."""
    number, unit = text[:-1], _UNITS.get(text[-1:])
    if number.isascii() and number.isdigit() and len(number) < 7 and unit is not None:
        return max(0.0, now - int(number) * unit)
    if text.isascii() and text.replace(".", "", 1).isdigit() and 9 <= len(text.partition(".")[0]) <= 11:
        return float(text)  # eight digits are a date
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is None:
            found = found.replace(tzinfo=UTC)
        if end and len(text) <= len("2026-11-21"):
            found += timedelta(days=1)
        return max(0.0, found.timestamp())
    except (ValueError, OverflowError) as e:
        raise bad(
            name, f"must be a date (2026-11-21), a time in ISO 8601 or an age (24h, 7d); got {text[:40]!r}"
        ) from e


def shown_time(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
