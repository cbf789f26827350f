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
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from exo_node.config import Settings
from exo_node.errors import ConfigurationError, ExoError, InvalidRequest, PeerUnavailable
from exo_node.limits.api_keys import ApiKeys, KeyInfo
from exo_node.limits.gate import Admission, Gate, Rate, Rules
from exo_node.limits.redis import SharedRedis
from exo_node.metrics import Metrics
from exo_node.routing.adapter import LiteLLMAdapter
from exo_node.routing.breaker import Breaker
from exo_node.routing.call import Call, CallKind, CallRecord, Reply, Upstream, UpstreamError, Whole
from exo_node.routing.callbacks import Callbacks, make_callbacks
from exo_node.routing.candidate_gate import CandidateGate
from exo_node.routing.checks import check_provider
from exo_node.routing.connections import Connections
from exo_node.routing.deployment import Deployment, RoutingConfig
from exo_node.routing.failure import headers_of
from exo_node.routing.litellm_facts import LiteLLMFacts
from exo_node.routing.names import LocalModel
from exo_node.routing.options import EXPECTED_OUTPUT
from exo_node.routing.parts import Options, Parts
from exo_node.routing.peer_upstream import Peer
from exo_node.routing.plan import Candidate
from exo_node.routing.policy import choose
from exo_node.routing.prober import Prober
from exo_node.routing.profile import Profile
from exo_node.routing.profile_keeper import ProfileKeeper
from exo_node.routing.registry import Registry, RegistryOptions, peer_deployment
from exo_node.routing.relay_host import RelayHost
from exo_node.routing.replay import replay
from exo_node.routing.response_cache import Keeper, MemoryKeeper, ResponseCache, SqliteKeeper
from exo_node.routing.retry_budget import RetryBudget
from exo_node.routing.runtime import RuntimeSettings, read_record
from exo_node.routing.service import LiteLLMService
from exo_node.routing.settings import load_routing
from exo_node.routing.sinks import measure, spend_row
from exo_node.routing.sources import NodeSources
from exo_node.routing.strategies import resolve
from exo_node.routing.stream_collector import StreamCollector
from exo_node.routing.tables import load_tables
from exo_node.store import Store, store_path
from exo_node.types import SharedDeployment, Usage

log = logging.getLogger("exo.routing")

