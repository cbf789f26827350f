"""The adapter's side of the API, as tests script it: a ring behind it, or replies given in advance."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from exo_node.api.ports import Principal
from exo_node.api.ring_upstream import RingUpstream
from exo_node.config import Settings
from exo_node.errors import NotFound, Unauthorized
from exo_node.routing.adapter.adapter import LiteLLMAdapter
from exo_node.routing.adapter.parts import Parts
from exo_node.routing.call import Call, CallKind, Reply, Upstream, Whole
from exo_node.routing.health.breaker import Breaker
from exo_node.routing.health.profile import Profile
from exo_node.routing.health.retry_budget import RetryBudget
from exo_node.routing.plan import Candidate
from exo_node.routing.policy.policy import choose
from exo_node.store_spend import NOTHING, GroupBy, SpendQuery
from exo_node.types import Backend

HEADERS = {"x-exo-backend": "scripted", "x-exo-attempts": "1"}
Piece = bytes | float | Exception | asyncio.Event  # a frame, seconds to wait, a failure, or wait for an event


def whole(data: dict[str, Any]) -> Reply:
    """A plain reply."""
    return Reply(headers=dict(HEADERS), whole=Whole(orjson.dumps(data), data))


@dataclass(slots=True)
class RingSource:
    """Offers one ring, whatever model is asked for."""

    upstream_: RingUpstream

    async def candidates(self, call: Call) -> list[Candidate]:
        return [Candidate(backend=f"ring:{call.model}", kind="ring", provider="exo", model=call.model)]

    def upstream(self, candidate: Candidate) -> Upstream:
        return self.upstream_


def adapter_over(backend: Backend, settings: Settings) -> LiteLLMAdapter:
    """The real adapter, with the ring as the only backend it knows."""
    parts = Parts(
        sources=RingSource(RingUpstream(backend, settings)),
        choose=choose,
        profile=Profile(),
        breaker=Breaker(),
        retries=RetryBudget(),
    )
    return LiteLLMAdapter(parts)


class ScriptedRouting:
    """`replies` answer the calls in turn (an exception is raised); without any left, the adapter asks the ring.

    `keys` are API keys; `calls` are what came; `open` counts streams that are not closed.
    """

    def __init__(self, backend: Backend | None = None, settings: Settings | None = None) -> None:
        self.settings = settings
        self.ring = None if backend is None or settings is None else adapter_over(backend, settings)
        self.replies: list[Reply | Exception] = []
        self.calls: list[Call] = []
        self.open = 0
        self.keys: dict[str, Principal] = {}
        self.made: dict[str, Principal] = {}  # of another process, not seen yet
        self.defaults: dict[str, str] = {}
        self.rows: list[dict[str, Any]] = []  # external models
        self.rejected: dict[str, str] = {}  # what `explain` says of every model
        self.prices: dict[str, float] = {"dear": 5.0, "cheap": 1.0}  # USD per million tokens, both ways
        self.known = {"d1": {"id": "d1", "object": "deployment", "model_name": "gpt-4o"}}
        self.config: dict[str, Any] = {}
        self.asked: list[tuple[Any, ...]] = []
        self.spent: list[dict[str, Any]] = []
        self.revoked: set[str] = set()  # ids of keys
        self.servers: list[str] = []  # providers without a key that are configured

    async def serve(self, call: Call) -> Reply:
        self.calls.append(call)
        if self.replies:
            reply = self.replies.pop(0)
            if isinstance(reply, Exception):
                raise reply
            return reply
        assert self.ring is not None, "a call that no reply is scripted for"
        return await self.ring.serve(call)

    async def explain(self, call: Call) -> dict[str, Any]:
        self.calls.append(call)
        strategy = call.wishes.strategy or "latency"
        steps = [{"kind": "deployment"}] if any(row["id"] == call.model for row in self.rows) else []
        return {"strategy": strategy, "kind": call.kind, "model": call.model, "steps": steps, "rejected": self.rejected}

    async def models(self, provider: str | None = None) -> list[dict[str, Any]]:
        return [
            row
            for row in self.rows
            if (row["owned_by"] not in self.servers if provider is None else row["owned_by"] == provider)
        ]

    def providers(self) -> list[dict[str, Any]]:
        features = ["vision", "tools"]
        return [
            {"id": "openai", "name": "OpenAI", "key": "present", "features": features, "configured": True},
            {"id": "groq", "name": "Groq", "key": "missing", "features": ["tools"], "configured": False},
            *({"id": one, "name": one, "key": "keyless", "features": [], "configured": True} for one in self.servers),
        ]

    def is_external(self, name: str) -> bool:
        return name.startswith("openai/") or any(one["model_name"] == name for one in self.known.values())

    async def check_provider(self, name: str) -> dict[str, Any]:
        if name != "openai":
            raise NotFound(f"no provider {name!r}; there are: openai")
        return {"id": name, "ok": True, "latency_s": 0.01}

    async def cost_estimate(
        self, models: Sequence[str], prompt_tokens: int, completion_tokens: int
    ) -> list[dict[str, Any]]:
        self.asked.append((tuple(models), prompt_tokens, completion_tokens))
        rows: list[dict[str, Any]] = []
        for model in models:
            price = self.prices.get(model.rpartition("/")[2])
            costs = [None if price is None else price * n / 1e6 for n in (prompt_tokens, completion_tokens)]
            total = None if price is None else price * (prompt_tokens + completion_tokens) / 1e6
            rows.append({"model": model, "input_cost": costs[0], "output_cost": costs[1], "total_cost": total})
        return rows

    def stats(self) -> dict[str, Any]:
        return {
            "healthy_deployments": ["azure/gpt-4o"],
            "model_list": ["gpt-4o"],
            "routing_strategy": "simple-shuffle",
            "strategy": "latency",
            "breakers": [{"backend": "azure/gpt-4o", "state": "open", "cause": "server"}],
            "limits": {"redis": {"address": "localhost:6379", "state": "up"}},
            "litellm": {"workers": [{"state": "serving"}]},
            "notes": ["no key for Groq"],
        }

    def deployments(self) -> list[dict[str, Any]]:
        return list(self.known.values())

    async def add_deployment(self, record: Mapping[str, Any]) -> dict[str, Any]:
        row = {"id": f"d{len(self.known) + 1}", "object": "deployment", "model_name": record["model_name"]}
        self.known[row["id"]] = row
        return row

    async def remove_deployment(self, deployment_id: str) -> bool:
        return self.known.pop(deployment_id, None) is not None

    async def spend(self, query: SpendQuery, by: GroupBy | None) -> dict[str, Any]:
        self.asked.append((query, by))
        return {"data": self.spent, "total": {**NOTHING, "requests": len(self.spent)}}

    async def reload(self) -> dict[str, Any]:
        return {"object": "config.reload", "deployments": len(self.known)}

    async def update_config(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        self.config.update(changes)
        return self.config

    def metrics(self, rings: Sequence[Mapping[str, Any]], node: Mapping[str, float]) -> tuple[bytes, str]:
        return (
            f"# TYPE exo_requests_total counter\n# {[one['model'] for one in rings]}\n".encode(),
            "text/plain; version=1.0.0; charset=utf-8",
        )

    def authenticate(self, token: str) -> Principal | None:
        if not self.keys:
            return None
        if token not in self.keys:
            raise Unauthorized("missing or wrong API key")
        return self.keys[token]

    async def look_for_keys(self) -> None:
        self.keys |= self.made
        self.made = {}

    def has_key(self, key_id: str) -> bool:
        return key_id not in self.revoked

    def default_model(self, kind: CallKind) -> str | None:
        return self.defaults.get(kind) or (self.settings.default_model if self.settings else None)

    # -- replies

    def stream(self, *pieces: Piece) -> Reply:
        """A streamed reply that does as the pieces say."""

        async def frames() -> AsyncGenerator[bytes, None]:
            self.open += 1
            try:
                for piece in pieces:
                    match piece:
                        case bytes():
                            yield piece
                        case asyncio.Event():
                            await piece.wait()
                        case Exception():
                            raise piece
                        case _:
                            await asyncio.sleep(piece)
            finally:
                self.open -= 1

        return Reply(headers=dict(HEADERS), frames=frames())
