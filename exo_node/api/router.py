"""The router itself: what it holds and measures, why it would choose what, and its configuration at run time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from exo_node.api import visible
from exo_node.api.calls import guess_kind, refuse_unknown
from exo_node.api.fields import Fields, bad
from exo_node.api.guard import principal, require_all_models
from exo_node.api.leaving import LEAVING
from exo_node.api.memory_gate import MEMORY
from exo_node.api.operations import operation
from exo_node.api.ports import ClusterPort
from exo_node.api.schemas import node
from exo_node.api.schemas import routing_answers as answers
from exo_node.api.schemas.openai import REQUESTS
from exo_node.api.sending import SENDING
from exo_node.api.serving import CallServer, read_object
from exo_node.limits.memory import LEVELS
from exo_node.routing.configuration.runtime import NAMES


class RouterRoutes:
    def __init__(self, serving: CallServer, cluster: ClusterPort) -> None:
        self._serving = serving
        self._cluster = cluster
        self._routing = serving.routing

    def routes(self) -> list[tuple[str, str, Any]]:
        """(method, path without /v1, handler)."""
        return [
            ("GET", "/router/stats", self.stats),
            ("POST", "/route/explain", self.explain),
            ("POST", "/config", self.update),
            ("POST", "/config/reload", self.reload),
        ]

    @operation("Routing", scope="see", answer=answers.RouterStats)
    async def stats(self, request: web.Request) -> web.Response:
        """Backends, breakers, latency profile, limits and cache, as they are now."""
        found = self._routing.stats()
        caller = principal()
        if caller is not None and caller.restricted:
            found = visible.stats(found, self._routing.deployments(), caller)
        return web.json_response({**found, "memory": request.app[MEMORY].row()})

    @operation("Routing", scope="see", answer=answers.Plan)
    async def explain(self, request: web.Request) -> web.Response:
        """Takes any route's body; `?kind=` says which one where its fields do not (speech, image, moderation)."""
        body = await read_object(request)
        wanted = request.query.get("kind")
        for kind in REQUESTS:
            if wanted == kind:
                break
        else:
            if wanted is not None:
                raise bad("kind", f"must be one of {', '.join(REQUESTS)}; got {wanted[:40]!r}")
            kind = guess_kind(body)
        return web.json_response(await self._routing.explain(self._serving.call(request, kind, body)))

    @operation("Routing", scope="admin", act=True, body=node.Defaults, answer=node.Defaults)
    async def update(self, request: web.Request) -> web.Response:
        """Change defaults until the node ends."""
        return web.json_response(await self._routing.update_config(parse_defaults(await read_object(request))))

    @operation("Routing", scope="admin", act=True, answer=answers.Reloaded)
    async def reload(self, request: web.Request) -> web.Response:
        """What SIGHUP does. A wrong configuration changes nothing and is told with file and line."""
        return web.json_response(await self._routing.reload())

    @operation("Node", scope="see", answers=("text/plain",))
    async def metrics(self, request: web.Request) -> web.Response:
        """Metrics for Prometheus. A key for some models only does not get them: they name every backend."""
        require_all_models(request)
        body, content_type = self._routing.metrics(await self._cluster.head_stats(), node_facts(request.app))
        return web.Response(body=body, headers={"Content-Type": content_type})


def node_facts(app: web.Application) -> dict[str, float]:
    """What the API knows of the node's load, by `metrics.NODE_NOW`'s and `NODE_COUNTED`'s names."""
    memory = app[MEMORY]
    return {
        "answering": len(app[LEAVING]),
        "slow_readers": app[SENDING].cut_off,
        "memory_free_bytes": memory.free,
        "memory_min_free_bytes": memory.floor,
        "memory_pressure": LEVELS.index(memory.level),
    }


def parse_defaults(body: Mapping[str, Any]) -> dict[str, Any]:
    """The changes, checked. null takes a default away. Raises `InvalidRequest`."""
    refuse_unknown(body, NAMES)
    if not body:
        raise bad("default_model", f"or another of {', '.join(NAMES)} is required", code="missing_required_parameter")
    fields = Fields(body)
    for name in ("default_provider", "default_model"):
        fields.text(name)
    url = fields.text("ollama_base_url")
    if url is not None and not url.startswith(("http://", "https://")):
        raise bad("ollama_base_url", "must be an http or https URL")
    fields.number("temperature", 0, 2)
    fields.integer("max_tokens", 1)
    fields.boolean("enable_caching")
    fields.boolean("enable_cost_tracking")
    return dict(body)
