"""Ollama's API as one piece: what its routes share, its error shape, and what `/` says to its clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from exo_node.api.dialects.ollama_facts import FactsReader
from exo_node.api.dialects.ollama_idle import IdleUnloader
from exo_node.api.dialects.ollama_known import KnownModels
from exo_node.api.dialects.ollama_manage import OllamaModelRoutes, error_shape
from exo_node.api.dialects.ollama_routes import OllamaRoutes
from exo_node.api.dialects.serving import DialectServer
from exo_node.api.errors import ErrorShape, error_body
from exo_node.api.operations import operation
from exo_node.api.ports import ClusterPort
from exo_node.api.serving import CallServer
from exo_node.config import Settings
from exo_node.types import Backend

PREFIXES = ("", "/ollama")  # at the root as Ollama itself, and where exo v2 has it
SHAPES: Mapping[str, ErrorShape] = {"/api/v1": error_body, "/api": error_shape, "/ollama": error_shape}
RUNNING = "Ollama is running"


class OllamaAPI:
    """`close` ends the timers of `keep_alive`."""

    def __init__(self, settings: Settings, serving: CallServer, backend: Backend, cluster: ClusterPort) -> None:
        known, facts = KnownModels(backend, cluster, serving.routing), FactsReader()
        self._idle = IdleUnloader(cluster)
        server = DialectServer(serving)
        self._answers = OllamaRoutes(settings, server, cluster, known, facts, self._idle)
        self._models = OllamaModelRoutes(cluster, known, facts, self._idle)

    def routes(self) -> list[tuple[str, str, Any]]:
        """(method, path below each of `PREFIXES`, handler)."""
        return [*self._answers.routes(), *self._models.routes()]

    async def close(self, app: web.Application) -> None:
        await self._idle.close()


@operation("Ollama", scope="see", answers=("text/plain",))
async def is_running(request: web.Request) -> web.Response:
    """What Ollama answers at its address."""
    return web.Response(text=RUNNING)


def asks_for_data(request: web.Request) -> bool:
    """Whether a request for `/` wants to be told what there is: a browser, or a client of JSON. Ollama's clients say
    nothing of the kind."""
    accepted = request.headers.get("Accept", "")
    return "json" in accepted or "html" in accepted
