"""Providers, and what models cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from exo_node.api.calls import refuse_unknown
from exo_node.api.fields import Fields, bad
from exo_node.api.operations import operation
from exo_node.api.ports import RoutingPort
from exo_node.api.schemas import node
from exo_node.api.schemas import routing_answers as answers
from exo_node.api.serving import read_object
from exo_node.errors import NotFound

MAX_TOKENS = 10**12  # of an estimate: more would be no number of tokens
MAX_MODELS = 100  # of a comparison
_COST_FIELDS = ("model", "models", "input_tokens", "output_tokens", "prompt_tokens", "completion_tokens", "provider")


class ProviderRoutes:
    def __init__(self, routing: RoutingPort) -> None:
        self._routing = routing

    def routes(self) -> list[tuple[str, str, Any]]:
        """(method, path without /v1, handler)."""
        return [
            ("GET", "/providers", self.providers),
            ("GET", "/providers/{name}", self.provider),
            ("GET", "/providers/{name}/check", self.check),
            ("POST", "/providers/{name}/check", self.check),
            ("GET", "/cost/estimate", self.estimate),
            ("POST", "/cost/estimate", self.estimate),
        ]

    @operation("Routing", scope="see", answer=answers.Providers)
    async def providers(self, request: web.Request) -> web.Response:
        """Every known provider, and whether a key for it is here."""
        return web.json_response({"object": "list", "data": self._routing.providers()})

    @operation("Routing", scope="see", answer=answers.ProviderView)
    async def provider(self, request: web.Request) -> web.Response:
        """One provider."""
        wanted = request.match_info["name"]
        rows = self._routing.providers()
        for row in rows:
            if row["id"] == wanted.lower():
                return web.json_response(row)
        there = ", ".join(dict.fromkeys(row["id"] for row in rows)) or "none"
        raise NotFound(f"no provider {wanted!r}; there are: {there}", param="name")

    @operation("Routing", scope="use", answer=answers.ProviderCheck)
    async def check(self, request: web.Request) -> web.Response:
        """Whether the provider answers and takes the key; the answer is 200 either way and says which."""
        return web.json_response(await self._routing.check_provider(request.match_info["name"].lower()))

    @operation("Routing", scope="see", query=node.CostQuery, body=node.CostRequest, answer=answers.Cost)
    async def estimate(self, request: web.Request) -> web.Response:
        """One model: its costs. Several: all, cheapest first, those without a known price last."""
        body = _query(request) if request.method != "POST" else await read_object(request)
        models, several, prompt, completion = parse_estimate(body)
        rows = await self._routing.cost_estimate(models, prompt, completion)
        tokens = {"input_tokens": prompt, "output_tokens": completion, "currency": "USD"}
        if not several:
            if rows[0].get("total_cost") is None:
                raise NotFound(f"no price is known for {models[0]!r}", param="model", code="price_unknown")
            return web.json_response({"object": "cost.estimate", **tokens, **rows[0]})
        rows.sort(key=_by_cost)
        cheapest = rows[0]["model"] if rows[0].get("total_cost") is not None else None
        return web.json_response({"object": "list", **tokens, "cheapest": cheapest, "data": rows})


def parse_estimate(body: Mapping[str, Any]) -> tuple[tuple[str, ...], bool, int, int]:
    """(models, whether a comparison is asked, prompt tokens, completion tokens). Raises `InvalidRequest`.

    `input_tokens`/`output_tokens` (document 002) are also called `prompt_tokens`/`completion_tokens` (OpenAI).
    `provider` stands before models that name none.
    """
    refuse_unknown(body, _COST_FIELDS)
    fields = Fields(body)
    model, models, provider = fields.text("model"), fields.texts("models"), fields.text("provider")
    if model and models:
        raise bad("models", "is for a comparison; send either model or models")
    if not model and not models:
        raise bad("model", "is required (or models, to compare)", code="missing_required_parameter")
    if len(models) > MAX_MODELS:
        raise bad("models", f"takes at most {MAX_MODELS}, got {len(models)}")
    if "" in models:
        raise bad(f"models[{models.index('')}]", "must not be empty")
    wanted = models or (str(model),)
    if provider:
        wanted = tuple(name if name.startswith(f"{provider}/") else f"{provider}/{name}" for name in wanted)
    prompt = _count(fields, "input_tokens", "prompt_tokens")
    completion = _count(fields, "output_tokens", "completion_tokens")
    if prompt is None and completion is None:
        raise bad("input_tokens", "is required (or output_tokens)", code="missing_required_parameter")
    return wanted, bool(models), prompt or 0, completion or 0


def _count(fields: Fields, name: str, other: str) -> int | None:
    first, second = fields.integer(name, 0, MAX_TOKENS), fields.integer(other, 0, MAX_TOKENS)
    if first is not None and second is not None and first != second:
        raise bad(name, f"says {first} and {other} says {second}; send one of them")
    return first if first is not None else second


def _query(request: web.Request) -> dict[str, Any]:
    """The fields from the URL: `model` may come several times, `models` be a list with commas."""
    body: dict[str, Any] = {}
    for name in request.query:
        values = request.query.getall(name)
        if name == "models":
            body[name] = [part for value in values for part in value.split(",") if part]
        elif name == "model" and len(values) > 1:
            body["models"] = values
        elif name.endswith("_tokens"):
            if not (values[0].isascii() and values[0].isdigit() and len(values[0]) < 20):
                raise bad(name, f"must be a whole number, got {values[0][:40]!r}", code="invalid_type")
            body[name] = int(values[0])
        else:
            body[name] = values[0]
    return body


def _by_cost(row: Mapping[str, Any]) -> tuple[bool, float]:
    cost = row.get("total_cost")
    return cost is None, cost or 0.0
