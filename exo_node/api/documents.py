"""The API's own description: `/openapi.json` for programs, `/docs` for people, both from the routes as they are."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from exo_node import __version__
from exo_node.api.operations import operation
from exo_node.api.schemas.answers import AnthropicError, Error, OllamaError
from exo_node.api.schemas.cluster_answers import OpenAPI

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
    """Made, and its modules imported, when it is first asked for: nobody needs it to start."""

    def __init__(self, app: web.Application) -> None:
        self._app = app
        self._document: dict[str, Any] | None = None

    def routes(self) -> list[tuple[str, str, Any]]:
        return [("GET", "/openapi.json", self.openapi), ("GET", "/docs", self.docs)]

    @operation("Node", scope="see", answer=OpenAPI)
    async def openapi(self, request: web.Request) -> web.Response:
        """This API as an OpenAPI 3.1 document."""
        return web.Response(body=orjson.dumps(self.document()), content_type="application/json")

    @operation("Node", scope="see", answers=("text/html",))
    async def docs(self, request: web.Request) -> web.Response:
        """This API as a page to read."""
        from exo_node.api import docs_page

        headers = {"Content-Security-Policy": docs_page.CSP, "X-Content-Type-Options": "nosniff"}
        return web.Response(text=docs_page.page(self.document()), content_type="text/html", headers=headers)

    def document(self) -> dict[str, Any]:
        if self._document is None:
            from exo_node.api import openapi

            routes = [
                (one.method, one.resource.canonical, one.handler) for one in self._app.router.routes() if one.resource
            ]
            self._document = openapi.document([openapi.Route(*one) for one in routes], __version__, ERRORS)
        return self._document
