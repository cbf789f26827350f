"""From a backend to the policy's candidate: what it can do, what it costs, and why it cannot be asked. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from exo_node.routing.call import Capability
from exo_node.routing.catalog import listing, providers, tables
from exo_node.routing.catalog.capabilities import Facts, ModelInfo, capabilities_of, context_of
from exo_node.routing.catalog.names import LocalModel
from exo_node.routing.catalog.pricing import FREE, Priced, Pricing
from exo_node.routing.catalog.resolution import AUTO, Backend, backend_id
from exo_node.routing.catalog.tiers import Place
from exo_node.routing.deployment import Deployment, RoutingConfig
from exo_node.routing.plan import Candidate

NO_LITELLM = "is reached through LiteLLM, which is not installed: pip install 'exo-node[litellm]'"
# LiteLLM's word on "provider/model" or on a bare name, while its sidecar runs; must not wait.
InfoLookup = Callable[[str], ModelInfo | None]


class CandidateMaker:
    """`refused`: the keys that a provider has refused, as `which_key` names them."""

    def __init__(
        self, known: tables.Tables, facts: Facts, pricing: Pricing, info: InfoLookup, *, litellm_available: bool
    ) -> None:
        self._tables, self._facts, self._pricing, self._info = known, facts, pricing, info
        self._litellm_available = litellm_available
        self.refused: set[str] = set()

    def candidate(self, place: Place, config: RoutingConfig) -> Candidate:
        """Limits and times that a deployment leaves open are the configuration's."""
        backend = place.backend
        if isinstance(backend, LocalModel):
            return Candidate(
                backend=backend_id(backend),
                kind="ring",
                provider="exo",
                model=backend.id,
                tier=place.tier,
                equivalent=place.equivalent,
                model_id=place.model_id,
                capabilities=backend.capabilities,
                context=backend.context,
                price=FREE,
                capacity=backend.slots,
                cold_s=0.0 if backend.loaded else backend.cold_s,
                rejected="" if backend.loadable else backend.reason or "it cannot be loaded here",
            )
        priced = self.priced(backend)
        return Candidate(
            backend=backend_id(backend),
            kind="peer" if backend.node_id else "deployment",
            provider=backend.provider,
            model=backend.upstream_model,
            tier=place.tier,
            equivalent=place.equivalent,
            model_id=place.model_id,
            group=place.group,
            group_strategy=(backend.strategy or "") if place.group else "",
            capabilities=self.capabilities(backend),
            context=self.context(backend),
            price=None if priced is None else priced.price,
            capacity=backend.capacity,
            weight=backend.weight,
            order=backend.order,
            allowed_fails=_first(backend.allowed_fails, config.allowed_fails),
            cooldown_s=_first(backend.cooldown_s, config.cooldown_s),
            timeout_s=_first(backend.timeout_s, config.timeout_s),
            stream_timeout_s=backend.stream_timeout_s,
            num_retries=_first(backend.num_retries, config.num_retries),
            retry_after_s=_first(backend.retry_after_s, config.retry_after_s),
            task_types=backend.task_types,
            node_id=backend.node_id,
            rejected=self.rejected(backend),
        )

    def rejected(self, deployment: Deployment) -> str:
        """Why a deployment cannot be asked, "" when it can. A peer's is that node's to know."""
        if deployment.node_id:
            return ""
        if not deployment.provider:
            return f"nothing says whose model {deployment.litellm_model!r} is: write provider/model"
        provider = self._tables.provider(deployment.provider) or tables.plain(deployment.provider)
        if which_key(deployment.id) in self.refused or deployment.key == "invalid":
            return f"{provider.name} refused the key"
        if deployment.key == "missing":
            return f"no key for {provider.name}: {deployment.key_problem or providers.how_to_get_a_key(provider)}"
        if deployment.transport == "passthrough" and not deployment.api_base:
            wanted = f" or set {provider.address[0]}" if provider.address else ""
            return f"no address for {provider.name}: give it an api_base{wanted}"
        if deployment.transport == "litellm" and not self._litellm_available:
            return f"{provider.name} {NO_LITELLM}"
        return ""

    def priced(self, deployment: Deployment) -> Priced | None:
        return self._pricing.of(deployment)

    def capabilities(self, deployment: Deployment) -> frozenset[Capability]:
        return capabilities_of(deployment, self._tables, self._facts, self._info_of(deployment))

    def context(self, backend: Backend) -> int | None:
        """Tokens; None: unknown."""
        if isinstance(backend, LocalModel):
            return backend.context
        return context_of(backend, self._facts, self._info_of(backend))

    def row(self, deployment: Deployment, *, added: bool = False) -> dict[str, Any]:
        """For people; no secret is in it."""
        return listing.row(
            deployment,
            self.priced(deployment),
            self.context(deployment),
            self.capabilities(deployment),
            self.rejected(deployment),
            added=added,
        )

    def _info_of(self, deployment: Deployment) -> ModelInfo | None:
        return self._info(f"{deployment.provider}/{deployment.upstream_model}")


def which_key(deployment_id: str) -> str:
    """Which key a deployment uses: its own, or the environment's, which all of that provider's share."""
    return deployment_id.partition("/")[0] if deployment_id.startswith(AUTO) else deployment_id


def _first(own: Any, general: Any) -> Any:
    return general if own is None else own