DEFAULT_STRATEGY = "latency"
TABLES = "models.toml"  # in EXO_HOME: the user's own rows of the shipped tables


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
        self.keys = ApiKeys(self.store, (config.master_key,))
        self.connections = Connections()
        self.meter = Metrics()
        self.profile = Profile()
        self.breaker = Breaker()
        self.runtime = RuntimeSettings()
        self._tables = load_tables(settings.home / TABLES)
        self._admitted: dict[str, Admission] = {}
        self._collected: dict[str, Usage | None] = {}  # calls whose stream is being kept: what it has used
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
        self._lender = CandidateGate(self.gate, self._deployment_of)
        parts = Parts(
            sources=self.sources,
            choose=choose,
            profile=self.profile,
            breaker=self.breaker,
            retries=RetryBudget(),
            gate=self._lender,
            sinks=(self._settle, self._log, self._measure, self.callbacks),
        )
        self.adapter = LiteLLMAdapter(parts, self._options(config))
        self.cache = self._make_cache(config)
        self.keeper = ProfileKeeper(self.profile, self.store, around.node_id, self._peer_handles)
        self.prober = Prober(
            parts,
            settings.probe,
            candidates=self._to_probe,
            loaded=self._is_loaded,
            keyless=self._is_keyless,
            idle=lambda: self.adapter.in_flight == 0,
        )
        self.relays = RelayHost(self._lend, self.keeper.rows)

    @property
    def config(self) -> RoutingConfig:
        return self.registry.config

    # -- life

    async def start(self) -> None:
        """Read the keys and ready the sidecar. Raises `ConfigurationError`."""
        await self.keys.refresh()
        await self.keeper.load()
        if self._redis is not None:
            await self._redis.start()
        await self.service.start()
        await self.service.update(self._for_litellm(), self.config.environment)
        self.callbacks.replace(self._receivers(self.config))

    def jobs(self) -> list[Callable[[], Any]]:
        """What runs as long as the node does: coroutine functions for tasks of the daemon's."""
        return [self.keys.watch, self.callbacks.run, self.keeper.run, self.prober.run, self._learn]

    async def _learn(self) -> None:
        """LiteLLM's prices and capabilities, once its sidecar has been started for a call."""
        await self._facts.run(self.registry.refresh)

    async def stop(self) -> None:
        await self.callbacks.close()
        await self.service.stop()
        await self.gate.close()
        await self.connections.close()
        self.store.close()  # writes what is left

    # -- calls

    async def serve(self, call: Call) -> Reply:
        """Response cache, limits, adapter. Raises `ExoError`."""
        self.prober.requested()
        call = self.runtime.applied(call)
        self.gate.check_model(call.caller.key_id, call.model)
        kept = await self.cache.get(call) if self.cache.serves(call) else None
        if kept is not None:
            self.meter.cache(True)
            return self._from_cache(call, kept)
        admission = await self._admit(call)
        self._admitted[call.id] = admission
        try:
            reply = await self.adapter.serve(call)
        except UpstreamError as error:
            self._forget(call.id)
            if error.cause == "not_found" and self.registry.is_unknown(call):
                raise self._nobody_knows(call, error) from error
            raise
        except BaseException:
            self._forget(call.id)  # the record has settled it; what never came so far is given back
            raise
        return await self._keeping(call, reply) if self.cache.serves(call) else reply

    def _nobody_knows(self, call: Call, error: UpstreamError) -> ExoError:
        """The 404 for a name on which everybody was tried in vain, with everything that there is."""
        found = self.registry.not_found(call.model, error.message)
        found.__dict__["exo_headers"] = headers_of(error)
        return found

    async def explain(self, call: Call) -> dict[str, Any]:
        return await self.adapter.explain(self.runtime.applied(call))

    async def _admit(self, call: Call) -> Admission:
        try:
            return await self.gate.admit(
                call.caller.key_id,
                call.caller.user,
                call.model,
                call.prompt_tokens,
                predicted_cost=self._predicted_cost(call),
                max_tokens=call.max_tokens,
            )
        except ExoError as error:
            self.meter.refused(error.code or "")
            raise

    def _predicted_cost(self, call: Call) -> float | None:
        """USD that the call will probably cost, for budgets; None: not known. 0 where there is no budget to keep."""
        key = self.keys.info(call.caller.key_id)
        if not self.gate.rules.budgets and (key is None or key.budget is None):
            return 0.0
        priced = self.registry.price(call.model)
        if priced is None:
            return None
        return priced.price.cost(call.prompt_tokens, EXPECTED_OUTPUT if call.max_tokens is None else call.max_tokens)

    def _from_cache(self, call: Call, whole: Whole) -> Reply:
        model = str((whole.data or {}).get("model") or call.model)
        record = CallRecord(
            id=call.id,
            kind=call.kind,
            model=call.model,
            served_model=model,
            backend="cache",
            provider="exo",
            stream=call.stream,
            caller=call.caller,
            started=time.time(),
            ttft_s=0.0,
            cached=True,
            body=call.body,
        )
        for sink in (self._log, self._measure, self.callbacks):
            sink(record)
        headers = {
            "x-exo-backend": "cache",
            "x-exo-provider": "exo",
            "x-exo-model": model,
            "x-exo-reason": "the same request was answered before",
            "x-exo-cached": "true",
            "x-exo-cost": "0",
        }
        if call.stream and call.kind in ("chat", "completion"):
            return Reply(headers=headers, frames=replay(whole, call))
        return Reply(headers=headers, whole=whole)

    async def _keeping(self, call: Call, reply: Reply) -> Reply:
        """`reply`, kept in the cache when it is complete."""
        self.meter.cache(False)
        wanted, ttl_s = self._cache_of(reply.headers.get("x-exo-backend", ""))
        if reply.whole is not None:
            await self.cache.put(call, reply.whole, wanted=wanted, ttl_s=ttl_s)
            return reply
        assert reply.frames is not None
        frames = reply.frames
        self._collected[call.id] = None

        async def collected() -> AsyncGenerator[bytes, None]:
            collector = StreamCollector()
            try:
                async with contextlib.aclosing(frames):
                    async for raw in frames:
                        collector.add(events_in(raw))
                        yield raw
            finally:
                usage = self._collected.pop(call.id, None)
            whole = collector.whole(usage)
            if whole is not None:
                await self.cache.put(call, whole, wanted=wanted, ttl_s=ttl_s)

        return replace(reply, frames=collected(), outlet=None)  # all frames must come by here

    def _cache_of(self, backend: str) -> tuple[bool | None, float | None]:
        deployment = self._deployment_of(backend)
        return (None, None) if deployment is None else (deployment.cache, deployment.cache_ttl_s)

    # -- lists and facts

    async def models(self, provider: str | None = None) -> list[dict[str, Any]]:
        return self.registry.models(provider)

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
            "cache": {"hits": self.cache.hits, "misses": self.cache.misses},
            "limits": self.gate.status(),
            "callbacks": {"delivered": self.callbacks.delivered, "dropped": self.callbacks.dropped},
            "litellm": {"installed": self.service.available(), "workers": self.service.status()},
            "sources": list(self.config.sources),
            "records": list(self.config.records),
            "notes": list(self.config.notes),
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
        receivers = self._receivers(config)
        tables = load_tables(self._settings.home / TABLES)
        if tables != self._tables:
            raise ConfigurationError(f"{self._settings.home / TABLES} has changed: start the node again to read it")
        self.keys.set_admin_secrets((config.master_key,))
        self.gate.rules = rules_of(config)
        if config.redis != self.config.redis:
            log.warning("the Redis server has changed: start the node again to use it")
        cache_changed = config.cache != self.config.cache
        self.registry.replace(config)
        self.adapter.options = self._options(config)
        if cache_changed:
            self.cache = self._make_cache(config)
        self.callbacks.replace(receivers)
        await self.service.update(self._for_litellm(), config.environment)
        log.info("configuration read again: %d deployments", len(config.deployments))
        return {
            "object": "config.reload",
            "deployments": len(config.deployments),
            "sources": list(config.sources),
            "notes": list(config.notes),
        }

    async def update_config(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Document 002's defaults at run time, until the node ends."""
        now = self.runtime.change(changes)
        if "enable_caching" in changes:
            self.cache = self._make_cache(self.config)
        if "ollama_base_url" in changes:
            environment = self.runtime.environment(self.config.environment)
            self.registry.replace(replace(self.config, environment=environment))
            await self.service.update(self._for_litellm(), environment)
        if "default_provider" in changes:
            self.registry.replace(replace(self.config, default_provider=self.runtime.default_provider))
        return now

    # -- inside

    def _registry_options(self) -> RegistryOptions:
        settings = self._settings
        return RegistryOptions(
            enabled=settings.enable_litellm,
            litellm_available=LiteLLMService(home=settings.home, environment={}).available(),
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
        keeper: Keeper | None = None
        if chosen.kind == "memory":
            keeper = MemoryKeeper(chosen.max_bytes)
        elif chosen.kind == "sqlite":
            keeper = SqliteKeeper(self.store, chosen.max_bytes)
        elif chosen.kind == "redis":
            assert self._redis is not None or config.redis is not None
            keeper = self._redis or shared_redis(config)
        return ResponseCache(chosen, keeper)

    def _receivers(self, config: RoutingConfig) -> list[Any]:
        async def session() -> Any:
            return self.connections.session()

        return make_callbacks(config.callbacks, config.environment, session)

    def _for_litellm(self) -> list[Deployment]:
        """The deployments that the sidecar is to know, with their keys."""
        rows = self.registry.deployments()
        found = [self.registry.deployment(str(row["id"])) for row in rows] if self.registry.enabled else []
        return [one for one in found if one.transport == "litellm"]

    def _peer_deployments(self) -> list[Deployment]:
        return [peer_deployment(one, node) for node, shared in self._around.peers().items() for one in shared]

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
        deployment = self.registry.deployment(deployment_id)
        priced = self.registry.price(deployment.id)
        candidate = Candidate(
            backend=deployment.id,
            kind="deployment",
            provider=deployment.provider,
            model=deployment.upstream_model,
            price=deployment.price or (priced.price if priced else None),
        )
        tokens = call.prompt_tokens + (call.max_tokens or 0)
        cost = 0.0 if candidate.price is None else candidate.price.cost(call.prompt_tokens, call.max_tokens or 0)
        if not await self._lender.acquire(candidate, tokens, cost):
            raise UpstreamError(f"{deployment.id}: its rate limit or budget is used up", "rate_limited")
        return Lent(self._lender, candidate, self.sources.of_deployment(deployment), tokens, cost)

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

    def _settle(self, record: CallRecord) -> None:
        if self._redis is not None:  # what this node leaves alone, its neighbours need not find out
            now = time.monotonic()
            for attempt in record.attempts:
                state, left_s = self.breaker.state(attempt.backend, now)
                if attempt.cause and state == "open":
                    self.gate.mark_open(attempt.backend, left_s)
        if record.id in self._collected:
            self._collected[record.id] = record.usage
        admission = self._admitted.pop(record.id, None)
        if admission is not None:
            used = record.usage.prompt_tokens + record.usage.completion_tokens
            self.gate.settle(admission, used, record.cost)

    def _forget(self, call_id: str) -> None:
        admission = self._admitted.pop(call_id, None)
        if admission is not None:
            self.gate.release(admission)

    def _log(self, record: CallRecord) -> None:
        if self.runtime.tracks_cost:
            self.store.log_spend(spend_row(record, self._around.node_id))

    def _measure(self, record: CallRecord) -> None:
        measure(self.meter, record)


@dataclass(slots=True)
class Lent:
    """One deployment while a peer uses it (`relay_host.Lent`)."""

    _gate: CandidateGate
    _candidate: Candidate
    upstream: Upstream
    _tokens: int
    _cost: float

    def settle(self, prompt_tokens: int, completion_tokens: int) -> None:
        price = self._candidate.price
        cost = 0.0 if price is None else price.cost(prompt_tokens, completion_tokens)
        self._gate.settle(self._candidate, self._tokens, prompt_tokens + completion_tokens, self._cost, cost)


def rules_of(config: RoutingConfig) -> Rules:
    """The configuration's limits for the gate."""
    return Rules(router=Rate(config.rpm, config.tpm), budgets=tuple(config.budgets))


def shared_redis(config: RoutingConfig) -> SharedRedis | None:
    redis = config.redis
    return None if redis is None else SharedRedis(redis.host, redis.port, password=redis.password, db=redis.db)


def events_in(raw: bytes) -> Iterable[dict[str, Any]]:
    """The events of complete frames."""
    for line in raw.split(b"\n"):
        if line.startswith(b"data: {"):
            yield orjson.loads(line[6:])
