"""Everything behind the API that decides who answers: response cache, limits, registry, adapter, as one object.

The daemon makes one `Front` and serves the API from it (`api.ports.RoutingPort`). A reload replaces the configuration
and what is made of it; calls that run keep what they have.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from exo_node.config import Settings
from exo_node.errors import ConfigurationError, ExoError, InvalidRequest, PeerUnavailable
from exo_node.limits.api_keys import ADMIN_ID, ApiKeys, KeyInfo
from exo_node.limits.gate import Gate, Rules
from exo_node.limits.rates import Rate
from exo_node.limits.redis import SharedRedis
from exo_node.metrics import Metrics
from exo_node.routing.adapter import cascade
from exo_node.routing.adapter.adapter import LiteLLMAdapter
from exo_node.routing.adapter.failure import headers_of
from exo_node.routing.adapter.parts import Options, Parts
from exo_node.routing.adapter.ports import Check
from exo_node.routing.adapter.prober import Prober
from exo_node.routing.admissions import Admissions
from exo_node.routing.cache.answer_cache import AnswerCache
from exo_node.routing.cache.response_cache import ResponseCache, keeper_for
from exo_node.routing.call import Call, CallKind, CallRecord, Reply, Upstream, UpstreamError
from exo_node.routing.callbacks.callbacks import Callbacks, make_callbacks
from exo_node.routing.candidate_gate import CandidateGate
from exo_node.routing.catalog.checks import check_provider
from exo_node.routing.catalog.listing import of_peer
from exo_node.routing.catalog.litellm_facts import LiteLLMFacts
from exo_node.routing.catalog.mentions import check_providers, unknown_keys
from exo_node.routing.catalog.names import LocalModel
from exo_node.routing.catalog.registry import Registry, RegistryOptions
from exo_node.routing.catalog.tables import OWN_FILE, load_tables
from exo_node.routing.catalog.upstream_models import upstream_models
from exo_node.routing.configuration.runtime import RuntimeSettings, read_record
from exo_node.routing.configuration.settings import load_routing
from exo_node.routing.deployment import Deployment, Price, RoutingConfig
from exo_node.routing.health.breaker import Breaker
from exo_node.routing.health.profile import Profile
from exo_node.routing.health.profile_keeper import ProfileKeeper
from exo_node.routing.health.retry_budget import RetryBudget
from exo_node.routing.lending import Lender
from exo_node.routing.plan import Candidate
from exo_node.routing.policy.policy import choose
from exo_node.routing.policy.strategies import resolve
from exo_node.routing.sinks import measure, spend_row
from exo_node.routing.sources import NodeSources
from exo_node.routing.upstream.connections import Connections
from exo_node.routing.upstream.peer_upstream import Peer
from exo_node.routing.upstream.relay_host import RelayHost
from exo_node.routing.upstream.service import LiteLLMService
from exo_node.store import Store, store_path
from exo_node.types import SharedDeployment

log = logging.getLogger("exo.routing")

DEFAULT_STRATEGY = "latency"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the front needs of the rest of the node.

    `local_models` and `peers` (node id -> what that node shares) are asked at every call and must be quick.
    `fetchable`: a model that the ring could fetch under that name. `peer` raises `PeerUnavailable`.
    """

    node_id: str
    ring: Upstream
    local_models: Callable[[], Sequence[LocalModel]]
    fetchable: Callable[[str], LocalModel | None]
    peers: Callable[[], Mapping[str, Sequence[SharedDeployment]]]
    peer: Callable[[str], Peer]


