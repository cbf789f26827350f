"""The HTTP API: puts the routes, the guard and the error border together."""

from __future__ import annotations

import logging
from typing import Any, cast

from aiohttp import web

from exo_node.api.cluster import ClusterRoutes
from exo_node.api.errors import MAX_BODY, error_middleware, is_ours
from exo_node.api.guard import make_guard
from exo_node.api.openai import OpenAIRoutes
from exo_node.api.ports import ClusterPort
from exo_node.config import Settings
from exo_node.types import Backend


class ChatGPTAPI:
    """The API of one node. `app` is to be served with `web.AppRunner(app, handler_cancellation=True)`: a client that
    goes away cancels its handler, and that its sequences."""

    def __init__(self, settings: Settings, backend: Backend, cluster: ClusterPort) -> None:
        logging.getLogger("aiohttp.server").addFilter(is_ours)
        guard = cast(Any, make_guard(settings))
        self.app = web.Application(middlewares=[error_middleware, guard], client_max_size=MAX_BODY)
        routes = [*OpenAIRoutes(settings, backend).routes(), *ClusterRoutes(settings, cluster).routes()]
        for method, path, handler in routes:
            for prefix in ("", "/v1"):
                self.app.router.add_route(method, prefix + path, handler)
                if method == "GET":
                    self.app.router.add_route("HEAD", prefix + path, handler)  # probes and link checkers
