"""Which backends there are for a name: deployments of the configuration and of the environment, the ring, peers.

`Registry` holds the configuration of the moment and answers from it; it asks nobody and waits for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from exo_node.errors import InvalidRequest, ModelNotFound
from exo_node.routing.call import Call, CallKind, UpstreamError
from exo_node.routing.catalog import listing, names, providers
from exo_node.routing.catalog.candidates import CandidateMaker, InfoLookup, which_key
from exo_node.routing.catalog.capabilities import Facts
from exo_node.routing.catalog.equivalents import Equivalents
from exo_node.routing.catalog.mentions import unknown_models, unknown_providers
from exo_node.routing.catalog.names import LocalModel
from exo_node.routing.catalog.pricing import FREE, Estimate, Priced, PriceLookup, Pricing, cost_of
from exo_node.routing.catalog.resolution import AUTO, Backend, Resolver, backend_id
from exo_node.routing.catalog.tables import Tables
from exo_node.routing.catalog.tiers import RING, Place, Tiers, of_record
from exo_node.routing.deployment import Deployment, RoutingConfig
from exo_node.routing.plan import Candidate
from exo_node.types import SharedDeployment

_REMEMBERED = 1024  # names; more are asked only by someone who tries names out


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryOptions:
    """Settings that come after the configuration files: `--default-model`, `--equivalents`, `--no-enable-litellm`."""

    enabled: bool = True
    litellm_available: bool = True
    default_model: str | None = None
    equivalents: Literal["off", "failover", "latency"] | None = None


@dataclass(slots=True)
class _State:
    """One configuration, made ready. `resolver` belongs to `local` and `peers` as they were then."""

    config: RoutingConfig
    deployments: tuple[Deployment, ...]
    resolver: Resolver | None = None
    local: tuple[LocalModel, ...] = ()
    peers: tuple[Deployment, ...] = ()
    answers: dict[Any, tuple[Candidate, ...]] = field(default_factory=dict)
    issued: dict[str, Deployment] = field(default_factory=dict)
    own: dict[str, Deployment] = field(init=False)  # `deployments` by backend

    def __post_init__(self) -> None:
        self.own = {backend_id(one): one for one in reversed(self.deployments)}


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
        self._tables, self._options = tables, options
        self._local_models, self._peers_now, self._fetchable = local_models, peers, fetchable
        self._info = info_lookup or (lambda _: None)
        self._equivalents = Equivalents(tables)
        self._facts = Facts(tables, self._equivalents)
        self._pricing = Pricing(tables, self._facts, price_lookup)
        self._make_candidate = CandidateMaker(
            tables, self._facts, self._pricing, self._info, litellm_available=options.litellm_available
        )
        self._added: dict[str, Deployment] = {}
        self._removed: set[str] = set()
        self._config = config
        self._state = self._make(config)

    # What may serve a call.

    def candidates(self, call: Call) -> list[Candidate]:
        """Every backend that might serve the call, tier by tier, also those ruled out (`rejected`).

        Raises `ModelNotFound`, which lists what there is, where nobody knows the name; `InvalidRequest` where the call
        names no model and there is no default.
        """
        state = self._fresh()
        name = call.model or self.default_model(call.kind)
        if not name:
            raise InvalidRequest(
                "the request names no model and there is no default (--default-model, or default_model in the config)",
                param="model",
            )
        wishes = call.wishes
        if wishes.provider is not None and not self._knows_provider(wishes.provider):
            known = ", ".join(sorted(self._tables.providers))
            raise InvalidRequest(f"no provider {wishes.provider[:60]!r}; known: {known}", param="provider")
        if wishes.record is not None and wishes.record not in state.config.records:
            known = ", ".join(state.config.records) or "none"
            raise InvalidRequest(f"no provider record {wishes.record[:60]!r}; known: {known}", param="exo.record")
        too_long = self._too_long(call, name)
        # Wishes that change the answer; the rest of the call is the policy's.
        key = (name, call.kind, wishes.provider, wishes.fallbacks, wishes.equivalents, wishes.record, too_long)
        found = state.answers.get(key)
        if found is None:
            found = tuple(self._find(state, call, name, too_long))
            if len(state.answers) >= _REMEMBERED:
                state.answers.clear()
            state.answers[key] = found
        return list(found)

    def deployment(self, backend: str) -> Deployment:
        """The deployment behind a candidate's `backend`, with its secret parameters (a peer's: without any).

        Raises `UpstreamError` ("unavailable") where it has gone.
        """
        if (own := self._state.own.get(backend)) is not None:
            return own
        state = self._fresh()
        for one in state.peers:
            if backend_id(one) == backend:
                return one
        if (known := state.issued.get(backend)) is not None:
            return known
        if (made := self._resolver(state).of_wildcard(backend)) is not None:
            return made
        if backend.startswith(AUTO) and "@" not in backend and self.enabled:
            prefix, _, model = backend.removeprefix(AUTO).partition("/")
            provider = self._tables.provider(prefix)
            if provider is not None and model and providers.reachable(provider, state.config.environment):
                return self._resolver(state).make(provider, model)
        raise UpstreamError(f"there is no deployment {backend!r} any more", "unavailable")

    def local(self, backend: str) -> LocalModel | None:
        """The ring model behind "ring:MODEL"; None where it has gone."""
        wanted = backend.removeprefix("ring:")
        return next((one for one in self._fresh().local if one.id == wanted), None) or self._fetchable(wanted)

    def default_model(self, kind: CallKind) -> str | None:
        """The model of calls that name none: the configuration's for the kind, then `--default-model`."""
        if kind == "embedding":
            return self._config.embedding_model
        if kind == "rerank":
            return self._config.rerank_model
        if kind not in ("chat", "completion"):
            return None
        said = self._config.default_model or self._config.defaults.get("model")
        return said if isinstance(said, str) and said else self._options.default_model

    def not_found(self, name: str, why: str = "") -> ModelNotFound:
        """The 404 for a name that nobody took, with everything that there is."""
        state = self._fresh()
        external = [str(row["id"]) for row in self.models()] if self.enabled else []
        configured = {one.model_name for one in state.deployments} | set(state.config.aliases)
        first = [one for one in external if one in configured] + [model.id for model in state.local if model.here]
        there = [*external, *(model.id for model in state.local)]
        return ModelNotFound(names.not_found_text(name, there, first=first, why=why), param="model")

    def is_unknown(self, call: Call) -> bool:
        """Whether the name is nothing that anybody here knows: it was only tried on those who may."""
        return self._resolver(self._fresh()).kind(call.model, call.wishes.provider) == "unknown"

    # Lists for people and clients; no secret is in any of them.

    @property
    def enabled(self) -> bool:
        """False: external models are switched off (`--no-enable-litellm`)."""
        return self._options.enabled and self._config.enabled

    @property
    def config(self) -> RoutingConfig:
        return self._config

    @property
    def tables(self) -> Tables:
        return self._tables

    def models(self, provider: str | None = None) -> list[dict[str, Any]]:
        """External models as OpenAI's objects: deployments, aliases, and what keys in the environment allow.

        `provider` keeps one provider's. The ring's own are not in here.
        """
        state = self._fresh()
        if not self.enabled:
            return []
        known = None if provider is None else self._tables.provider(provider)
        wanted = provider if known is None else known.id
        return listing.models(
            state.deployments, state.peers, state.config, self._tables, wanted, self._row, self._make_candidate.rejected
        )

    def providers(self) -> list[dict[str, Any]]:
        """Every known provider: features, whether a key is there, and whether it is switched off."""
        state = self._fresh()
        refused = self._make_candidate.refused
        environment = state.config.environment
        return listing.providers(state.deployments, environment, self._tables, refused, enabled=self.enabled)

    def deployments(self) -> list[dict[str, Any]]:
        """The configured and added ones, one row each."""
        return [self._row(one) for one in self._fresh().deployments]

    def info(self, name: str) -> list[dict[str, Any]]:
        """Rows of the deployment of that id, or of all that serve the model of that name; empty where there is none."""
        state = self._fresh()
        found = [one for one in state.deployments if one.id == name]
        found = found or [one for one in state.deployments if one.model_name == name]
        if not found and self.enabled:
            backends = [one.backend for one in self._resolver(state).find(name, near=False)]
            found = [one for one in backends if isinstance(one, Deployment)]
        return [self._row(one) for one in found]

    def estimate(self, model: str, prompt_tokens: int, completion_tokens: int) -> Estimate:
        """What a model would cost: a deployment's or alias's first priced one, "provider/model", or a local model."""
        return cost_of(model, self.price(model), prompt_tokens, completion_tokens)

    def price(self, model: str) -> Priced | None:
        """The price of a name; None where nobody knows one."""
        resolver = self._resolver(self._fresh())
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

    def shared(self) -> list[SharedDeployment]:
        """What this node may call for its peers: deployments with a key, and a wildcard for each key in the
        environment. Nothing secret."""
        state = self._fresh()
        if not self.enabled:
            return []
        usable = [one for one in state.deployments if not self._make_candidate.rejected(one)]
        return listing.shared(
            usable,
            state.config.environment,
            self._tables,
            self._make_candidate,
            litellm=self._options.litellm_available,
        )

    def unknown_names(self) -> list[str]:
        """Providers and models in the configuration that nothing here carries at present, one line each."""
        if not self.enabled:
            return []
        lines = unknown_providers(self._config, self._tables)
        if self._config.mentions or self._tables.mentions:
            state = self._fresh()
            lines += unknown_models(state.config, self._tables, self._resolver(state), state.local)
        return lines

    # Changes at run time.

    def add(self, deployment: Deployment) -> Deployment:
        """Adds a deployment until the daemon ends, through reloads. Raises `InvalidRequest` for an id that is taken."""
        if any(one.id == deployment.id for one in self._state.deployments):
            raise InvalidRequest(f"there is a deployment {deployment.id!r} already", param="id")
        self._removed.discard(deployment.id)
        self._added[deployment.id] = deployment
        self.refresh()
        return next(one for one in self._state.deployments if one.id == deployment.id)

    def remove(self, deployment_id: str) -> bool:
        """Takes a deployment away; a configured one comes back with the next reload. False: there is none."""
        if not any(one.id == deployment_id for one in self._state.deployments):
            return False
        if self._added.pop(deployment_id, None) is None:
            self._removed.add(deployment_id)
        self.refresh()
        return True

    def replace(self, config: RoutingConfig) -> None:
        """Another configuration (reload). Calls on their way keep the deployments that they have."""
        self._removed.clear()
        self._make_candidate.refused.clear()
        self._config = config
        self.refresh()

    def adjust(self, config: RoutingConfig) -> None:
        """The same files with other defaults (`POST /v1/config`): what was taken away stays away."""
        self._config = config
        self.refresh()

    def relearn(self) -> None:
        """LiteLLM's facts have become known: work candidates out anew. Calls on their way keep their deployments."""
        self._state.answers.clear()

    def refresh(self) -> None:
        """Forget what was worked out."""
        self._state = self._make(self._config)

    def mark_key(self, deployment_id: str, ok: bool) -> None:
        """What a provider has said of a key. A bad one is not asked again before a reload or a good check."""
        refused, key = self._make_candidate.refused, which_key(deployment_id)
        if ok == (key in refused):
            (refused.discard if ok else refused.add)(key)
            self.refresh()

    # Inside.

    def _make(self, config: RoutingConfig) -> _State:
        given = {one.id: one for one in (*config.deployments, *self._added.values()) if one.id not in self._removed}
        made = (providers.complete(one, config.environment, self._tables) for one in given.values())
        return _State(config, tuple(made))

    def _fresh(self) -> _State:
        state = self._state
        local, peers = tuple(self._local_models()), tuple(self._peers_now())
        if state.resolver is not None and local == state.local and peers == state.peers:
            state.local, state.peers = local, peers  # the next look finds the same objects, and need not compare them
        else:
            state.local, state.peers = local, peers
            state.answers.clear()
            state.issued.clear()
            external = self.enabled
            state.resolver = Resolver(
                self._tables, self._equivalents, state.deployments if external else (), peers if external else (),
                local, state.config.environment, state.config.aliases if external else {},
                state.config.default_provider, fetchable=self._fetchable, detect=self._detect,
                defaults=state.config.defaults,
            )  # fmt: skip
        return state

    def _resolver(self, state: _State) -> Resolver:
        assert state.resolver is not None, "made by _fresh"
        return state.resolver

    def _detect(self, name: str) -> str | None:
        """Whose a bare name is, as LiteLLM says."""
        info = self._info(name)
        return None if info is None else info.provider

    def _knows_provider(self, provider: str) -> bool:
        return provider in names.RING or provider == names.ANY_EXTERNAL or self._tables.provider(provider) is not None

    def _too_long(self, call: Call, name: str) -> bool:
        """Whether the prompt is longer than the context of each of the name's own deployments (only asked where
        something hangs on it)."""
        if name not in self._config.context_fallbacks:
            return False
        found = self._resolver(self._fresh()).find(name, call.wishes.provider)
        contexts = [self._make_candidate.context(one.backend) for one in found]
        return bool(contexts) and all(one is not None and one < call.prompt_tokens for one in contexts)

    def _find(self, state: _State, call: Call, name: str, too_long: bool) -> list[Candidate]:
        if not self.enabled:
            return self._only_local(state, call, name)
        wish = call.wishes.equivalents or state.config.equivalents or self._options.equivalents
        tiers = Tiers(
            self._resolver(state), self._equivalents, state.config, shipped=wish or "failover", own=wish or "latency",
            local_default=self.default_model(call.kind),
        )  # fmt: skip
        places = tiers.places(call, name, too_long=too_long)
        if call.wishes.record is not None:
            places = of_record(places, call.wishes.record)
        if not places:
            raise self.not_found(name, self._nobody(call, name))
        made = [(place, self._candidate(state, place)) for place in places]
        asked_outside = any(one.kind != "ring" and not one.rejected for _, one in made)
        return [one for place, one in made if asked_outside or not place.last]

    def _nobody(self, call: Call, name: str) -> str:
        """Why a name that seems to be something is nothing here."""
        if call.wishes.provider in names.RING:
            return "the ring has none of that name"
        if names.find_local(name, self._state.local) is not None:
            return f"it is a local model, and those do chat, completions and embeddings only, not {call.kind}"
        return ""

    def _only_local(self, state: _State, call: Call, name: str) -> list[Candidate]:
        """External models are off, whatever the name says."""
        model = names.find_local(name, state.local) or self._fetchable(name) or names.find_near(name, state.local)
        if model is None or call.kind not in RING:
            off = "external models are off (--no-enable-litellm)"
            raise self.not_found(name, off if call.wishes.provider not in names.RING else "")
        return [self._candidate(state, Place(model, 0, False, ""))]

    def _unusable(self, backend: Backend) -> bool:
        return isinstance(backend, Deployment) and bool(self._make_candidate.rejected(backend))

    def _candidate(self, state: _State, place: Place) -> Candidate:
        if isinstance(place.backend, Deployment):
            state.issued[backend_id(place.backend)] = place.backend
        return self._make_candidate.candidate(place, state.config)

    def _row(self, deployment: Deployment) -> dict[str, Any]:
        return self._make_candidate.row(deployment, added=deployment.id in self._added)
