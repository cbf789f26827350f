"""Many completions in one request: served in parallel, answered in order, each with its own answer or error."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from exo_node.api.calls import guess_kind, refuse_unknown
from exo_node.api.errors import error_body, internal
from exo_node.api.fields import Fields, bad, kind
from exo_node.api.operations import operation
from exo_node.api.schemas import node
from exo_node.api.schemas import routing_answers as answers
from exo_node.api.serving import CallServer, object_of, read_object, whole_of
from exo_node.errors import ExoError
from exo_node.routing.adapter.failure import headers_of

MAX_REQUESTS = 1000  # in one batch: a bound on memory
CONCURRENCY = 16  # at once, unless the batch says otherwise
MAX_CONCURRENCY = 128


@dataclass(frozen=True, slots=True)
class ParsedBatch:
    """`items` are chat or completion bodies; `concurrency` of them are served at once."""

    items: tuple[Any, ...]
    concurrency: int


def parse_batch(body: Mapping[str, Any]) -> ParsedBatch:
    """`{"requests": [bodies], "model"?: for those that name none, "max_concurrency"?}`. Raises `InvalidRequest`.

    What is wrong with a single body is that body's own error, not the batch's.
    """
    refuse_unknown(body, ("requests", "model", "max_concurrency"))
    fields = Fields(body)
    items, model = body.get("requests"), fields.text("model")
    if items is None:
        raise bad("requests", "is required", code="missing_required_parameter")
    if not isinstance(items, list) or not items:
        raise bad("requests", "must be a non-empty array of chat or completion requests")
    if len(items) > MAX_REQUESTS:
        raise bad("requests", f"takes at most {MAX_REQUESTS}, got {len(items)}")
    if model:
        items = [{**item, "model": item.get("model") or model} if isinstance(item, dict) else item for item in items]
    return ParsedBatch(tuple(items), fields.integer("max_concurrency", 1, MAX_CONCURRENCY) or CONCURRENCY)


class BatchRoutes:
    def __init__(self, serving: CallServer) -> None:
        self._serving = serving

    def routes(self) -> list[tuple[str, str, Any]]:
        """(method, path without /v1, handler)."""
        return [("POST", "/batch/completions", self.batch)]

    @operation("OpenAI", scope="use", body=node.BatchRequest, answer=answers.BatchResults)
    async def batch(self, request: web.Request) -> web.Response:
        """Answers when all are done; who hangs up cancels all of them."""
        batch = parse_batch(await read_object(request))
        results: list[dict[str, Any]] = [{} for _ in batch.items]
        waiting = iter(enumerate(batch.items))

        async def work(waiting: Iterator[tuple[int, Any]]) -> None:
            for index, item in waiting:
                results[index] = {"index": index, **await self._one(request, item)}

        async with asyncio.TaskGroup() as group:
            for _ in range(min(batch.concurrency, len(batch.items))):
                group.create_task(work(waiting))
        failed = sum(result["error"] is not None for result in results)
        counts = {"total": len(results), "succeeded": len(results) - failed, "failed": failed}
        return web.json_response({"object": "list", "counts": counts, "data": results})

    async def _one(self, request: web.Request, item: Any) -> dict[str, Any]:
        try:
            if not isinstance(item, dict):
                raise bad("requests", f"holds {kind(item)}, not a request")
            if item.get("stream"):
                raise bad("stream", "is not done in a batch", code="unsupported_parameter")
            wanted = guess_kind(item)
            if wanted not in ("chat", "completion"):
                raise bad("messages", "is required (or prompt)", code="missing_required_parameter")
            reply = await self._serving.reply(self._serving.call(request, wanted, item))
            answer = object_of(whole_of(reply))
        except ExoError as e:
            return {"status": e.status, "response": None, **error_body(e), "headers": dict(headers_of(e))}
        except Exception as e:  # the border of one of many: our bug is logged and fails this one only
            return {"status": 500, "response": None, **error_body(internal(e)), "headers": {}}
        return {"status": 200, "response": answer, "error": None, "headers": dict(reply.headers)}
