"""Batches: `/v1/batches`. Requests of an uploaded file are answered beside what clients wait for, within a day.

Shapes: https://platform.openai.com/docs/api-reference/batch .
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from exo_node.api.batching.worker import Ask, BatchWorker
from exo_node.api.calls import refuse_unknown
from exo_node.api.embeddings import encoded
from exo_node.api.fields import bad, checked_text
from exo_node.api.guard import caller_id
from exo_node.api.operations import operation
from exo_node.api.pages import page, whole_number
from exo_node.api.schemas.batches import Batch, BatchList, BatchQuery, BatchRequest
from exo_node.api.schemas.core import check
from exo_node.api.serving import CallServer, object_of, read_object, whole_of
from exo_node.errors import InvalidRequest, NotFound, Unauthorized
from exo_node.routing.call import CallKind
from exo_node.store_batches import BatchRow, BatchTable

WINDOWS = {"24h": 86400.0}
MAX_KEY = 64  # characters of a key of the metadata, OpenAI's
DEFAULT_LIMIT, MAX_LIMIT = 20, 100
CANCELLABLE = ("validating", "in_progress")
_TIMES = ("in_progress", "expires", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
_KINDS: Mapping[str, CallKind] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completion",
    "/v1/embeddings": "embedding",
}
Responses = Callable[[str, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]  # (owner, body) -> the response


class BatchesRoutes:
    """Handlers over the table; the worker hears of what is new."""

    def __init__(self, table: BatchTable, worker: BatchWorker) -> None:
        self._table = table
        self._worker = worker

    def routes(self) -> list[tuple[str, str, Any]]:
        """(method, path without /v1, handler)."""
        return [
            ("POST", "/batches", self.create),
            ("GET", "/batches", self.list),
            ("GET", "/batches/{id}", self.retrieve),
            ("POST", "/batches/{id}/cancel", self.cancel),
        ]

    @operation("Batches", scope="use", body=BatchRequest, answer=Batch, checked_later=True)
    async def create(self, request: web.Request) -> web.Response:
        """Have the requests of an uploaded file answered, within a day."""
        row = batch_row(await read_object(request), caller_id(), time.time())
        file = await self._table.file(row.input_id, row.owner, time.time())
        if file is None:
            raise bad("input_file_id", f"no file {row.input_id[:80]!r}", code="file_not_found")
        if file.purpose != "batch":
            raise bad("input_file_id", f"{file.id} is for {file.purpose}, not for batch")
        await self._table.add_batch(row)
        self._worker.notice(row.id)
        return web.json_response(batch_view(row))

    @operation("Batches", scope="use", answer=BatchList, query=BatchQuery)
    async def list(self, request: web.Request) -> web.Response:
        """Batches of this key, the newest first."""
        refuse_unknown(request.query, ("limit", "after"))
        limit = whole_number(request.query, "limit", DEFAULT_LIMIT, MAX_LIMIT)
        rows = await self._table.batches(caller_id(), after=request.query.get("after"), limit=limit + 1)
        return web.json_response(page([batch_view(row) for row in rows], limit))

    @operation("Batches", scope="use", answer=Batch)
    async def retrieve(self, request: web.Request) -> web.Response:
        """A batch, and how far it is."""
        return web.json_response(batch_view(await self._batch(request)))

    @operation("Batches", scope="use", answer=Batch)
    async def cancel(self, request: web.Request) -> web.Response:
        """End a batch: what was answered until now stays, requests under way end."""
        row = await self._batch(request)
        moved = await self._table.move(row.id, CANCELLABLE, "cancelling", {"cancelling_at": int(time.time())})
        if not moved:
            row = await self._batch(request)
            if row.status not in ("cancelling", "cancelled"):
                raise InvalidRequest(f"{row.id} is {row.status}: it cannot be cancelled", status=409)
        self._worker.notice(row.id)
        return web.json_response(batch_view(await self._batch(request)))

    async def _batch(self, request: web.Request) -> BatchRow:
        ident = request.match_info["id"]
        row = await self._table.batch(ident)
        if row is None or row.owner != caller_id():
            raise NotFound(f"no batch {ident[:80]!r}", param="batch_id")
        return row


def batch_row(body: Mapping[str, Any], key_id: str, now: float) -> BatchRow:
    """Raises `InvalidRequest` that names the field."""
    refuse_unknown(body, BatchRequest.__struct_fields__)
    asked = check(dict(body), BatchRequest)
    for key in asked.metadata or ():
        if len(key) > MAX_KEY:
            raise bad("metadata", f"a key has more than {MAX_KEY} characters")
    checked_text(asked.input_file_id, "input_file_id")
    said = {name: body[name] for name in ("input_file_id", "endpoint", "completion_window")}
    expires = now + WINDOWS[asked.completion_window]
    kept = asked.output_expires_after
    ident = f"batch_{random.getrandbits(96):024x}"
    batch = {
        "id": ident,
        "object": "batch",
        **said,
        "status": "validating",
        "created_at": int(now),
        "expires_at": int(expires),
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        **({} if asked.metadata is None else {"metadata": asked.metadata}),
        **({} if kept is None else {"output_expires_s": kept.seconds}),
    }
    return BatchRow(
        id=ident,
        owner=key_id,
        status="validating",
        created=now,
        expires=expires,
        input_id=asked.input_file_id,
        output_id=f"file-{random.getrandbits(96):024x}",
        error_id=f"file-{random.getrandbits(96):024x}",
        batch=batch,
    )


def batch_view(row: BatchRow) -> dict[str, Any]:
    """OpenAI's batch object, as it is now."""
    nothing = dict.fromkeys(("errors", "output_file_id", "error_file_id", "metadata", *(f"{one}_at" for one in _TIMES)))
    shown = {**nothing, **row.batch, "status": row.status}
    shown.pop("output_expires_s", None)
    return shown


def asker(serving: CallServer, responses: Responses) -> Ask:
    """How a line is answered: as the route would, for the key that created the batch, with its limits and budgets."""

    async def ask(key_id: str, endpoint: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        if not serving.routing.has_key(key_id):
            raise Unauthorized("the API key that created this batch was revoked")
        if endpoint == "/v1/responses":
            return await responses(key_id, body)
        call = serving.call_of(key_id, _KINDS[endpoint], body)
        whole = whole_of(await serving.reply(call))
        if call.kind == "embedding":
            whole = encoded(whole, call.body.get("encoding_format") or "float")
        return object_of(whole)

    return ask
