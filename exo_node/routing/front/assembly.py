"""The front's parts, made from the settings and the configuration and joined; started and stopped together."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exo_node.config import Settings
from exo_node.errors import PeerUnavailable
from exo_node.limits.api_keys import ApiKeys
from exo_node.limits.gate import Gate
from exo_node.metrics import Metrics
from exo_node.routing.adapter.adapter import LiteLLMAdapter
from exo_node.routing.adapter.parts import Parts
from exo_node.routing.adapter.prober import Prober
from exo_node.routing.admissions import Admissions
from exo_node.routing.cache.answer_cache import AnswerCache
from exo_node.routing.cache.response_cache import ResponseCache, keeper_for
from exo_node.routing.call import Call, CallRecord
from exo_node.routing.callbacks.callbacks import Callbacks
from exo_node.routing.candidate_gate import CandidateGate
from exo_node.routing.catalog.holdings import RegistryOptions
from exo_node.routing.catalog.litellm_facts import LiteLLMFacts
from exo_node.routing.catalog.mentions import unknown_keys
from exo_node.routing.catalog.registry import Registry
from exo_node.routing.catalog.tables import OWN_FILE, load_tables
from exo_node.routing.configuration.runtime import RuntimeSettings
from exo_node.routing.configuration.settings import load_routing
from exo_node.routing.deployment import Deployment, RoutingConfig
from exo_node.routing.front.configured import log_as, named_in, options_of, rules_of, shared_redis
from exo_node.routing.front.meaning import Meanings
from exo_node.routing.front.peer_deployments import PeerDeployments
from exo_node.routing.front.probed import Probed
from exo_node.routing.front.statistics import Statistics
from exo_node.routing.front.surroundings import Surroundings
from exo_node.routing.health.breaker import Breaker
from exo_node.routing.health.profile import Profile
from exo_node.routing.health.profile_keeper import ProfileKeeper
from exo_node.routing.health.retry_budget import RetryBudget
from exo_node.routing.lending import Lender
from exo_node.routing.policy.policy import choose
from exo_node.routing.sinks import cool, measure, spend_row
from exo_node.routing.sources import NodeSources
from exo_node.routing.upstream.connections import Connections
from exo_node.routing.upstream.relay_host import RelayHost
from exo_node.routing.upstream.service import LiteLLMService
from exo_node.store import Store, store_path

log = logging.getLogger("exo.routing")


class Assembly:
    """Raises `ConfigurationError` when the configuration is wrong. `start` before serving, `stop` after it."""

    def __init__(self, settings: Settings, around: Surroundings) -> None:
        self.settings = settings
        self._around = around
        config = load_routing(settings, os.environ)
        self.store = Store(store_path(settings.home) if config.database is None else Path(config.database))
        # `exo apikey` and `exo audit` know the home folder only, so what is theirs stays there whatever `database_url`
        # says.
        self.key_store = self.store if config.database is None else Store(store_path(settings.home))
        self.keys = ApiKeys(self.key_store, (config.master_key,))
        self.connections = Connections(settings.image_hosts)
        self.meter = Metrics()
        self.profile = Profile()
        self.breaker = Breaker()
        self.runtime = RuntimeSettings()
        self.tables = load_tables(settings.home / OWN_FILE)
        self.configured = config  # as the files say; the registry's has what was changed at run time
        self.redis = shared_redis(config)
        self.gate = Gate(node=around.node_id, keys=self.keys, sums=self.store, rules=rules_of(config), redis=self.redis)
        self.service = LiteLLMService(home=settings.home, environment=config.environment)
        self._facts = LiteLLMFacts(self.service)
        self.registry = Registry(
            config,
            self.tables,
            self._registry_options(),
            local_models=around.local_models,
            peers=PeerDeployments(around.peers),
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
        named = named_in(config, self.tables, self.connections, self.service)
        self.callbacks = Callbacks(named.receivers)
        self.own_check = named.check
        self.admissions = Admissions(self.gate, self._has_budget, self.registry.price, self.meter.refused)
        gate = CandidateGate(self.gate, self.registry.own)
        meanings = Meanings(self.registry)
        self.answers = AnswerCache(
            self.make_cache(config),
            self.meter,
            self.registry.own,
            meanings,
            meanings.stands_in,
            (self._log, self._measure, self.callbacks),
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
        self.adapter = LiteLLMAdapter(parts, options_of(config, self.settings))
        self.keeper = ProfileKeeper(self.profile, self.store, around.node_id, self._peer_handles)
        probed = Probed(self.registry, around.local_models)
        self.prober = Prober(
            parts,
            settings.probe,
            candidates=probed.candidates,
            loaded=probed.is_loaded,
            keyless=probed.is_keyless,
            idle=lambda: self.adapter.in_flight == 0,
        )
        self._lender = Lender(gate, self.registry.deployment, self.sources.of_deployment, self.registry.price_of)
        self.relays = RelayHost(self._lend, self.keeper.rows)
        self.statistics = Statistics(
            registry=self.registry,
            adapter=self.adapter,
            breaker=self.breaker,
            profile=self.profile,
            answers=self.answers,
            gate=self.gate,
            callbacks=self.callbacks,
            service=self.service,
            meter=self.meter,
        )

    @property
    def config(self) -> RoutingConfig:
        """The configuration that holds: the files' with what was changed at run time."""
        return self.registry.config

    # -- life

    async def start(self) -> None:
        """Read the keys and ready the sidecar."""
        log_as(self.config)
        await self.keys.refresh()
        await self.keeper.load()
        await self.gate.start()
        await self.service.start()
        await self.service.update(self.for_litellm(), self.config.environment)
        self.log_notes()

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
        self.key_store.close()

    # -- what a reload makes anew

    def notes(self) -> list[str]:
        """What the user should know of the configuration, though nothing is wrong."""
        return [*self.config.notes, *self.registry.unknown_names(), *unknown_keys(self.config, self.keys.has)]

    def log_notes(self) -> None:
        for note in self.notes():
            log.warning("%s", note)

    def _registry_options(self) -> RegistryOptions:
        settings = self.settings
        return RegistryOptions(
            enabled=settings.enable_litellm,
            litellm_available=self.service.available(),
            default_model=settings.default_model,
            equivalents=settings.equivalents,
        )

    def make_cache(self, config: RoutingConfig) -> ResponseCache:
        chosen = self.runtime.cache(config.cache)
        return ResponseCache(chosen, keeper_for(chosen, self.store, self.redis))

    def _check(self, call: Call, answer: dict[str, Any]) -> str | None:
        """The user's own check of a cascade's answer (`ports.Check`)."""
        return None if self.own_check is None else self.own_check(call, answer)

    def give_new_chance(self, backend: str) -> None:
        """It has changed, or is gone: what it failed at before says nothing more."""
        self.breaker.forget(backend)
        self.gate.mark_closed(backend)

    def for_litellm(self) -> list[Deployment]:
        """The deployments that the sidecar is to know, with their keys."""
        return [one for one in self.registry.configured() if one.transport == "litellm"]

    async def _lend(self, deployment_id: str, call: Call) -> Any:
        """A deployment for a peer's call (`relay_host.Lend`)."""
        self.prober.requested()
        return await self._lender.lend(deployment_id, call)

    def _has_budget(self, key_id: str) -> bool:
        key = self.keys.info(key_id)
        return key is not None and key.budget is not None

    def _peer_handles(self) -> dict[str, Any]:
        handles = {}
        for node in self._around.peers():
            with contextlib.suppress(PeerUnavailable):  # it left meanwhile
                handles[node] = self._around.peer(node)
        return handles

    # Sinks of finished calls.

    def _cool(self, record: CallRecord) -> None:
        """What this node leaves alone, its neighbours need not find out."""
        if self.redis is not None:
            cool(self.gate, self.breaker, record)

    def _log(self, record: CallRecord) -> None:
        if self.runtime.tracks_cost:
            self.store.log_spend(spend_row(record, self._around.node_id))

    def _measure(self, record: CallRecord) -> None:
        measure(self.meter, record)
