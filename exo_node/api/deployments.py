"""External deployments at run time: list, show, add, remove. Changing them is the admin's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from exo_node.api.calls import refuse_unknown
from exo_node.api.fields import Fields, bad, checked_object
from exo_node.api.guard import principal
from exo_node.api.operations import operation
from exo_node.api.ports import RoutingPort
from exo_node.api.schemas import node
from exo_node.api.schemas import routing_answers as answers
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

    @operation("Routing", scope="see", answer=answers.Deployments)
    async def deployments(self, request: web.Request) -> web.Response:
        """Deployments of the configuration and added ones."""
        return web.json_response({"object": "list", "data": self._rows()})

    @operation("Routing", scope="see", answer=answers.DeploymentView)
    async def deployment(self, request: web.Request) -> web.Response:
        """One deployment, or all of one name."""
        wanted = request.match_info["id"]
        for row in self._rows():
            if row["id"] == wanted:
                return web.json_response(row)
        raise _none(wanted)

    def _rows(self) -> list[dict[str, Any]]:
        """Those of models that the caller may ask for."""
        rows, caller = self._routing.deployments(), principal()
        return [row for row in rows if caller is None or caller.may_ask(row["model_name"])]

    @operation("Routing", scope="admin", act=True, body=node.DeploymentRequest, answer=answers.DeploymentView)
    async def add(self, request: web.Request) -> web.Response:
        """A `model_list` entry: `{"model_name", "litellm_params": {"model", ...}}`, or document 001's custom model:
        `{"model_name", "pricing", "rate_limits", "metadata"}`."""
        record = entry_of(await read_object(request))
        for name in ("model_name", "litellm_params"):
            if record.get(name) in (None, "", {}):
                raise bad(name, "is required", code="missing_required_parameter")
        checked_object(record["litellm_params"], "litellm_params")
        return web.json_response(await self._routing.add_deployment(record))

    @operation("Routing", scope="admin", act=True, answer=answers.DeploymentDeleted)
    async def remove(self, request: web.Request) -> web.Response:
        """Take a deployment away. One of the configuration comes back when that is read again."""
        wanted = request.match_info["id"]
        if not await self._routing.remove_deployment(wanted):
            raise _none(wanted)
        return web.json_response({"id": wanted, "object": "deployment.deleted", "deleted": True})


CUSTOM = ("pricing", "rate_limits", "metadata")


def entry_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """A custom model of document 001 as a `model_list` entry; any other record as it is. Raises `InvalidRequest`."""
    if "litellm_params" in record or not any(name in record for name in CUSTOM):
        return dict(record)
    refuse_unknown(record, ("id", "model_name", *CUSTOM))
    pricing = _part(record, "pricing", ("input", "output"))
    limits = _part(record, "rate_limits", ("requests_per_minute", "tokens_per_minute"))
    metadata = _part(record, "metadata", ("provider", "context_window", "task_types"))
    name, provider = Fields(record).text("model_name"), metadata.get("provider")
    if not name or not isinstance(provider, str) or not provider:
        wanted = "metadata.provider" if name else "model_name"
        raise bad(wanted, "is required: who serves the model", code="missing_required_parameter")
    params: dict[str, Any] = {"model": name if name.startswith(f"{provider}/") else f"{provider}/{name}"}
    prices = Fields({f"pricing.{side}": value for side, value in pricing.items()})
    for side in ("input", "output"):
        if pricing:
            usd = prices.number(f"pricing.{side}", 0, 1e6)
            if usd is None:
                raise bad(f"pricing.{side}", "is required, in USD per 1,000 tokens", code="missing_required_parameter")
            params[f"{side}_cost_per_token"] = usd / 1000
    for ours, theirs in (("rpm", "requests_per_minute"), ("tpm", "tokens_per_minute")):
        if limits.get(theirs) is not None:
            params[ours] = limits[theirs]
    info = {key: metadata[key] for key in ("context_window", "task_types") if metadata.get(key) is not None}
    kept = {key: record[key] for key in ("id", "model_name") if key in record}
    return {**kept, "litellm_params": params, "model_info": info}


def _part(record: Mapping[str, Any], name: str, known: tuple[str, ...]) -> Mapping[str, Any]:
    value = Fields(record).object(name)
    refuse_unknown(value, known, f"{name}.")
    return value


def _none(wanted: str) -> NotFound:
    return NotFound(f"no deployment {wanted!r}; GET /v1/deployments lists them", param="id")
