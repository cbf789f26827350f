"""What the front makes of a configuration, at the start and again at every reload."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from exo_node.config import Settings
from exo_node.limits.admission import Rules
from exo_node.limits.rates import Rate
from exo_node.limits.redis import SharedRedis
from exo_node.routing.adapter import cascade
from exo_node.routing.adapter.parts import Options
from exo_node.routing.adapter.ports import Check
from exo_node.routing.callbacks.callbacks import make_callbacks
from exo_node.routing.deployment import RoutingConfig
from exo_node.routing.policy.strategies import resolve
from exo_node.routing.upstream.connections import Connections
from exo_node.routing.upstream.service import LiteLLMService

DEFAULT_STRATEGY = "latency"


def rules_of(config: RoutingConfig) -> Rules:
    """The configuration's limits for the gate."""
    return Rules(
        router=Rate(config.rpm, config.tpm),
        models=config.model_limits,
        user=config.user_limits,
        budgets=tuple(config.budgets),
    )


def options_of(config: RoutingConfig, settings: Settings) -> Options:
    """How the adapter behaves where a request says nothing."""
    return Options(
        strategy=resolve(config.strategy or DEFAULT_STRATEGY),
        continuation=config.continuation or settings.continuation,
        hedge=settings.hedge,
        max_cost=config.max_cost,
    )


def receivers_of(config: RoutingConfig, connections: Connections, service: LiteLLMService) -> list[Any]:
    """Who hears of calls. Raises `ConfigurationError`."""

    async def session() -> Any:
        return connections.session()

    async def forward(name: str, event: dict[str, Any]) -> None:
        await service.tell_callback(name, event, config.callback_params)

    return make_callbacks(config.callbacks, config.environment, session, forward if service.available() else None)


def check_of(config: RoutingConfig) -> Check | None:
    """The user's own check of a cascade's answers. Raises `ConfigurationError`."""
    return None if config.cascade_check is None else cascade.own_check(config.cascade_check, config.environment)


def shared_redis(config: RoutingConfig) -> SharedRedis | None:
    return None if config.redis is None else SharedRedis(**asdict(config.redis))


def log_as(config: RoutingConfig) -> None:
    """`set_verbose` has everything logged; else the node's own `-v` and DEBUG decide."""
    logging.getLogger("exo").setLevel(logging.DEBUG if config.verbose else logging.NOTSET)
