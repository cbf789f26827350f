"""The audit log: a middleware that notes what changes the node, and the route that shows it to the admin."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from aiohttp import web

from exo_node.api.calls import refuse_unknown
from exo_node.api.errors import Handler
from exo_node.api.fields import bad
from exo_node.api.guard import is_admin, principal
from exo_node.api.operations import of_request, operation
from exo_node.api.pages import point_in_time, shown_time, whole_number
from exo_node.api.schemas import node
from exo_node.api.schemas import routing_answers as answers
from exo_node.api.serving import BODY
from exo_node.errors import ExoError
from exo_node.store_audit import MAX_TEXT, AuditRow, AuditTable

log = logging.getLogger("exo.audit")

MAX_ROWS = 10_000
CLIENT_GONE = 499  # nginx's number for a client that went away before its answer
# Fields that name what an act is done to; of all others the name only, since values may be secret.
_NAMING = ("model", "model_id", "model_name", "name", "source", "destination", "id", "instance_id", "nodes", "node_id")


def make_auditor(table: AuditTable, node_id: str) -> object:
    """The middleware. It stands behind the guard: who is refused there has done nothing (a line in the node's log), and
    who may not do everything is noted only for what was done, or anybody could push older rows out.
    """

    @web.middleware
    async def audit(request: web.Request, handler: Handler) -> web.StreamResponse:
        said = of_request(request)
        if said is None or not said.act:
            return await handler(request)
        status, code = 500, "internal_error"
        try:
            response = await handler(request)
            status, code = response.status, ""
            return response
        except ExoError as e:
            status, code = e.status, e.code or ""
            raise
        except asyncio.CancelledError:
            status, code = CLIENT_GONE, "cancelled"
            raise
        finally:
            if is_admin() or status < 400:
                table.note(_row(request, node_id, status, code))

    return audit


def _row(request: web.Request, node_id: str, status: int, code: str) -> AuditRow:
    caller = principal()
    resource = request.match_info.route.resource
    path = request.path if resource is None else resource.canonical
    row = AuditRow(
        at=time.time(),
        node=node_id,
        key_id="" if caller is None else caller.key_id,
        key_name="" if caller is None else caller.name,
        address=request.remote or "",
        act=f"{request.method} {path}",
        what=object_of(request.match_info, request.get(BODY) or {}),
        status=status,
        error_code=code,
    )
    log.info("%s by %s at %s: %s (%d)", row.act, row.key_name or "nobody's key", row.address, row.what, row.status)
    return row


def object_of(path: Mapping[str, str], body: Mapping[str, Any]) -> str:
    """What an act was done to: names in its path and body, and which other fields the body has.

    >>> object_of({"id": "i1"}, {"model": "demo", "litellm_params": {"api_key": "sk-..."}})
    "id='i1' model='demo' litellm_params=..."
    """
    found = [f"{name}={value!r}" for name, value in path.items()]
    for name, value in list(body.items())[:20]:
        plain = isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))
        if name in _NAMING and plain:
            found.append(f"{name}={value!r}")
        else:
            found.append(f"{name[:40] if name.isidentifier() else repr(name[:40])}=...")
    return " ".join(found)[:MAX_TEXT]


class AuditRoutes:
    def __init__(self, table: AuditTable) -> None:
        self._table = table

    def routes(self) -> list[tuple[str, str, Any]]:
        """(method, path without /v1, handler)."""
        return [("GET", "/audit", self.audit)]

    @operation("Node", scope="admin", query=node.AuditQuestion, answer=answers.Audit)
    async def audit(self, request: web.Request) -> web.Response:
        """What was changed on this machine's nodes, and by whom; the newest first."""
        query, now = request.query, time.time()
        refuse_unknown(query, ("since", "until", "limit"))
        since = point_in_time("since", query["since"], now) if query.get("since") else 0.0
        until = point_in_time("until", query["until"], now, end=True) if query.get("until") else None
        if until is not None and until <= since:
            raise bad("until", "must be later than since")
        limit = whole_number(query, "limit", 100, MAX_ROWS)
        rows = await self._table.rows(since=since, until=until, limit=limit)
        data = [{**asdict(row), "at": row.at, "time": shown_time(row.at)} for row in rows]
        return web.json_response({"object": "list", "data": data})
