"""What calls have cost: the spend log of this machine's nodes, for its admin."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from aiohttp import web

from exo_node.api.calls import refuse_unknown
from exo_node.api.fields import bad
from exo_node.api.operations import operation
from exo_node.api.pages import whole_number
from exo_node.api.ports import RoutingPort
from exo_node.api.schemas import node
from exo_node.api.schemas import routing_answers as answers
from exo_node.store_spend import GROUPS, GroupBy, SpendQuery

MAX_ROWS = 10_000
_FIELDS = ("since", "until", "key", "model", "limit", "group_by")
_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


class SpendRoutes:
    def __init__(self, routing: RoutingPort) -> None:
        self._routing = routing

    def routes(self) -> list[tuple[str, str, Any]]:
        """(method, path without /v1, handler)."""
        return [("GET", "/spend", self.spend)]

    @operation("Routing", scope="read", query=node.SpendQuestion, answer=answers.Spend)
    async def spend(self, request: web.Request) -> web.Response:
        """Calls, the newest first; with `group_by` their sums. `total` is of all that the question means, whatever
        `limit` cuts off."""
        query, by = parse_query(request.query, time.time())
        found = await self._routing.spend(query, by)
        asked = {"since": _shown(query.since or None), "until": _shown(query.until), "group_by": by}
        return web.json_response({"object": "list", "currency": "USD", **asked, **found})


def parse_query(query: Mapping[str, str], now: float) -> tuple[SpendQuery, GroupBy | None]:
    """The question in the URL. Raises `InvalidRequest`. `now` is wall-clock.

    Times are dates ("2026-11-21", UTC; as `until` with all of that day), ISO 8601, seconds since 1970, or ages ("90m",
    "24h", "7d", "2w").
    """
    refuse_unknown(query, _FIELDS)
    by, limit = query.get("group_by"), whole_number(query, "limit", 100, MAX_ROWS)
    if by is not None and by not in GROUPS:
        raise bad("group_by", f"must be one of {', '.join(GROUPS)}; got {by[:40]!r}")
    since, until = query.get("since"), query.get("until")
    asked = SpendQuery(
        since=_time("since", since, now) if since else 0.0,
        until=_time("until", until, now, end=True) if until else None,
        key_id=query.get("key"),
        model=query.get("model"),
        limit=limit,
    )
    if asked.until is not None and asked.until <= asked.since:
        raise bad("until", "must be later than since")
    return asked, cast("GroupBy | None", by)


def _time(name: str, text: str, now: float, *, end: bool = False) -> float:
    """Seconds since 1970."""
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


def _shown(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
