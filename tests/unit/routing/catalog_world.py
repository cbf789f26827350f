"""What a registry is made of, for tests of the registry and its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from exo_node.routing.call import Call, CallKind, Wishes
from exo_node.routing.catalog.capabilities import Facts
from exo_node.routing.catalog.equivalents import Equivalents
from exo_node.routing.catalog.holdings import RegistryOptions
from exo_node.routing.catalog.names import LocalModel
from exo_node.routing.catalog.registry import Registry
from exo_node.routing.catalog.tables import load_tables
from exo_node.routing.deployment import Deployment, RoutingConfig
from exo_node.routing.plan import Candidate

TABLES = load_tables()
FACTS = Facts(TABLES, Equivalents(TABLES))


LLAMA = LocalModel(id="unsloth/Llama-3.3-70B-Instruct", loaded=True, aliases=("llama-3.3-70b",), context=8192, slots=4)


DEMO = LocalModel(id="demo", loaded=True, context=512, slots=2)


COLD = LocalModel(id="cold", loaded=False, cold_s=12.0)


STUCK = LocalModel(id="huge", loaded=False, loadable=False, reason="it needs 400 GB")


OPENAI = {"OPENAI_API_KEY": "sk-planted-openai"}


ANTHROPIC = {"ANTHROPIC_API_KEY": "sk-planted-anthropic"}


PROXY = {"LITELLM_BASE_URL": "http://proxy:4000"}


@dataclass
class World:
    """What a registry is made of; changed by a test, then asked."""

    env: dict[str, str] = field(default_factory=dict)
    local: Sequence[LocalModel] = ()
    peers: Sequence[Deployment] = ()
    deployments: tuple[Deployment, ...] = ()
    options: RegistryOptions = field(default_factory=RegistryOptions)
    config: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def registry(self) -> Registry:
        config = RoutingConfig(deployments=self.deployments, environment=self.env, **self.config)
        return Registry(
            config, TABLES, self.options, local_models=lambda: self.local, peers=lambda: self.peers, **self.extra
        )


def made(provider: str, model: str, **fields: Any) -> Deployment:
    """A deployment without anything configured but its model."""
    return Deployment(
        id="d", model_name="m", litellm_model=f"{provider}/{model}", provider=provider, upstream_model=model, **fields
    )


def dep(name: str, model: str, **fields: Any) -> Deployment:
    params = {"api_key": "sk-planted-own", **fields.pop("params", {})}
    one = {"id": f"{name}:{model}", **fields}
    return Deployment(model_name=name, litellm_model=model, provider="", upstream_model="", params=params, **one)


def call(model: str, kind: CallKind = "chat", *, tokens: int = 10, **wishes: Any) -> Call:
    return Call(
        id="c",
        kind=kind,
        model=model,
        body={},
        stream=False,
        deadline=0.0,
        prompt_tokens=tokens,
        wishes=Wishes(**wishes),
    )


def tiers(found: Sequence[Candidate], *, usable: bool = False) -> list[set[str]]:
    """Backends, tier by tier."""
    rows: dict[int, set[str]] = {}
    for one in found:
        if not (usable and one.rejected):
            rows.setdefault(one.tier, set()).add(one.backend)
    return [rows[tier] for tier in sorted(rows)]


def ask(world: World, model: str, **more: Any) -> list[set[str]]:
    return tiers(world.registry().candidates(call(model, **more)))
