"""What a model can do. Pure; the sidecar's knowledge refines the shipped tables."""

from __future__ import annotations

from dataclasses import dataclass

from exo_node.routing.call import Capability
from exo_node.routing.catalog.equivalents import Equivalents, maker, undated
from exo_node.routing.catalog.tables import ModelFacts, Tables
from exo_node.routing.deployment import Deployment


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What LiteLLM knows of a model (asked in the sidecar). None: it does not say.

    `can` is all that the model can do; where that is not known, `adds` and `lacks` correct what its provider's models
    usually can.
    """

    provider: str | None = None
    context: int | None = None
    can: frozenset[Capability] | None = None
    adds: frozenset[Capability] = frozenset()
    lacks: frozenset[Capability] = frozenset()


class Facts:
    """What is known of "provider/model": the tables' rows, seen through hosts and dated names."""

    def __init__(self, tables: Tables, equivalents: Equivalents) -> None:
        self._tables = tables
        self._equivalents = equivalents

    def own(self, provider: str, model: str) -> ModelFacts | None:
        """The provider's own row."""
        low = model.lower()
        return self._tables.models.get(f"{provider}/{low}") or self._tables.models.get(f"{provider}/{undated(low)}")

    def makers(self, provider: str, model: str) -> ModelFacts | None:
        """The row of whoever made what the provider serves."""
        if (found := self.own(*maker(provider, model))) is not None:
            return found
        model_id = self._equivalents.id_of(provider, model)
        for host, name in self._equivalents.hosts(model_id)[:1]:
            if (found := self.own(host, name)) is not None:
                return found
        return None

    def find(self, provider: str, model: str) -> ModelFacts | None:
        return self.own(provider, model) or self.makers(provider, model)


def capabilities_of(
    deployment: Deployment, tables: Tables, facts: Facts, info: ModelInfo | None = None
) -> frozenset[Capability]:
    """Configured, else shipped, else what LiteLLM says, else what its provider's models usually can."""
    if deployment.capabilities is not None:
        return deployment.capabilities
    provider = tables.provider(deployment.provider)
    adds: frozenset[Capability] = frozenset() if provider is None else provider.adds
    row = facts.find(deployment.provider, deployment.upstream_model)
    can = row.can if row is not None else info.can if info is not None else None
    if can is None:
        can = frozenset() if provider is None else provider.can
        if info is not None:
            can = (can | info.adds) - info.lacks
    return can | adds if not can & {"embedding", "rerank"} or row is None else can


def context_of(deployment: Deployment, facts: Facts, info: ModelInfo | None = None) -> int | None:
    """Tokens; None where nobody says."""
    if deployment.context is not None:
        return deployment.context
    row = facts.find(deployment.provider, deployment.upstream_model)
    if row is not None and row.context is not None:
        return row.context
    return None if info is None else info.context
