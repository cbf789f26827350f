"""Which backends there are for a name: deployments of the configuration and of the environment, the ring, peers.

`Registry` answers from what it holds of the moment (`holdings`); it asks nobody and waits for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from exo_node.errors import ModelNotFound
from exo_node.routing.call import Call, CallKind, UpstreamError
from exo_node.routing.catalog import listing, names, providers
from exo_node.routing.catalog.candidates import CandidateMaker, InfoLookup, which_key
from exo_node.routing.catalog.capabilities import Facts
from exo_node.routing.catalog.equivalents import Equivalents
from exo_node.routing.catalog.finder import Finder
from exo_node.routing.catalog.holdings import Holdings, RegistryOptions
from exo_node.routing.catalog.mentions import unknown_models, unknown_providers
from exo_node.routing.catalog.names import LocalModel
from exo_node.routing.catalog.pricing import FREE, Estimate, Priced, PriceLookup, Pricing, cost_of
from exo_node.routing.catalog.resolution import AUTO, Backend, backend_id
from exo_node.routing.catalog.tables import Tables
from exo_node.routing.deployment import Deployment, Price, RoutingConfig
from exo_node.routing.plan import Candidate
from exo_node.types import SharedDeployment


class Registry:
    """Everything that may serve a call, by name.

    `local_models` and `peers` are asked at every call, so they must be quick; as long as they give equal answers,
    candidates come from memory. `fetchable`: a model that the ring could fetch under a name that it does not have.
    """

    def __init__(
        self,
        config: RoutingConfig,
        tables: Tables,
        options: RegistryOptions,
        *,
        local_models: Callable[[], Sequence[LocalModel]],
        peers: Callable[[], Sequence[Deployment]] = lambda: (),
        fetchable: Callable[[str], LocalModel | None] = lambda _: None,
        price_lookup: PriceLookup | None = None,
        info_lookup: InfoLookup | None = None,
    ) -> None:
        self._tables, self._options, self._fetchable = tables, options, fetchable
        info = info_lookup or (lambda _: None)

        def detect(name: str) -> str | None:
            """Whose a bare name is, as LiteLLM says."""
            found = info(name)
            return None if found is None else found.provider

        equivalents = Equivalents(tables)
        facts = Facts(tables, equivalents)
        self._pricing = Pricing(tables, facts, price_lookup)
        self._make_candidate = CandidateMaker(
            tables, facts, self._pricing, info, litellm_available=options.litellm_available
        )
        self._holdings = Holdings(
            config, tables, equivalents, options,
            local_models=local_models, peers=peers, fetchable=fetchable, detect=detect,
        )  # fmt: skip
        self._finder = Finder(
            self._holdings, tables, equivalents, options, self._make_candidate,
            fetchable=fetchable, not_found=self.not_found,
        )  # fmt: skip

    # What may serve a call.

    def candidates(self, call: Call) -> list[Candidate]:
        """Every backend that might serve the call, tier by tier, also those ruled out (`rejected`).

        Raises `ModelNotFound`, which lists what there is, where nobody knows the name; `InvalidRequest` where the call
        names no model and there is no default.
        """
        return self._finder.candidates(call)

    def deployment(self, backend: str) -> Deployment:
        """The deployment behind a candidate's `backend`, with its secret parameters (a peer's: without any).

        Raises `UpstreamError` ("unavailable") where it has gone.
        """
        if (own := self._holdings.state.own.get(backend)) is not None:
            return own
        state = self._holdings.look()
        if (known := state.issued.get(backend)) is not None:
            return known
        for one in state.peers:
            if backend_id(one) == backend:
                return one
        if (made := state.resolver.of_wildcard(backend)) is not None:
            return made
        if backend.startswith(AUTO) and "@" not in backend and self.enabled:
            prefix, _, model = backend.removeprefix(AUTO).partition("/")
            provider = self._tables.provider(prefix)
            if provider is not None and model and providers.reachable(provider, state.config.environment):
                return state.resolver.make(provider, model)
        raise UpstreamError(f"there is no deployment {backend!r} any more", "unavailable")

    def own(self, backend: str) -> Deployment | None:
        """This node's deployment behind a candidate's `backend`; None for rings, for peers', and where it has gone."""
        if not backend or backend.startswith("ring:") or "@" in backend:
            return None
        try:
            return self.deployment(backend)
        except UpstreamError:
            return None

    def local(self, backend: str) -> LocalModel | None:
        """The ring model behind "ring:MODEL"; None where it has gone."""
        wanted = backend.removeprefix("ring:")
        return next((one for one in self._holdings.look().local if one.id == wanted), None) or self._fetchable(wanted)

    def default_model(self, kind: CallKind) -> str | None:
        """The model of calls that name none: the configuration's for the kind, then `--default-model`."""
        return self._finder.default_model(kind)

    def not_found(self, name: str, why: str = "") -> ModelNotFound:
        """The 404 for a name that nobody took, with everything that there is."""
        state = self._holdings.look()
        external = [str(row["id"]) for row in self.models()] if self.enabled else []
        configured = {one.model_name for one in state.deployments} | set(state.config.aliases)
        first = [one for one in external if one in configured] + [model.id for model in state.local if model.here]
        there = [*external, *(model.id for model in state.local)]
        return ModelNotFound(names.not_found_text(name, there, first=first, why=why), param="model")

    def meant(self, call: Call) -> Call:
        """`call` with the provider that it wants by the one name that candidates have ("google" is gemini)."""
        wish = call.wishes.provider
        if wish is None:
            return call
        known = self._tables.provider(wish)
        name = "ring" if wish in names.RING else wish if known is None else known.id
        return call if name == wish else replace(call, wishes=replace(call.wishes, provider=name))

    def is_unknown(self, call: Call) -> bool:
        """Whether the name is nothing that anybody here knows: it was only tried on those who may."""
        return self._holdings.look().resolver.kind(call.model, call.wishes.provider) == "unknown"

    # Lists for people and clients; no secret is in any of them.

    @property
    def enabled(self) -> bool:
        """False: external models are switched off (`--no-enable-litellm`)."""
        return self._holdings.enabled

    @property
    def config(self) -> RoutingConfig:
        return self._holdings.config

    @property
    def tables(self) -> Tables:
        return self._tables

    def models(self, provider: str | None = None) -> list[dict[str, Any]]:
        """External models as OpenAI's objects: deployments, aliases, and what keys in the environment allow.

        `provider` keeps one provider's. The ring's own are not in here.
        """
        state = self._holdings.look()
        if not self.enabled:
            return []
        known = None if provider is None else self._tables.provider(provider)
        wanted = provider if known is None else known.id
        return listing.models(
            state.deployments, state.peers, state.config, self._tables, wanted, self._row, self._make_candidate.rejected
        )

    def providers(self) -> list[dict[str, Any]]:
        """Every known provider: features, whether a key is there, and whether it is switched off."""
        state = self._holdings.look()
        refused = self._make_candidate.refused
        environment = state.config.environment
        return listing.providers(state.deployments, environment, self._tables, refused, enabled=self.enabled)

    def deployments(self) -> list[dict[str, Any]]:
        """The configured and added ones, one row each."""
        return [self._row(one) for one in self._holdings.state.deployments]

    def configured(self) -> tuple[Deployment, ...]:
        """The configured and added ones, with their keys; none while external models are off."""
        return self._holdings.state.deployments if self.enabled else ()

    def info(self, name: str) -> list[dict[str, Any]]:
        """Rows of the deployment of that id, or of all that serve the model of that name; empty where there is none."""
        state = self._holdings.look()
        found = [one for one in state.deployments if one.id == name]
        found = found or [one for one in state.deployments if one.model_name == name]
        if not found and self.enabled:
            backends = [one.backend for one in state.resolver.find(name, near=False)]
            found = [one for one in backends if isinstance(one, Deployment)]
        return [self._row(one) for one in found]

    def shared(self) -> list[SharedDeployment]:
        """What this node may call for its peers: deployments with a key, and a wildcard for each key in the
        environment. Nothing secret."""
        state = self._holdings.look()
        if not self.enabled:
            return []
        usable = [one for one in state.deployments if not self._make_candidate.rejected(one)]
        return listing.shared(
            usable,
            state.config.environment,
            self._tables,
            self._make_candidate,
            litellm=self._options.litellm_available,
            timeout_s=state.config.timeout_s,
        )

    def unknown_names(self) -> list[str]:
        """Providers and models in the configuration that nothing here carries at present, one line each."""
        if not self.enabled:
            return []
        lines = unknown_providers(self.config, self._tables)
        if self.config.mentions or self._tables.mentions:
            state = self._holdings.look()
            lines += unknown_models(state.config, self._tables, state.resolver, state.local)
        return lines

    # Prices.

    def estimate(self, model: str, prompt_tokens: int, completion_tokens: int) -> Estimate:
        """What a model would cost: a deployment's or alias's first priced one, "provider/model", or a local model."""
        return cost_of(model, self.price(model), prompt_tokens, completion_tokens)

    def price(self, model: str) -> Priced | None:
        """The price of a name; None where nobody knows one."""
        resolver = self._holdings.look().resolver
        for name in (model, *resolver.aliases.get(model, ())):
            found = [one.backend for one in resolver.find(name, near=False)]
            for backend in found:
                if isinstance(backend, LocalModel) and not backend.here:  # who serves it already is asked first
                    same = resolver.same(resolver.id_of_backend(backend))
                    found = [*(one for one in same if not self._unusable(one)), backend]
                    break
            for backend in found:
                if isinstance(backend, LocalModel):
                    return Priced(FREE, "local")
                if (priced := self._pricing.of(backend)) is not None:
                    return priced
        return None

    def price_of(self, deployment: Deployment) -> Price | None:
        """Its own price, else its model's."""
        if deployment.price is not None:
            return deployment.price
        priced = self.price(f"{deployment.provider}/{deployment.upstream_model}")
        return None if priced is None else priced.price

    # Changes at run time; see `Holdings`. Calls on their way keep the deployments that they have.

    def add(self, deployment: Deployment) -> Deployment:
        """Adds a deployment until the daemon ends, through reloads. Raises `InvalidRequest` for an id that is taken."""
        return self._holdings.add(deployment)

    def remove(self, deployment_id: str) -> bool:
        """Takes a deployment away; a configured one comes back with the next reload. False: there is none."""
        found = self._holdings.remove(deployment_id)
        if found:
            self._make_candidate.refused.discard(deployment_id)  # the next of that id has a key of its own
        return found

    def replace(self, config: RoutingConfig) -> None:
        """Another configuration (reload)."""
        self._make_candidate.refused.clear()
        self._holdings.replace(config)

    def adjust(self, config: RoutingConfig) -> None:
        """The same files with other defaults (`POST /v1/config`): what was taken away stays away."""
        self._holdings.adjust(config)

    def relearn(self) -> None:
        """LiteLLM's facts have become known: work candidates out anew."""
        self._holdings.state.answers.clear()

    def mark_key(self, deployment_id: str, ok: bool) -> None:
        """What a provider has said of a key. A bad one is not asked again before a reload or a good check."""
        refused, key = self._make_candidate.refused, which_key(deployment_id)
        if ok == (key in refused):
            (refused.discard if ok else refused.add)(key)
            self._holdings.refresh()

    # Inside.

    def _unusable(self, backend: Backend) -> bool:
        return isinstance(backend, Deployment) and bool(self._make_candidate.rejected(backend))

    def _row(self, deployment: Deployment) -> dict[str, Any]:
        return self._make_candidate.row(deployment, added=self._holdings.is_added(deployment))
