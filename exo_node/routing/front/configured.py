"""What the front makes of a configuration, at the start and again at every reload."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any

from exo_node.config import Settings
from exo_node.errors import ConfigurationError
from exo_node.limits.admission import Rules
from exo_node.limits.rates import Rate
from exo_node.limits.redis import SharedRedis
from exo_node.routing.adapter import cascade
from exo_node.routing.adapter.parts import Options
from exo_node.routing.adapter.ports import Check
from exo_node.routing.callbacks.callbacks import Masked, make_callbacks
from exo_node.routing.catalog.mentions import check_providers
from exo_node.routing.catalog.tables import Tables
from exo_node.routing.configuration.located import Problems
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


@dataclass(frozen=True, slots=True)
class Named:
    """What the configuration names of other code: who hears of calls, and the user's own check of cascades' answers."""

    receivers: list[Masked]
    check: Check | None


def named_in(config: RoutingConfig, tables: Tables, connections: Connections, service: LiteLLMService) -> Named:
    """Find it. Raises `FileProblems` with everything that is not there (and budgets' providers that nobody knows)."""

    async def session() -> Any:
        return connections.session()

    async def forward(name: str, event: dict[str, Any]) -> None:
        await service.tell_callback(name, event, config.callback_params)

    problems = Problems()
    check_providers(config, tables, problems)
    forwarded = forward if service.available() else None
    receivers = []
    for name in config.callbacks:
        try:
            receivers += make_callbacks([name], config.environment, session, forwarded)
        except ConfigurationError as error:
            _add(problems, config, "callback", name, error)
    check = None
    if config.cascade_check is not None:
        try:
            check = cascade.own_check(config.cascade_check, config.environment)
        except ConfigurationError as error:
            _add(problems, config, "check", config.cascade_check, error)
    problems.raise_if_any()
    return Named(receivers, check)


def _add(problems: Problems, config: RoutingConfig, kind: str, name: str, error: ConfigurationError) -> None:
    """At each place that names it."""
    places = [(one.where, one.key) for one in config.mentions if (one.kind, one.name) == (kind, name)]
    for where, key in places or [("configuration", kind)]:
        problems.add(where, f"{key}: {error.message}")


def shared_redis(config: RoutingConfig) -> SharedRedis | None:
    return None if config.redis is None else SharedRedis(**asdict(config.redis))


def log_as(config: RoutingConfig) -> None:
    """`set_verbose` has everything logged; else the node's own `-v` and DEBUG decide."""
    logging.getLogger("exo").setLevel(logging.DEBUG if config.verbose else logging.NOTSET)
