"""What tools written for exo's second version ask for: its state, and instances placed from previews.

Its instances appear at once and load behind the answer; here `POST /instance` and `/place_instance` answer when the
instance is ready.
"""

from __future__ import annotations

import asyncio
import shutil
import time
import uuid
from collections.abc import Mapping
from typing import Any, Never

from aiohttp import web

from exo_node.api import visible
from exo_node.api.calls import refuse_unknown
from exo_node.api.cluster import check_instance
from exo_node.api.exo import shapes
from exo_node.api.exo.downloads import Downloads
from exo_node.api.exo.v1 import model_named
from exo_node.api.fields import Fields, bad
from exo_node.api.guard import check_allowed
from exo_node.api.operations import operation
from exo_node.api.pages import whole_number
from exo_node.api.ports import ClusterPort
from exo_node.api.schemas import exo_answers as answers
from exo_node.api.schemas import node as schemas
from exo_node.api.schemas.answers import ModelRow
from exo_node.api.serving import read_object
from exo_node.api.views import model_view
from exo_node.config import Settings
from exo_node.errors import ExoError, NoCapacity, NotFound
from exo_node.types import Backend, ModelCard

MAX_NODES = 16  # of the rings that are previewed
MAX_MIN_NODES = 1024  # that may be asked for
NAMED = 100  # models that somebody has asked about, which peers are asked for
NOT_FETCHED = "not_fetched"  # a `ModelNotFound` of a placement that would have to download first
_INSTEAD = {
    ("POST", "/cancel/{id}"): "close the connection of the request, which ends it",
    ("GET", "/events"): "GET /state shows what is now",
    ("GET", "/models/search"): "search on the hub itself; any of its names can be loaded",
}


