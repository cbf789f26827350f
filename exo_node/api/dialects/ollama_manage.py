"""Ollama's routes about models: tags, show, ps, pull, delete, version, and those that are not done here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import orjson
from aiohttp import web

import exo_node
from exo_node.api import sse
from exo_node.api.cluster import PLACE_TIMEOUT_S
from exo_node.api.dialects.ollama import model_name
from exo_node.api.dialects.ollama_facts import Facts, FactsReader, digest_of
from exo_node.api.dialects.ollama_idle import IdleUnloader
from exo_node.api.dialects.ollama_known import KnownModels
from exo_node.api.dialects.ollama_models import FOR_EVER_NS, remote_show, remote_tag, running, show, tag
from exo_node.api.fields import Fields, bad
from exo_node.api.guard import check_allowed, may_ask
from exo_node.api.operations import JSON, NDJSON, operation
from exo_node.api.ports import ClusterPort
from exo_node.api.schemas import ollama as schemas
from exo_node.api.serving import read_object
from exo_node.errors import ExoError, InvalidRequest

# Of the Ollama whose API this is: clients ask for a least version (logprobs came with it, the latest thing done here).
VERSION = "0.12.11"


class NotDone(ExoError):
    """A route of Ollama's that has no meaning here."""

    status, type, code = 501, "invalid_request_error", "not_implemented"


def error_shape(error: ExoError) -> dict[str, Any]:
    """Ollama's error body."""
    return {"error": error.message}


