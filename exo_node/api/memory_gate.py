"""Requests while this machine's memory runs out: none is begun, before the kernel ends what runs."""

from __future__ import annotations

from aiohttp import web

from exo_node.api.errors import Handler
from exo_node.api.operations import of_request
from exo_node.errors import NoCapacity
from exo_node.limits.memory import MemoryWatch

RETRY_S = 5.0
MEMORY: web.AppKey[MemoryWatch] = web.AppKey("memory", MemoryWatch)


@web.middleware
async def refuse_without_memory(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Raises `NoCapacity` (503) for what would make an answer; looking, stopping and unloading always work."""
    watch = request.app[MEMORY]
    if watch.level == "critical" and request.method == "POST":
        said = of_request(request)
        if said is not None and said.scope == "use" and (said.body is not None or said.form):
            raise NoCapacity(
                f"this node takes no requests for now: {watch.words()}; ask again, or another node",
                code="low_memory",
                retry_after=RETRY_S,
            )
    return await handler(request)
