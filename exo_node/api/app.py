"""The HTTP API: puts the routes, the guard and the error border together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import web

from exo_node.api.audit import AuditRoutes, make_auditor
from exo_node.api.batch import BatchRoutes
from exo_node.api.batches import BatchesRoutes, asker
from exo_node.api.batching.area import FileArea
from exo_node.api.batching.worker import BatchWorker
from exo_node.api.cluster import ClusterRoutes
from exo_node.api.cors import Origins
from exo_node.api.deployments import DeploymentRoutes
from exo_node.api.dialects import anthropic, ollama_api, responses
from exo_node.api.dialects.anthropic_models import PREFIX
from exo_node.api.documents import DocumentRoutes
from exo_node.api.embeddings import EmbeddingRoutes
from exo_node.api.errors import ERROR_SHAPES, HEADER_SHAPES, MAX_BODY, error_middleware, is_ours
from exo_node.api.exo.bench import BenchRoutes
from exo_node.api.exo.downloads import Downloads
from exo_node.api.exo.v1 import V1Routes
from exo_node.api.exo.v2 import V2Routes
from exo_node.api.files import FileRoutes
from exo_node.api.guard import make_guard
from exo_node.api.leaving import LEAVING, Leaving, take_no_more
from exo_node.api.media import MediaRoutes
from exo_node.api.memory_gate import MEMORY, refuse_without_memory
from exo_node.api.mirroring.ports import Alone, PeersPort
from exo_node.api.openai import OpenAIRoutes
from exo_node.api.operations import JSON, operation
from exo_node.api.ports import ClusterPort, RoutingPort
from exo_node.api.providers import ProviderRoutes
from exo_node.api.router import RouterRoutes
from exo_node.api.schemas.cluster_answers import Welcome
from exo_node.api.sending import SENDING, Sending
from exo_node.api.serving import CallServer, expected
from exo_node.api.spend import SpendRoutes
from exo_node.api.vision import VisionRoutes
from exo_node.config import Settings
from exo_node.limits.memory import MemoryWatch
from exo_node.store import Store
from exo_node.store_audit import AuditTable
from exo_node.store_batches import BatchTable
from exo_node.types import Backend

PREFIXES = ("", "/v1")
LAS_PREFIXES = ("/api/v1/litellm", "/api/v1/litellm/v1")  # document 002's paths, and its OpenAI drop-in


WELCOME = {
    "message": "exo is running",
    "docs": "/docs",
    "models": "/v1/models",
    "chat": "/v1/chat/completions",
    "topology": "/v1/topology",
    "health": "/health",
    "metrics": "/metrics",
}


@operation("Node", scope="see", answer=Welcome)
async def welcome(request: web.Request) -> web.Response:
    """What answers here, for people who try the address in a browser and for clients that look for life."""
    return web.json_response(WELCOME)


@operation("Node", scope="open", answer=Welcome, answers=("text/plain", JSON))
async def root(request: web.Request) -> web.Response:
    """What answers here.

    Who does not say that it takes JSON or HTML may be looking for Ollama.
    """
    return await (welcome if ollama_api.asks_for_data(request) else ollama_api.is_running)(request)


class ChatGPTAPI:
    """The API of one node. `backend` lists the local models, `routing` serves every call, the ring's too; `store` keeps
    responses, files and batches, `acts` what changes the node. `jobs` run as long as the node does.

    `peers` are the nodes that responses are mirrored on; without them there are none.

    `app` is to be served with `web.AppRunner(app, handler_cancellation=True)`: a client that goes away cancels its
    handler, and that its sequences.
    """

    def __init__(
        self,
        settings: Settings,
        backend: Backend,
        cluster: ClusterPort,
        routing: RoutingPort,
        store: Store,
        acts: AuditTable,
        memory: MemoryWatch | None = None,
        peers: PeersPort | None = None,
    ) -> None:
        """`memory`: what is known of this machine's, kept up to date by its owner."""
        logging.getLogger("aiohttp.server").addFilter(is_ours)
        origins = Origins(settings.allowed_origins)
        guard = cast(Any, make_guard(settings, routing, origins))
        auditor = cast(Any, make_auditor(acts, cluster.node_id))
        self.leaving, sending = Leaving(), Sending(settings.send_timeout)
        middlewares = [error_middleware, take_no_more, guard, refuse_without_memory, auditor]
        self.app = web.Application(middlewares=middlewares, client_max_size=MAX_BODY)
        self.app[LEAVING], self.app[SENDING], self.app[MEMORY] = self.leaving, sending, memory or MemoryWatch(0)
        serving = CallServer(settings, routing, self.leaving)
        router = RouterRoutes(serving, cluster)
        openai = OpenAIRoutes(serving, backend)
        others = peers or Alone(cluster.node_id)
        answers = self._answers = responses.ResponsesRoutes(serving, backend, settings, store, others)
        self.responses = answers.places  # what peers are answered
        calls = [
            *openai.routes(),
            *answers.routes(),
            *EmbeddingRoutes(serving).routes(),
            *VisionRoutes(serving).routes(),
            *BatchRoutes(serving).routes(),
            *MediaRoutes(serving).routes(),
            *ProviderRoutes(routing).routes(),
            *DeploymentRoutes(routing).routes(),
            *SpendRoutes(routing).routes(),
            *router.routes(),
        ]
        table, area = BatchTable(store), FileArea(settings.home / "files")
        self._batches = BatchWorker(table, area, asker(serving, answers.respond))
        batches = [*FileRoutes(table, area).routes(), *BatchesRoutes(table, self._batches).routes()]
        downloads = Downloads(cluster)
        exo = [
            *V1Routes(settings, backend, cluster, downloads).routes(),
            *V2Routes(settings, backend, cluster, downloads).routes(),
            *BenchRoutes(serving, backend, cluster).routes(),
        ]
        self.app.on_cleanup.append(downloads.close)
        self._add([*ClusterRoutes(cluster).routes(), *AuditRoutes(acts).routes(), *batches, *exo], PREFIXES)
        self._add(calls, PREFIXES + LAS_PREFIXES)
        self._add(anthropic.AnthropicRoutes(serving, backend, settings).routes(), ("", PREFIX))
        self._add([route for route in openai.routes() if route[0] == "GET"], (f"{PREFIX}/v1",))
        ollama = ollama_api.OllamaAPI(settings, serving, backend, cluster)
        self._add(ollama.routes(), ollama_api.PREFIXES)
        self._add([("GET", path, ollama_api.is_running) for path in ("/ollama", "/ollama/")], ("",))
        self.app.on_cleanup.append(ollama.close)
        self.app[ERROR_SHAPES] = {**anthropic.SHAPES, **ollama_api.SHAPES}
        self.app[HEADER_SHAPES] = anthropic.HEADER_SHAPES
        self.app.on_cleanup.append(answers.close)
        self.app.on_response_prepare.append(origins.add_headers)
        self.app.on_response_prepare.append(anthropic.add_request_id)
        self._add([("GET", "/metrics", router.metrics)], ("",))
        self._add(DocumentRoutes(self.app).routes(), ("",))
        self._add([("GET", "/", root), ("GET", "/v1", welcome)], ("",))

    def jobs(self) -> list[Callable[[], Awaitable[None]]]:
        """What runs beside the serving, to its end: coroutine functions for tasks of the daemon's."""
        return self.responses.jobs()

    def askers(self) -> list[Callable[[], Awaitable[None]]]:
        """The same of what asks for answers by itself, until the node is told to stop."""
        return [self._batches.run]

    async def drain(self, seconds: float) -> int:
        """No new answers; wait so long for those that run, then end them. How many clients' that were."""
        cut, _ = await asyncio.gather(self.leaving.drain(seconds), self._answers.drain(seconds))
        return cut

    def _add(self, routes: list[tuple[str, str, Any]], prefixes: tuple[str, ...]) -> None:
        for method, path, handler in routes:
            for prefix in prefixes:
                self.app.router.add_route(method, prefix + path, handler, expect_handler=expected)
                if method == "GET":
                    # For probes and link checkers.
                    self.app.router.add_route("HEAD", prefix + path, handler, expect_handler=expected)
