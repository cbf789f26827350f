"""Routes about the cluster: health, topology, and instances (place, list, remove)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from exo_node.api import sse, visible
from exo_node.api.calls import refuse_unknown
from exo_node.api.fields import Fields, bad
from exo_node.api.guard import check_allowed, principal
from exo_node.api.leaving import LEAVING
from exo_node.api.memory_gate import MEMORY
from exo_node.api.operations import JSON, SSE, operation
from exo_node.api.ports import ClusterPort, Progress
from exo_node.api.schemas import cluster_answers as answers
from exo_node.api.schemas import node
from exo_node.api.serving import read_object
from exo_node.errors import NotFound
from exo_node.packing import BITS
from exo_node.values import is_loopback

# Loading a large model over a slow link takes hours; the caller's disconnect ends it, not a clock.
PLACE_TIMEOUT_S = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceRequest:
    """Body of POST /v1/instances."""

    model: str
    min_nodes: int
    nodes: tuple[str, ...]
    engines: tuple[str, ...]
    reuse: bool
    stream: bool
    quantize: int = 0
    draft_model: str = ""
    spares: bool = False


def parse_place(body: dict[str, Any]) -> PlaceRequest:
    """`{"model", "min_nodes"?, "nodes"?: [ring order], "engines"?: [one, or one a node], "quantize"?: 4 or 8,
    "draft_model"?, "spares"?, "reuse"?, "stream"?}`.

    Other keys are refused. `reuse` takes an instance of the model that is ready already; it goes with no
    wishes about where it runs.
    """
    known = ("model", "min_nodes", "nodes", "engines", "quantize", "draft_model", "spares", "reuse", "stream")
    for name in body:
        if name not in known:
            raise bad(name, f"is unknown here; known: {', '.join(known)}", code="unknown_parameter")
    fields = Fields(body)
    model = fields.text("model")
    if not model:
        raise bad("model", "is required", code="missing_required_parameter")
    min_nodes = fields.integer("min_nodes", 1, 1024)
    nodes, engines = fields.texts("nodes"), fields.texts("engines")
    if min_nodes is not None and nodes and min_nodes > len(nodes):
        raise bad("min_nodes", f"asks for {min_nodes} nodes, but nodes lists {len(nodes)}")
    for i, engine in enumerate(engines):
        if engine not in ("mlx", "tinygrad"):
            raise bad(f"engines[{i}]", f"must be mlx or tinygrad, got {engine[:40]!r}")
    if len(engines) > 1 and len(engines) != len(nodes):
        raise bad(
            "engines", f"must be one for all, or one for each of nodes; got {len(engines)} for {len(nodes)} nodes"
        )
    reuse = fields.boolean("reuse") or False
    if reuse and (min_nodes or nodes or engines):
        raise bad("reuse", "takes what is there: it cannot be combined with min_nodes, nodes or engines")
    quantize = fields.integer("quantize", 4, 8)
    if quantize not in (None, *BITS):
        raise bad("quantize", f"must be 4 or 8 (bits), got {quantize}")
    draft_model = fields.text("draft_model")
    if draft_model == "":
        raise bad("draft_model", "must name a model")
    return PlaceRequest(
        model=model,
        min_nodes=min_nodes or 1,
        nodes=nodes,
        engines=engines,
        reuse=reuse,
        stream=fields.boolean("stream") or False,
        quantize=quantize or 0,
        draft_model=draft_model or "",
        spares=fields.boolean("spares") or False,
    )


class ClusterRoutes:
    """Handlers over the node's view of its cluster."""

    def __init__(self, cluster: ClusterPort) -> None:
        self._cluster = cluster

    def routes(self) -> list[tuple[str, str, Any]]:
        """(method, path without /v1, handler)."""
        return [
            ("GET", "/health", self.health),
            ("GET", "/healthcheck", self.healthcheck),
            ("GET", "/topology", self.topology),
            ("POST", "/cluster/key", self.rotate_key),
            ("GET", "/instances", self.instances),
            ("POST", "/instances", self.place),
            ("GET", "/instances/{id}", self.instance),
            ("GET", "/instances/{id}/stats", self.stats),
            ("DELETE", "/instances/{id}", self.remove),
            ("GET", "/recoveries", self.recoveries),
            ("POST", "/nodes/{id}/drain", self.drain),
        ]

    @operation("Node", scope="open", answer=node.Health)
    async def health(self, request: web.Request) -> web.Response:
        """200 when `status` is "ok", else 503. Without the key (probes) the status only."""
        health = self._cluster.health()
        if request.app[LEAVING].begun:
            health["status"] = "draining"
        elif request.app[MEMORY].level == "critical":
            health["status"] = "low_memory"
        ok = health.get("status") == "ok"
        shown = health if principal() is not None else {"status": health.get("status")}
        return web.json_response(shown, status=200 if ok else 503)

    @operation("Node", scope="open", answer=node.Health)
    async def healthcheck(self, request: web.Request) -> web.Response:
        """The process answers (exo's own path)."""
        return web.json_response({"status": "ok"})  # exo's: the process answers

    @operation("Cluster", scope="see", answer=answers.Topology)
    async def topology(self, request: web.Request) -> web.Response:
        """Nodes, how they reach each other, and instances."""
        return web.json_response(visible.topology(self._cluster))

    @operation("Cluster", scope="admin", act=True, body=node.RotateRequest, answer=answers.KeyRotated)
    async def rotate_key(self, request: web.Request) -> web.Response:
        """Change the cluster's key on every live member, while everything runs on.

        `configured` are nodes whose `--cluster-key` is to be changed by hand, `failed` those that need `exo join`.
        """
        body = await read_object(request)
        refuse_unknown(body, ("phrase", "without", "patience_s"))
        fields = Fields(body)
        phrase, without = fields.text("phrase"), fields.texts("without")
        patience = fields.number("patience_s", 0, 3600)
        if phrase is not None and not (request.secure or is_loopback(request.remote or "")):
            raise bad("phrase", "would cross the network in plain text: ask the node from its own machine")
        done = await self._cluster.rotate_key(phrase, without, 30.0 if patience is None else patience)
        return web.json_response({"object": "cluster.key", **done})

    @operation("Cluster", scope="see", answer=answers.Instances)
    async def instances(self, request: web.Request) -> web.Response:
        """Models that are placed or being placed."""
        return web.json_response({"object": "list", "data": visible.instances(self._cluster)})

    @operation("Cluster", scope="see", answer=answers.InstanceView)
    async def instance(self, request: web.Request) -> web.Response:
        """One instance."""
        wanted = request.match_info["id"]
        for instance in visible.instances(self._cluster):
            if instance["id"] == wanted:
                return web.json_response(instance)
        raise _no_instance(wanted)

    @operation("Cluster", scope="see", answer=answers.InstanceStats)
    async def stats(self, request: web.Request) -> web.Response:
        """What the runners of an instance hold now, the head first."""
        wanted = request.match_info["id"]
        check_instance(self._cluster, wanted)
        stages = await self._cluster.instance_stats(wanted)
        if stages is None:
            raise _no_instance(wanted)
        return web.json_response({"id": wanted, "object": "instance.stats", "stages": stages})

    @operation("Cluster", scope="read", answer=answers.Recoveries)
    async def recoveries(self, request: web.Request) -> web.Response:
        """The losses of nodes and runners that answers of this node got over of late, oldest first."""
        may = visible.sees(self._cluster)
        data = [one for one in self._cluster.recoveries() if may(one["model"])]
        return web.json_response({"object": "list", "data": data})

    @operation("Cluster", scope="admin", act=True, body=node.DrainRequest, answer=answers.NodeDrained)
    async def drain(self, request: web.Request) -> web.Response:
        """Empty a node: it takes no new shards, others take over those that it holds, and running answers go on.

        With `"undo": true` it takes shards again. The admin's."""
        fields = Fields(await read_object(request) if request.can_read_body else {})
        undo = fields.boolean("undo") or False
        node_id = request.match_info["id"]
        moved = await self._cluster.drain(node_id, undo=undo)
        return web.json_response({"id": node_id, "object": "node.drained", "draining": not undo, **moved})

    @operation("Cluster", scope="use", act=True, answer=answers.InstanceDeleted)
    async def remove(self, request: web.Request) -> web.Response:
        """Unload an instance."""
        wanted = request.match_info["id"]
        check_instance(self._cluster, wanted)
        if not await self._cluster.remove(wanted):
            raise _no_instance(wanted)
        return web.json_response({"id": wanted, "object": "instance.deleted", "deleted": True})

    @operation(
        "Cluster", scope="use", act=True, body=node.PlaceRequest, answer=answers.InstanceView, answers=(JSON, SSE)
    )
    async def place(self, request: web.Request) -> web.StreamResponse:
        """Answers when the instance is ready; with `"stream": true` events tell the progress until then.

        Events: `{"object": "instance.progress", "stage", ...}` and last the instance. Disconnecting cancels.
        """
        wanted = parse_place(await read_object(request))
        for model in (wanted.model, wanted.draft_model):
            if model:
                check_allowed(model)
        if wanted.stream:
            return await sse.respond(request, self._progress(wanted), PLACE_TIMEOUT_S)
        return web.json_response(await self._place(wanted, None))

    async def _place(self, wanted: PlaceRequest, on_progress: Progress | None) -> dict[str, Any]:
        return await self._cluster.place(
            wanted.model,
            min_nodes=wanted.min_nodes,
            nodes=wanted.nodes,
            engines=wanted.engines,
            reuse=wanted.reuse,
            quantize=wanted.quantize,
            draft_model=wanted.draft_model,
            spares=wanted.spares,
            on_progress=on_progress,
        )

    async def _progress(self, wanted: PlaceRequest) -> AsyncGenerator[bytes, None]:
        events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        task = asyncio.create_task(self._place(wanted, events.put_nowait))
        task.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield sse.frame({"object": "instance.progress", **event})
            yield sse.frame(await task)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def check_instance(cluster: ClusterPort, wanted: str) -> None:
    """Raises `ModelNotAllowed` where the instance holds a model that the key may not ask for."""
    for instance in cluster.instances():
        if instance["id"] == wanted:
            check_allowed(instance["model"])


def _no_instance(wanted: str) -> NotFound:
    return NotFound(f"no instance {wanted!r}; GET /v1/instances lists them", param="id")
