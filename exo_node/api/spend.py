"""What calls have cost: the spend log of this machine's nodes, for its admin."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, cast

from aiohttp import web

from exo_node.api.calls import refuse_unknown
from exo_node.api.fields import bad
from exo_node.api.operations import operation
from exo_node.api.pages import point_in_time, shown_time, whole_number
from exo_node.api.ports import RoutingPort
from exo_node.api.schemas import node
from exo_node.api.schemas import routing_answers as answers
from exo_node.store_spend import GROUPS, GroupBy, SpendQuery

MAX_ROWS = 10_000
_FIELDS = ("since", "until", "key", "model", "limit", "group_by")


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
        asked = {"since": shown_time(query.since or None), "until": shown_time(query.until), "group_by": by}
        return web.json_response({"object": "list", "currency": "USD", **asked, **found})


def parse_query(query: Mapping[str, str], now: float) -> tuple[SpendQuery, GroupBy | None]:
    """The question in the URL. Raises `InvalidRequest`. `now` is wall-clock."""
    refuse_unknown(query, _FIELDS)
    by, limit = query.get("group_by"), whole_number(query, "limit", 100, MAX_ROWS)
    if by is not None and by not in GROUPS:
        raise bad("group_by", f"must be one of {', '.join(GROUPS)}; got {by[:40]!r}")
    since, until = query.get("since"), query.get("until")
    asked = SpendQuery(
        since=point_in_time("since", since, now) if since else 0.0,
        until=point_in_time("until", until, now, end=True) if until else None,
        key_id=query.get("key"),
        model=query.get("model"),
        limit=limit,
    )
    if asked.until is not None and asked.until <= asked.since:
        raise bad("until", "must be later than since")
    return asked, cast("GroupBy | None", by)