class V2Routes:
    """Handlers over the cluster."""

    def __init__(self, settings: Settings, backend: Backend, cluster: ClusterPort, downloads: Downloads) -> None:
        self._home = settings.home
        self._backend = backend
        self._cluster = cluster
        self._downloads = downloads
        self._named: dict[str, None] = {}  # the latest last

    def routes(self) -> list[tuple[str, str, Any]]:
        """(method, path without /v1, handler)."""
        return [
            ("GET", "/node_id", self.node_id),
            ("GET", "/state", self.state),
            ("GET", "/state/downloads/{node}", self.held),
            ("GET", "/state/{path:.+}", self.state_at),
            ("GET", "/instance/previews", self.previews),
            ("GET", "/instance/placement", self.placement),
            ("GET", "/instance/{id}", self.instance),
            ("POST", "/instance", self.create),
            ("POST", "/place_instance", self.place),
            ("DELETE", "/instance/{id}", self.remove),
            ("POST", "/models/add", self.add_model),
            ("POST", "/download/start", self.start_download),
            ("POST", "/download/cancel", self.cancel_download),
            ("DELETE", "/download/{node}/{model:.+}", self.delete_download),
            *((method, path, _refuse(instead)) for (method, path), instead in _INSTEAD.items()),
        ]

    @operation("exo", scope="see", answer=str)
    async def node_id(self, request: web.Request) -> web.Response:
        """This node's id."""
        return web.json_response(self._cluster.node_id)

    @operation("exo", scope="see", answer=answers.State)
    async def state(self, request: web.Request) -> web.Response:
        """Instances, runners, nodes; disk and downloads of this node only."""
        return web.json_response(await self._state())

    @operation("exo", scope="see", answer=answers.Part)
    async def state_at(self, request: web.Request) -> web.Response:
        """A part of the state, by its keys. 404 where there is none."""
        found: Any = await self._state()
        for key in request.match_info["path"].split("/"):
            if not isinstance(found, dict) or key not in found:
                raise NotFound(f"no {request.match_info['path'][:80]!r} in the state")
            found = found[key]
        return web.json_response(found)

    @operation("exo", scope="see", answer=answers.Held)
    async def held(self, request: web.Request) -> web.Response:
        """The downloads of a node. A peer is asked for the models that a preview or a download has named here."""
        node = request.match_info["node"]
        if node == self._cluster.node_id:
            return web.json_response(await self._own_downloads())
        if node not in self._cluster.topology()["nodes"]:
            raise NotFound(f"no node {node[:80]!r}; GET /v1/topology lists them")
        rows = self._downloads_to(node)
        may = visible.sees(self._cluster)
        found = await asyncio.gather(*(self._completed_at(node, model) for model in self._named if may(model)))
        return web.json_response([row for row in (*found, *rows) if row is not None])

    @operation("exo", scope="see", answer=answers.Previews)
    async def previews(self, request: web.Request) -> web.Response:
        """Where a model would go: one row for each number of nodes, with its reason where that cannot be."""
        model = _asked(request.query, ("model_id",))
        self._name(model)
        rows: list[dict[str, Any]] = []
        seen: set[int] = set()
        for count in range(1, min(MAX_NODES, len(self._cluster.topology()["nodes"])) + 1):
            try:
                planned = await self._cluster.preview(model, min_nodes=count)
            except ExoError as e:
                if count == 1 and not isinstance(e, NoCapacity) and e.code != NOT_FETCHED:
                    raise
                rows.append(shapes.preview(model, None, "", e.message))
                if e.code == NOT_FETCHED:
                    break
                continue
            size = len({shard["node_id"] for shard in planned["shards"]})
            if size not in seen:
                seen.add(size)
                rows.append(shapes.preview(planned["model"], planned, str(uuid.uuid4())))
        return web.json_response({"previews": rows})

    @operation("exo", scope="see", answer=answers.TaggedInstance)
    async def placement(self, request: web.Request) -> web.Response:
        """The instance that would be placed."""
        model = _asked(request.query, ("model_id", "sharding", "instance_meta", "min_nodes"))
        count = whole_number(request.query, "min_nodes", 1, MAX_MIN_NODES)
        planned = await self._cluster.preview(model, min_nodes=count)
        return web.json_response(shapes.instance({**planned, "id": str(uuid.uuid4())}))

    @operation("exo", scope="see", answer=answers.TaggedInstance)
    async def instance(self, request: web.Request) -> web.Response:
        """An instance in exo's shape."""
        return web.json_response(shapes.instance(self._find(request.match_info["id"])))

    @operation("exo", scope="use", act=True, body=schemas.InstanceGiven, answer=answers.Placed)
    async def create(self, request: web.Request) -> web.Response:
        """Place a preview's instance under its id; answers when it is ready. Disconnecting cancels."""
        body = await read_object(request)
        refuse_unknown(body, ("instance",))
        model, ident, nodes = shapes.wanted_instance(body)
        check_allowed(model)
        made = await self._cluster.place(model, min_nodes=1, nodes=nodes, engines=(), instance_id=ident)
        return web.json_response(_placed(made))

    @operation("exo", scope="use", act=True, body=schemas.ModelPlaced, answer=answers.Placed)
    async def place(self, request: web.Request) -> web.Response:
        """Place a model; answers when it is ready. Disconnecting cancels."""
        body = await read_object(request)
        refuse_unknown(body, ("model_id", "sharding", "instance_meta", "min_nodes"))
        fields = Fields(body)
        model = fields.text("model_id")
        if not model:
            raise bad("model_id", "is required", code="missing_required_parameter")
        check_allowed(model)
        _check_kind(fields.text("sharding"), fields.text("instance_meta"))
        count = fields.integer("min_nodes", 1, MAX_MIN_NODES) or 1
        return web.json_response(_placed(await self._cluster.place(model, min_nodes=count, nodes=(), engines=())))

    @operation("exo", scope="use", act=True, answer=answers.Removed)
    async def remove(self, request: web.Request) -> web.Response:
        """Take an instance down."""
        ident = request.match_info["id"]
        check_instance(self._cluster, ident)
        if not await self._cluster.remove(ident):
            raise _no_instance(ident)
        return web.json_response({"message": "Instance deleted", "command_id": ident, "instance_id": ident})

    @operation("exo", scope="use", act=True, body=schemas.ModelIdNamed, answer=ModelRow)
    async def add_model(self, request: web.Request) -> web.Response:
        """Fetch a model of the hub's to this node; answers when it is here. Disconnecting cancels."""
        asked = model_named(await read_object(request), "model_id")
        check_allowed(asked)
        model = await self._cluster.fetch_model(asked, _ignore)
        return web.json_response(model_view(await self._card(model)))

    @operation("exo", scope="use", act=True, body=schemas.DownloadWanted, answer=answers.Commanded)
    async def start_download(self, request: web.Request) -> web.Response:
        """Have a node fetch a model, if it has not; `/state/downloads/{node}` tells how far it is."""
        body = await read_object(request)
        refuse_unknown(body, ("targetNodeId", "shardMetadata"))
        node = Fields(body).text("targetNodeId") or ""
        if node not in self._cluster.topology()["nodes"]:
            raise bad("targetNodeId", f"no node {node[:80]!r}; GET /v1/topology lists them")
        model = shapes.model_of(body.get("shardMetadata"))
        check_allowed(model)
        self._name(model)
        self._downloads.start(model, node)
        return web.json_response({"command_id": str(uuid.uuid4())})

    @operation("exo", scope="use", act=True, body=schemas.DownloadEnded, answer=answers.Commanded)
    async def cancel_download(self, request: web.Request) -> web.Response:
        """End a download; what came is kept."""
        body = await read_object(request)
        refuse_unknown(body, ("targetNodeId", "modelId"))
        fields = Fields(body)
        node, model = fields.text("targetNodeId") or "", fields.text("modelId") or ""
        check_allowed(model)
        if not await self._downloads.cancel(model, node):
            raise NotFound(f"no download of {model[:80]!r} runs on node {node[:80]!r}")
        return web.json_response({"command_id": str(uuid.uuid4())})

    @operation("exo", scope="admin", act=True, answer=answers.Commanded)
    async def delete_download(self, request: web.Request) -> web.Response:
        """Delete the files of a model that was fetched to this node."""
        node = request.match_info["node"]
        if node != self._cluster.node_id:
            raise bad("node", f"is {self._cluster.node_id} here: a node deletes its own files only")
        await self._cluster.delete_model(request.match_info["model"])
        return web.json_response({"command_id": str(uuid.uuid4())})

    # -- parts

    def _name(self, model: str) -> None:
        self._named.pop(model, None)
        self._named[model] = None
        while len(self._named) > NAMED:
            del self._named[next(iter(self._named))]

    def _find(self, ident: str) -> Mapping[str, Any]:
        found = next((one for one in visible.instances(self._cluster) if one["id"] == ident), None)
        if found is None:
            raise _no_instance(ident)
        return found

    async def _card(self, model: str) -> ModelCard:
        found = next((one for one in await self._backend.models() if one.id == model), None)
        if found is None:
            raise NotFound(f"{model} was deleted meanwhile")
        return found

    async def _state(self) -> dict[str, Any]:
        views = visible.instances(self._cluster)
        disk = await asyncio.to_thread(shutil.disk_usage, _existing(self._home))
        here = self._cluster.node_id
        return {
            "instances": {one["id"]: shapes.instance(one) for one in views},
            "runners": shapes.runners(views),
            "downloads": {here: await self._own_downloads()},
            "nodeDisk": {here: {"total": {"inBytes": disk.total}, "available": {"inBytes": disk.free}}},
            **shapes.nodes(self._cluster.topology()),
        }

    async def _own_downloads(self) -> list[dict[str, Any]]:
        here, may = self._cluster.node_id, visible.sees(self._cluster)
        held = [
            # The demo's files and those of --models-dir are not ours to delete.
            shapes.completed(here, card.id, card.size or 0, read_only=card.owned_by in ("exo-node", "local"))
            for card in await self._backend.models()
            if card.local_path is not None and may(card.id)
        ]
        return held + [row for row in self._downloads_to(here) if row is not None]

    def _downloads_to(self, node: str) -> list[dict[str, Any] | None]:
        now, may = time.monotonic(), visible.sees(self._cluster)
        return [shapes.download(one, now) for one in self._downloads.all() if one.node_id == node and may(one.model)]

    async def _completed_at(self, node: str, model: str) -> dict[str, Any] | None:
        try:
            found = await self._cluster.describe_at(node, model, fetch=False)
        except ExoError:
            return None  # it does not hold it, or cannot say
        return shapes.completed(node, found["model"], found["bytes"], read_only=True)


