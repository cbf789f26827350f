"""The paths of exo's first version that OpenAI's API has not. Shapes as its `chatgpt_api.py` answers them."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from aiohttp import web

from exo_node.api import sse
from exo_node.api.calls import refuse_unknown
from exo_node.api.exo.downloads import Download, Downloads
from exo_node.api.fields import Fields, bad
from exo_node.api.guard import check_allowed, may_ask
from exo_node.api.openai_request import parse_chat
from exo_node.api.operations import SSE, operation
from exo_node.api.ports import ClusterPort
from exo_node.api.schemas import exo_answers as answers
from exo_node.api.schemas import node as schemas
from exo_node.api.schemas.openai import ChatRequest
from exo_node.api.serving import read_object
from exo_node.config import Settings
from exo_node.types import Backend, ModelCard


class V1Routes:
    """Handlers over the local models."""

    def __init__(self, settings: Settings, backend: Backend, cluster: ClusterPort, downloads: Downloads) -> None:
        self._settings = settings
        self._backend = backend
        self._cluster = cluster
        self._downloads = downloads

    def routes(self) -> list[tuple[str, str, Any]]:
        """(method, path without /v1, handler)."""
        return [
            ("POST", "/chat/token/encode", self.encode),
            ("GET", "/initial_models", self.initial_models),
            ("GET", "/modelpool", self.modelpool),
            ("GET", "/download/progress", self.progress),
            ("POST", "/download", self.download),
            ("DELETE", "/models/{name:.+}", self.delete),
            ("POST", "/quit", self.quit),
        ]

    @operation("exo", scope="use", body=ChatRequest, answer=answers.Encoded, checked_later=True)
    async def encode(self, request: web.Request) -> web.Response:
        """A chat's prompt as a local model would read it: `encoded_tokens`, `encoded_prompt`, `num_tokens`, `length`
        (characters)."""
        body = await read_object(request)
        parsed = parse_chat(body, f"encode-{random.getrandbits(64):016x}", self._settings)
        check_allowed(parsed.model)
        ids, text = await self._backend.encode(parsed.requests[0])
        return web.json_response(
            {"length": len(text), "num_tokens": len(ids), "encoded_tokens": ids, "encoded_prompt": text}
        )

    @operation("exo", scope="see", answer=answers.PoolRows)
    async def initial_models(self, request: web.Request) -> web.Response:
        """Every local model that the key may ask for, by name."""
        return web.json_response(await self._pool())

    @operation("exo", scope="see", answers=(SSE,))
    async def modelpool(self, request: web.Request) -> web.StreamResponse:
        """The same as events, one a model."""

        pool = await self._pool()

        async def frames() -> AsyncGenerator[bytes, None]:
            for name, row in pool.items():
                yield sse.frame({name: row})

        return await sse.respond(request, frames(), self._settings.response_timeout)

    @operation("exo", scope="see", answer=answers.Downloading)
    async def progress(self, request: web.Request) -> web.Response:
        """By node: the download that runs there, the latest where there are several."""
        now = time.monotonic()
        running = [one for one in self._downloads.all() if one.state == "running" and may_ask(one.model)]
        return web.json_response({one.node_id: progress_view(one, now) for one in running})

    @operation("exo", scope="use", act=True, body=schemas.ModelNamed, answer=answers.Done)
    async def download(self, request: web.Request) -> web.Response:
        """Begin to fetch a model to this node; `/v1/download/progress` tells how far it is."""
        model = model_named(await read_object(request))
        check_allowed(model)
        self._downloads.start(model, self._cluster.node_id)
        return web.json_response({"status": "success", "message": f"Download started for model: {model}"})

    @operation("exo", scope="admin", act=True, answer=answers.Done)
    async def delete(self, request: web.Request) -> web.Response:
        """Delete the files of a model that was fetched."""
        model = await self._cluster.delete_model(request.match_info["name"])
        return web.json_response({"status": "success", "message": f"Model {model} deleted successfully"})

    @operation("exo", scope="admin", act=True, answer=answers.Detail)
    async def quit(self, request: web.Request) -> web.Response:
        """End this node in order."""
        self._cluster.quit()
        return web.json_response({"detail": "Quit signal received"})

    async def _pool(self) -> dict[str, dict[str, Any]]:
        cards = await self._backend.models()
        rows = {card.id: _row(card) for card in cards}
        for one in self._downloads.all():
            if one.state == "running" and one.node_id == self._cluster.node_id:
                rows[one.model] = _fetched(one)
        return {name: row for name, row in rows.items() if may_ask(name)}


def model_named(body: Mapping[str, Any], field: str = "model") -> str:
    """Raises `InvalidRequest`."""
    refuse_unknown(body, (field,))
    model = Fields(body).text(field)
    if not model:
        raise bad(field, "is required", code="missing_required_parameter")
    return model


def progress_view(one: Download, now: float) -> dict[str, Any]:
    """exo's download event; `overall_eta` in seconds, null where nobody knows."""
    return {
        "repo_id": one.model,
        "status": "in_progress",
        "downloaded_bytes": one.done,
        "downloaded_bytes_this_session": one.done - (one.first or 0),
        "total_bytes": one.total,
        "overall_speed": one.rate(now),
        "overall_eta": one.left_s(now),
    }


def _row(card: ModelCard) -> dict[str, Any]:
    """What other nodes hold is not downloaded here."""
    here = card.local_path is not None
    return {
        "name": card.id,
        "downloaded": here,
        "download_percentage": 100 if here else 0,
        "total_size": card.size,
        "total_downloaded": card.size or 0,
        "loading": False,
        "loaded": card.loaded,
    }


def _fetched(one: Download) -> dict[str, Any]:
    return {
        "name": one.model,
        "downloaded": False,
        "download_percentage": round(100 * one.done / one.total, 1) if one.total else 0,
        "total_size": one.total or None,
        "total_downloaded": one.done,
        "loading": True,
        "loaded": False,
    }