class OllamaModelRoutes:
    def __init__(self, cluster: ClusterPort, known: KnownModels, facts: FactsReader, idle: IdleUnloader) -> None:
        self._cluster, self._known, self._facts, self._idle = cluster, known, facts, idle

    def routes(self) -> list[tuple[str, str, Any]]:
        """(method, path, handler)."""
        not_done = {
            "push": "models are not pushed anywhere",
            "create": "models are not made here: put a folder with one into --models-dir",
        }
        blobs = not_here("blobs", "models are not made here: put a folder with one into --models-dir")
        return [
            ("GET", "/api/tags", self.tags),
            ("POST", "/api/show", self.show),
            ("GET", "/api/ps", self.ps),
            ("POST", "/api/pull", self.pull),
            ("POST", "/api/copy", self.copy),
            ("DELETE", "/api/delete", self.delete),
            ("GET", "/api/version", self.version),
            *(("POST", f"/api/{name}", not_here(name, why)) for name, why in not_done.items()),
            ("HEAD", "/api/blobs/{digest}", blobs),
            ("POST", "/api/blobs/{digest}", blobs),
        ]

    @operation("Ollama", scope="see", answer=schemas.OllamaVersion)
    async def version(self, request: web.Request) -> web.Response:
        """The version of Ollama whose API this is, and ours."""
        return web.json_response({"version": VERSION, "exo_version": exo_node.__version__})

    @operation("Ollama", scope="see", answer=schemas.OllamaModels)
    async def tags(self, request: web.Request) -> web.Response:
        """The cluster's models first, then the providers', as far as the key may ask for them."""
        cards, rows = await self._known.lists(fresh=True)
        found = []
        for card in cards:
            name = next((name for name in (card.id, *card.aliases) if may_ask(name)), None)
            if name is not None:
                found.append(tag(replace(card, id=name), await self._facts.of(card)))
            for copy in filter(may_ask, card.copies):
                found.append(tag(replace(card, id=copy), await self._facts.of(card)))
        seen = {name for card in cards for name in (card.id, *card.copies)}
        found += [remote_tag(row) for row in rows if row["id"] not in seen and may_ask(row["id"])]
        return web.json_response({"models": found})

    @operation("Ollama", scope="see", body=schemas.OllamaNamed, answer=schemas.OllamaModel)
    async def show(self, request: web.Request) -> web.Response:
        """What is known of a model."""
        found = await self._known.of_cluster(model_name(await read_object(request)))
        if found.card is not None:
            return web.json_response(show(found.card, await self._facts.of(found.card)))
        assert found.row is not None
        return web.json_response(remote_show(found.row))

    @operation("Ollama", scope="see", answer=schemas.OllamaModels)
    async def ps(self, request: web.Request) -> web.Response:
        """What is loaded anywhere in the cluster; sizes as its runners report them."""
        cards, _ = await self._known.lists()
        by_id = {card.id: card for card in cards}
        rows = []
        for one in self._cluster.instances():
            if one["state"] != "ready" or not may_ask(one["model"]):
                continue
            card = by_id.get(one["model"])
            facts = Facts(digest=digest_of(one["model"])) if card is None else await self._facts.of(card)
            try:
                stages = await self._cluster.instance_stats(one["id"])
            except ExoError:  # it is being unloaded just now, or a node of it is gone
                continue
            expires = self._idle.expires_ns(one["model"]) or time.time_ns() + FOR_EVER_NS
            rows.append(running(one, facts, stages or (), expires))
        return web.json_response({"models": rows})

    @operation(
        "Ollama",
        scope="use",
        act=True,
        body=schemas.OllamaPullRequest,
        answer=schemas.OllamaStatus,
        answers=(JSON, NDJSON),
    )
    async def pull(self, request: web.Request) -> web.StreamResponse:
        """Fetches a model onto this node. A stream of how far it is, unless `stream` is false."""
        body = await read_object(request)
        # `insecure` says something of Ollama's registry only
        found = await self._known.find(model_name(body))
        check_allowed(found.name)
        lines = self._pulling(found.name, remote=found.row is not None)
        if body.get("stream") is not False:
            style = sse.Style(
                headers={**sse.HEADERS, "Content-Type": NDJSON},
                keep_alive=b"",
                done=b"",
                failure=lambda error: _line(error_shape(error)),
            )
            return await sse.respond(request, lines, PLACE_TIMEOUT_S, style=style)
        async for _ in lines:
            pass
        return web.json_response({"status": "success"})

    async def _pulling(self, model: str, *, remote: bool) -> AsyncGenerator[bytes, None]:
        """Ollama's lines. A model is one "layer" here, named by its name. Closing ends the download."""
        digest = digest_of(model)
        events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        def report(stage: str, done: int, total: int) -> None:
            if stage == "fetching":
                at = {"digest": f"sha256:{digest}", "total": total, "completed": done}
                events.put_nowait({"status": f"pulling {digest[:12]}", **at})
            else:
                events.put_nowait({"status": "verifying sha256 digest"})

        if not remote:
            task = asyncio.create_task(self._cluster.fetch_model(model, report))
            task.add_done_callback(lambda _: events.put_nowait(None))
            try:
                event = await events.get()
                if event is None:
                    await task
                yield _line({"status": "pulling manifest"})
                while event is not None:
                    yield _line(event)
                    event = await events.get()
                await task
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        yield _line({"status": "success"})

    @operation("Ollama", scope="admin", act=True, body=schemas.OllamaCopyRequest, answers=())
    async def copy(self, request: web.Request) -> web.Response:
        """Give a model of this node one more name, kept in model_aliases.toml; needs the admin's key.

        A copy of that name is replaced; the name of a model or of the configuration is refused with 409.
        """
        fields = Fields(await read_object(request))
        source, name = _required(fields, "source"), _required(fields, "destination").removesuffix(":latest")
        await self._known.lists(fresh=True)
        found = await self._known.of_cluster(source)
        if found.card is None:
            assert found.row is not None
            raise InvalidRequest(
                f"{source!r} is a model of {found.row['owned_by']}: the configuration gives it other names",
                param="source",
            )
        check_allowed(name)
        if await self._known.is_theirs(name):
            raise InvalidRequest(
                f"destination {name[:200]!r} goes to a provider: a model of one, configured, or below one",
                param="destination",
                status=409,
            )
        await self._cluster.copy_model(found.name if found.is_copy else found.placed_as, name)
        await self._known.lists(fresh=True)
        return web.Response()

    @operation("Ollama", scope="admin", act=True, body=schemas.OllamaNamed, answer=schemas.OllamaNothing)
    async def delete(self, request: web.Request) -> web.Response:
        """Delete a fetched model's files on this node, or a copy's name; needs the admin's key."""
        found = await self._known.find(model_name(await read_object(request)))
        check_allowed(found.name)
        if found.row is not None:
            raise InvalidRequest(
                f"{found.name!r} is a model of {found.row['owned_by']}: it has no files here", param="model"
            )
        await self._cluster.delete_model(found.name if found.is_copy else found.placed_as)
        await self._known.lists(fresh=True)
        return web.json_response({})


def not_here(name: str, why: str) -> Any:
    """A handler that answers 501."""

    @operation("Ollama", scope="see", status=501)
    async def refuse(request: web.Request) -> web.Response:
        """Not done here."""
        raise NotDone(f"{request.path} is not done by exo-node: {why}")

    refuse.__name__, refuse.__qualname__ = name, f"not_here.{name}"  # the API's description tells handlers apart by it
    return refuse


def _required(fields: Fields, name: str) -> str:
    value = fields.text(name)
    if not value:
        raise bad(name, "is required", code="missing_required_parameter")
    return value


def _line(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value) + b"\n"