def _asked(query: Mapping[str, str], known: tuple[str, ...]) -> str:
    refuse_unknown(query, known)
    _check_kind(query.get("sharding"), query.get("instance_meta"))
    model = query.get("model_id")
    if not model:
        raise bad("model_id", "is required", code="missing_required_parameter")
    check_allowed(model)
    return model


def _check_kind(sharding: str | None, meta: str | None) -> None:
    if sharding not in (None, shapes.SHARDING):
        raise bad("sharding", f"must be {shapes.SHARDING}, got {sharding[:40]!r}", code="unsupported_parameter")
    if meta not in (None, shapes.META):
        raise bad("instance_meta", f"must be {shapes.META}, got {meta[:40]!r}", code="unsupported_parameter")


def _placed(made: Mapping[str, Any]) -> dict[str, Any]:
    return {"message": "Instance is ready", "command_id": made["id"], "model_card": {"modelId": made["model"]}}


def _no_instance(ident: str) -> NotFound:
    return NotFound(f"no instance {ident[:80]!r}; GET /v1/instances lists them", param="id")


def _ignore(stage: str, done: int, total: int) -> None:
    """Nobody watches."""


def _existing(path: Any) -> Any:
    """The folder, or the nearest one above it that there is."""
    return next(one for one in (path.absolute(), *path.absolute().parents) if one.is_dir())


def _refuse(instead: str) -> Any:
    @operation("exo", scope="see", status=501)
    async def refuse(request: web.Request) -> Never:
        """Not done here."""
        raise NotFound(f"{request.path} is not done by this node: {instead}", status=501, code="not_implemented")

    return refuse