class Front:
    """Raises `ConfigurationError` when the configuration is wrong. `start` before serving, `stop` after it."""

    def __init__(self, settings: Settings, around: Surroundings) -> None:
        self._settings = settings
        self._around = around
        config = load_routing(settings, os.environ)
        self.store = Store(store_path(settings.home) if config.database is None else Path(config.database))
        # `exo apikey` knows the home folder only, so keys stay there whatever `database_url` says.
        self._key_store = self.store if config.database is None else Store(store_path(settings.home))
        self.keys = ApiKeys(self._key_store, (config.master_key,))
        self.connections = Connections()
        self.meter = Metrics()
        self.profile = Profile()
        self.breaker = Breaker()
        self.runtime = RuntimeSettings()
        self._tables = load_tables(settings.home / OWN_FILE)
        check_providers(config, self._tables)
        self._configured = config  # as the files say; the registry's has what was changed at run time
        self._redis = shared_redis(config)
        self.gate = Gate(
            node=around.node_id, keys=self.keys, sums=self.store, rules=rules_of(config), redis=self._redis
        )
        self.service = LiteLLMService(home=settings.home, environment=config.environment)
        self._facts = LiteLLMFacts(self.service)
        self.registry = Registry(
            config,
            self._tables,
            self._registry_options(),
            local_models=around.local_models,
            peers=self._peer_deployments,
            fetchable=around.fetchable,
            price_lookup=self._facts.price,
            info_lookup=self._facts.info,
        )
        self.sources = NodeSources(
            registry=self.registry,
            gate=self.gate,
            connections=self.connections,
            service=self.service,
            ring=around.ring,
            peer=around.peer,
        )
        self.callbacks = Callbacks()
        self._own_check = check_of(config)
        self.admissions = Admissions(self.gate, self._has_budget, self.registry.price, self.meter.refused)
        gate = CandidateGate(self.gate, self._deployment_of)
        self.answers = AnswerCache(
            self._make_cache(config), self.meter, self._deployment_of, (self._log, self._measure, self.callbacks)
        )
        parts = Parts(
            sources=self.sources,
            choose=choose,
            profile=self.profile,
            breaker=self.breaker,
            retries=RetryBudget(),
            gate=gate,
            check=self._check,
            sinks=(self.admissions.settled, self.answers.settled, self._cool, self._log, self._measure, self.callbacks),
        )
        self.adapter = LiteLLMAdapter(parts, self._options(config))
        self.keeper = ProfileKeeper(self.profile, self.store, around.node_id, self._peer_handles)
        self.prober = Prober(
            parts,
            settings.probe,
            candidates=self._to_probe,
            loaded=self._is_loaded,
            keyless=self._is_keyless,
            idle=lambda: self.adapter.in_flight == 0,
        )
        self._lender = Lender(gate, self.registry.deployment, self.sources.of_deployment, self._price_of)
        self.relays = RelayHost(self._lend, self.keeper.rows)

    @property
    def config(self) -> RoutingConfig:
        return self.registry.config

    # -- life

    async def start(self) -> None:
        """Read the keys and ready the sidecar. Raises `ConfigurationError`."""
        log_as(self.config)
        await self.keys.refresh()
        await self.keeper.load()
        if self._redis is not None:
            await self._redis.start()
        await self.service.start()
        await self.service.update(self._for_litellm(), self.config.environment)
        self.callbacks.replace(self._receivers(self.config))
        self._log_notes()

    def jobs(self) -> list[Callable[[], Any]]:
        """What runs as long as the node does: coroutine functions for tasks of the daemon's."""
        return [self.keys.watch, self.callbacks.run, self.keeper.run, self.prober.run, self._learn]

    async def _learn(self) -> None:
        """LiteLLM's prices and capabilities, once its sidecar has been started for a call."""
        await self._facts.run(self.registry.relearn)

    async def stop(self) -> None:
        await self.callbacks.close()
        await self.service.stop()
        await self.gate.close()
        await self.connections.close()
        self.store.close()  # writes what is left
        self._key_store.close()

    # -- calls

    async def serve(self, call: Call) -> Reply:
        """Response cache, limits, adapter. Raises `ExoError`."""
        self.prober.requested()
        call = self.runtime.applied(call)
        self.admissions.check_models(call)
        kept = await self.answers.get(call)
        if kept is not None:
            return kept
        await self.admissions.admit(call)
        try:
            reply = await self.adapter.serve(call)
        except UpstreamError as error:
            self.admissions.forget(call.id)
            if error.cause == "not_found" and self.registry.is_unknown(call):
                raise self._nobody_knows(call, error) from error
            raise
        except BaseException:
            self.admissions.forget(call.id)  # the record has settled it; what never came so far is given back
            raise
        return await self.answers.keep(call, reply)

    def _nobody_knows(self, call: Call, error: UpstreamError) -> ExoError:
        """The 404 for a name on which everybody was tried in vain, with everything that there is."""
        found = self.registry.not_found(call.model, error.message)
        found.__dict__["exo_headers"] = headers_of(error)
        return found

    async def explain(self, call: Call) -> dict[str, Any]:
        self.admissions.check_models(call)
        return await self.adapter.explain(self.runtime.applied(call))

    # -- lists and facts

    async def models(self, provider: str | None = None) -> list[dict[str, Any]]:
        rows = self.registry.models(provider)
        if provider is not None:
            known = {row["id"] for row in rows}
            rows += [
                row
                for row in await upstream_models(provider, self.registry, self.connections)
                if row["id"] not in known
            ]
        return rows

    def providers(self) -> list[dict[str, Any]]:
        return self.registry.providers()

    async def check_provider(self, name: str) -> dict[str, Any]:
        return await check_provider(name, self.registry, self.service, self.connections)

    async def cost_estimate(
        self, models: Sequence[str], prompt_tokens: int, completion_tokens: int
    ) -> list[dict[str, Any]]:
        return [self.registry.estimate(one, prompt_tokens, completion_tokens).as_dict() for one in models]

    def stats(self) -> dict[str, Any]:
        """Document 004's keys, then ours."""
        now = time.monotonic()
        rows = self.registry.deployments()
        groups = sorted({one["model_name"] for one in rows})
        healthy = [
            str(one["model"]) for one in rows if one["usable"] and self.breaker.state(str(one["id"]), now)[0] != "open"
        ]
        strategies = {one.strategy for one in self.config.deployments if one.strategy}
        return {
            "healthy_deployments": healthy,
            "model_list": groups,
            "routing_strategy": strategies.pop() if len(strategies) == 1 else self.adapter.options.strategy,
            "strategy": self.adapter.options.strategy,
            "requests": self.adapter.stats(),
            "breakers": self.breaker.snapshot(now),
            "profile": self.profile.snapshot(now),
            "cache": {"hits": self.answers.cache.hits, "misses": self.answers.cache.misses},
            "limits": self.gate.status(),
            "callbacks": {"delivered": self.callbacks.delivered, "dropped": self.callbacks.dropped},
            "litellm": {"installed": self.service.available(), "workers": self.service.status()},
            "sources": list(self.config.sources),
            "records": list(self.config.records),
            "record_models": {name: dict(models) for name, models in self.config.record_models.items()},
            "notes": self._notes(),
        }

    def render_metrics(self) -> tuple[bytes, str]:
        now = time.monotonic()
        stats = self.adapter.stats()
        backends = {row["backend"]: self.profile.in_flight(row["backend"]) for row in self.profile.snapshot(now)}
        self.meter.in_flight(stats["in_flight"], backends)
        self.meter.breakers({row["backend"]: row["state"] for row in self.breaker.snapshot(now)})
        return self.meter.render()

    def deployments(self) -> list[dict[str, Any]]:
        return self.registry.deployments()

    def shared(self) -> tuple[SharedDeployment, ...]:
        """What peers may ask this node to call."""
        return tuple(self.registry.shared())

    def verify(self, token: str) -> KeyInfo | None:
        """Whose key this is; None while there is none at all. Raises `Unauthorized`."""
        return self.keys.verify(token)

    def has_key(self, key_id: str) -> bool:
        """Whether that key is still there; so are "" (no key was needed, or --api-key) and the admin's."""
        return key_id in ("", ADMIN_ID) or self.keys.info(key_id) is not None

    def in_flight(self) -> int:
        """Calls that are being answered now."""
        return self.adapter.in_flight

    def default_model(self, kind: CallKind) -> str | None:
        return (self.runtime.default_model if kind in ("chat", "completion") else None) or self.registry.default_model(
            kind
        )

    # -- changes

    async def add_deployment(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Raises `InvalidRequest` naming what is wrong with the record."""
        if not self.registry.enabled:
            raise InvalidRequest("external models are switched off (--no-enable-litellm)", code="litellm_disabled")
        made = self.registry.add(read_record(record, self.config, self._settings.home))
        await self.service.update(self._for_litellm())
        return next(row for row in self.registry.deployments() if row["id"] == made.id)

    async def remove_deployment(self, deployment_id: str) -> bool:
        found = self.registry.remove(deployment_id)
        if found:
            await self.service.update(self._for_litellm())
        return found

    async def reload(self) -> dict[str, Any]:
        """Read the configuration again. A wrong one changes nothing and raises `ConfigurationError`."""
        config = await asyncio.to_thread(load_routing, self._settings, dict(os.environ))
        receivers, own_check = self._receivers(config), check_of(config)
        tables = await asyncio.to_thread(load_tables, self._settings.home / OWN_FILE)
        if tables != self._tables:
            raise ConfigurationError(f"{self._settings.home / OWN_FILE} has changed: start the node again to read it")
        check_providers(config, tables)
        cache = self._make_cache(config) if config.cache != self._configured.cache else None
        # Nothing below may fail: a wrong configuration changes nothing.
        log_as(config)
        self.keys.set_admin_secrets((config.master_key,))
        self.gate.rules = rules_of(config)
        self._own_check = own_check
        before, self._configured = self._configured, config
        if (config.redis, config.database) != (before.redis, before.database):
            log.warning("the Redis server or the database has changed: start the node again to use it")
        self.registry.replace(self.runtime.over(config))
        self.adapter.options = self._options(config)
        if cache is not None:
            self.answers.cache = cache
        self.callbacks.replace(receivers)
        await self.service.update(self._for_litellm(), self.config.environment)
        log.info("configuration read again: %d deployments", len(config.deployments))
        self._log_notes()
        return {
            "object": "config.reload",
            "deployments": len(config.deployments),
            "sources": list(config.sources),
            "notes": self._notes(),
        }

    async def update_config(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Document 002's defaults at run time, until the node ends."""
        now = self.runtime.change(changes)
        if "enable_caching" in changes:
            self.answers.cache = self._make_cache(self._configured)
        config = self.runtime.over(self._configured)
        if config != self.config:
            self.registry.adjust(config)
            await self.service.update(self._for_litellm(), config.environment)
        return now

    # -- inside

    def _notes(self) -> list[str]:
        """What the user should know of the configuration, though nothing is wrong."""
        return [*self.config.notes, *self.registry.unknown_names(), *unknown_keys(self.config, self.has_key)]

    def _log_notes(self) -> None:
        for note in self._notes():
            log.warning("%s", note)

    def _registry_options(self) -> RegistryOptions:
        settings = self._settings
        return RegistryOptions(
            enabled=settings.enable_litellm,
            litellm_available=self.service.available(),
            default_model=settings.default_model,
            equivalents=settings.equivalents,
        )

    def _options(self, config: RoutingConfig) -> Options:
        return Options(
            strategy=resolve(config.strategy or DEFAULT_STRATEGY),
            continuation=config.continuation or self._settings.continuation,
            hedge=self._settings.hedge,
            max_cost=config.max_cost,
        )

    def _make_cache(self, config: RoutingConfig) -> ResponseCache:
        chosen = self.runtime.cache(config.cache)
        return ResponseCache(chosen, keeper_for(chosen, self.store, self._redis))

    def _receivers(self, config: RoutingConfig) -> list[Any]:
        async def session() -> Any:
            return self.connections.session()

        async def forward(name: str, event: dict[str, Any]) -> None:
            await self.service.tell_callback(name, event, config.callback_params)

        return make_callbacks(
            config.callbacks, config.environment, session, forward if self.service.available() else None
        )

    def _check(self, call: Call, answer: dict[str, Any]) -> str | None:
        """The user's own check of a cascade's answer (`ports.Check`)."""
        return None if self._own_check is None else self._own_check(call, answer)

    def _for_litellm(self) -> list[Deployment]:
        """The deployments that the sidecar is to know, with their keys."""
        rows = self.registry.deployments()
        found = [self.registry.deployment(str(row["id"])) for row in rows] if self.registry.enabled else []
        return [one for one in found if one.transport == "litellm"]

    def _peer_deployments(self) -> list[Deployment]:
        return [of_peer(one, node) for node, shared in self._around.peers().items() for one in shared]

    def _deployment_of(self, backend: str) -> Deployment | None:
        if not backend or backend.startswith("ring:") or "@" in backend:
            return None
        try:
            return self.registry.deployment(backend)
        except UpstreamError:
            return None

    async def _lend(self, deployment_id: str, call: Call) -> Any:
        """A deployment for a peer's call (`relay_host.Lend`)."""
        self.prober.requested()
        return await self._lender.lend(deployment_id, call)

    def _price_of(self, deployment: Deployment) -> Price | None:
        if deployment.price is not None:
            return deployment.price
        priced = self.registry.price(f"{deployment.provider}/{deployment.upstream_model}")
        return None if priced is None else priced.price

    def _has_budget(self, key_id: str) -> bool:
        key = self.keys.info(key_id)
        return key is not None and key.budget is not None

    def _peer_handles(self) -> dict[str, Any]:
        handles = {}
        for node in self._around.peers():
            with contextlib.suppress(PeerUnavailable):  # it left meanwhile
                handles[node] = self._around.peer(node)
        return handles

    def _to_probe(self) -> list[Candidate]:
        """Every backend that chats: deployments, loaded rings."""
        names = {str(row["model_name"]) for row in self.registry.deployments()}
        names |= {model.id for model in self._around.local_models() if model.loaded}
        found: dict[str, Candidate] = {}
        for name in names:
            ask = Call(
                id="", kind="chat", model=name, body={}, stream=True, deadline=0.0, prompt_tokens=1, max_tokens=1
            )
            with contextlib.suppress(ExoError):  # a name that nobody serves any more
                found |= {one.backend: one for one in self.registry.candidates(ask) if one.tier == 0}
        return list(found.values())

    def _is_loaded(self, candidate: Candidate) -> bool:
        model = self.registry.local(candidate.backend)
        return model is not None and model.loaded

    def _is_keyless(self, candidate: Candidate) -> bool:
        deployment = self._deployment_of(candidate.backend)
        return deployment is not None and deployment.key == "keyless"

    # Sinks of finished calls.

    def _cool(self, record: CallRecord) -> None:
        """What this node leaves alone, its neighbours need not find out."""
        if self._redis is None:
            return
        now = time.monotonic()
        for attempt in record.attempts:
            state, left_s = self.breaker.state(attempt.backend, now)
            if attempt.cause and state == "open":
                self.gate.mark_open(attempt.backend, left_s)

    def _log(self, record: CallRecord) -> None:
        if self.runtime.tracks_cost:
            self.store.log_spend(spend_row(record, self._around.node_id))

    def _measure(self, record: CallRecord) -> None:
        measure(self.meter, record)


def rules_of(config: RoutingConfig) -> Rules:
    """The configuration's limits for the gate."""
    return Rules(
        router=Rate(config.rpm, config.tpm),
        models=config.model_limits,
        user=config.user_limits,
        budgets=tuple(config.budgets),
    )


def log_as(config: RoutingConfig) -> None:
    """`set_verbose` has everything logged; else the node's own `-v` and DEBUG decide."""
    logging.getLogger("exo").setLevel(logging.DEBUG if config.verbose else logging.NOTSET)


def check_of(config: RoutingConfig) -> Check | None:
    """The user's own check of a cascade's answers. Raises `ConfigurationError`."""
    return None if config.cascade_check is None else cascade.own_check(config.cascade_check, config.environment)


def shared_redis(config: RoutingConfig) -> SharedRedis | None:
    return None if config.redis is None else SharedRedis(**asdict(config.redis))
