"""What the node has counted and measured of its calls: `/v1/router/stats` and the numbers behind `/metrics`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exo_node.limits.gate import Gate
from exo_node.metrics import Metrics
from exo_node.routing.adapter.adapter import LiteLLMAdapter
from exo_node.routing.cache.answer_cache import AnswerCache
from exo_node.routing.callbacks.callbacks import Callbacks
from exo_node.routing.catalog.registry import Registry
from exo_node.routing.health.breaker import Breaker
from exo_node.routing.health.profile import Profile
from exo_node.routing.upstream.service import LiteLLMService


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Asks the front's parts; keeps nothing."""

    registry: Registry
    adapter: LiteLLMAdapter
    breaker: Breaker
    profile: Profile
    answers: AnswerCache
    gate: Gate
    callbacks: Callbacks
    service: LiteLLMService
    meter: Metrics

    def rows(self, notes: Sequence[str]) -> dict[str, Any]:
        """Document 004's keys, then ours."""
        now = time.monotonic()
        config = self.registry.config
        rows = self.registry.deployments()
        healthy = [
            str(one["model"]) for one in rows if one["usable"] and self.breaker.state(str(one["id"]), now)[0] != "open"
        ]
        strategies = {one.strategy for one in config.deployments if one.strategy}
        return {
            "healthy_deployments": healthy,
            "model_list": sorted({one["model_name"] for one in rows}),
            "routing_strategy": strategies.pop() if len(strategies) == 1 else self.adapter.options.strategy,
            "strategy": self.adapter.options.strategy,
            "requests": self.adapter.stats(),
            "breakers": self.breaker.snapshot(now),
            "profile": self.profile.snapshot(now),
            "cache": {"hits": self.answers.cache.hits, "misses": self.answers.cache.misses},
            "limits": self.gate.status(),
            "callbacks": {"delivered": self.callbacks.delivered, "dropped": self.callbacks.dropped},
            "litellm": {"installed": self.service.available(), "workers": self.service.status()},
            "sources": list(config.sources),
            "records": list(config.records),
            "record_models": {name: dict(models) for name, models in config.record_models.items()},
            "notes": list(notes),
        }

    def rendered(self, rings: Sequence[Mapping[str, Any]], node: Mapping[str, float]) -> tuple[bytes, str]:
        """Prometheus' text and its content type; `rings`: what the heads on this node report; `node`: of itself."""
        now = time.monotonic()
        self.meter.in_flight(self.adapter.in_flight, self.profile.flying())
        self.meter.breakers({row["backend"]: row["state"] for row in self.breaker.snapshot(now)})
        self.meter.rings(rings)
        self.meter.node(node)
        return self.meter.render()
