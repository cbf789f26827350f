"""External deployments at run time: list, show, add, remove. Changing them is the admin's."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from exo_node.api.fields import bad, kind
from exo_node.api.guard import require_admin
from exo_node.api.ports import RoutingPort
from exo_node.api.serving import read_object
from exo_node.errors import NotFound


class DeploymentRoutes:
    def __init__(self, routing: RoutingPort) -> None:
        self._routing = routing

    def routes(self) -> list[tuple[str, str, Any]]:
        """(method, path without /v1, handler). An id may hold slashes."""
        return [
            ("GET", "/deployments", self.deployments),
            ("POST", "/deployments", self.add),
            ("GET", "/deployments/{id:.+}", self.deployment),
            ("DELETE", "/deployments/{id:.+}", self.remove),
        ]

    async def deployments(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": self._routing.deployments()})

    async def deployment(self, request: web.Request) -> web.Response:
        wanted = request.match_info["id"]
        for row in self._routing.deployments():
            if row["id"] == wanted:
                return web.json_response(row)
        raise _none(wanted)

    async def add(self, request: web.Request) -> web.Response:
        """A `model_list` entry: `{"model_name", "litellm_params": {"model", ...}, ...}`."""
        require_admin(request)
        record = await read_object(request)
        for name in ("model_name", "litellm_params"):
            if record.get(name) in (None, "", {}):
                raise bad(name, "is required", code="missing_required_parameter")
        if not isinstance(record["litellm_params"], dict):
            raise bad("litellm_params", f"must be an object, not {kind(record['litellm_params'])}", code="invalid_type")
        return web.json_response(await self._routing.add_deployment(record))

    async def remove(self, request: web.Request) -> web.Response:
        require_admin(request)
        wanted = request.match_info["id"]
        if not await self._routing.remove_deployment(wanted):
            raise _none(wanted)
        return web.json_response({"id": wanted, "object": "deployment.deleted", "deleted": True})


def _none(wanted: str) -> NotFound:
    return NotFound(f"no deployment {wanted!r}; GET /v1/deployments lists them", param="id")
