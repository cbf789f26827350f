"""The API's own description: `/openapi.json` for programs, `/docs` for people, both from the routes as they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
from aiohttp import web

from exo_node import __version__
from exo_node.api import docs_page, openapi
from exo_node.api.operations import operation
from exo_node.api.schemas.answers import AnthropicError, Error, OllamaError

# As ERROR_SHAPES says (api/errors.py); the first that fits.
ERRORS = {
    "/v1/messages": AnthropicError,
    "/anthropic": AnthropicError,
    "/api/v1": Error,
    "/api": OllamaError,
    "/ollama": OllamaError,
    "": Error,
}


class DocumentRoutes:
    """Made when it is first asked for: nobody needs it to start."""

    def __init__(self, app: web.Application) -> None:
        self._app = app
        self._document: dict[str, Any] | None = None

    def routes(self) -> list[tuple[str, str, Any]]:
        return [("GET", "/openapi.json", self.openapi), ("GET", "/docs", self.docs)]

    @operation("Node")
    async def openapi(self, request: web.Request) -> web.Response:
        """This API as an OpenAPI 3.1 document."""
        return web.Response(body=orjson.dumps(self.document()), content_type="application/json")

    @operation("Node", answers=("text/html",))
    async def docs(self, request: web.Request) -> web.Response:
        """This API as a page to read."""
        headers = {"Content-Security-Policy": docs_page.CSP, "X-Content-Type-Options": "nosniff"}
        return web.Response(text=docs_page.page(self.document()), content_type="text/html", headers=headers)

    def document(self) -> dict[str, Any]:
        if self._document is None:
            self._document = openapi.document(_routes(self._app), __version__, ERRORS)
        return self._document


def _routes(app: web.Application) -> Iterator[openapi.Route]:
    for route in app.router.routes():
        if route.resource is not None:
            yield openapi.Route(route.method, route.resource.canonical, route.handler)
