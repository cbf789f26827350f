"""Everything behind the API that decides who answers: response cache, limits, registry, adapter, as one object.

The daemon makes one `Front` and serves the API from it (`api.ports.RoutingPort`). A reload replaces the configuration
and what is made of it; calls that run keep what they have.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from exo_node.config import Settings
from exo_node.errors import ExoError
from exo_node.limits.api_keys import KeyInfo
from exo_node.routing.adapter.failure import headers_of
from exo_node.routing.call import Call, CallKind, Reply, UpstreamError
from exo_node.routing.catalog.checks import check_provider
from exo_node.routing.catalog.upstream_models import upstream_models
from exo_node.routing.deployment import RoutingConfig
from exo_node.routing.front.assembly import Assembly
from exo_node.routing.front.changes import Changes
from exo_node.routing.front.surroundings import Surroundings
from exo_node.types import SharedDeployment


class Front:
    """Raises `ConfigurationError` when the configuration is wrong. `start` before serving, `stop` after it."""

    def __init__(self, settings: Settings, around: Surroundings) -> None:
        made = self._made = Assembly(settings, around)
        self._changes = Changes(made)
        self.store, self.key_store, self.keys, self.gate, self.sources, self.relays = (
            made.store, made.key_store, made.keys, made.gate, made.sources, made.relays,
        )  # fmt: skip

    @property
    def config(self) -> RoutingConfig:
        return self._made.config

    async def start(self) -> None:
        """Read the keys and ready the sidecar."""
        await self._made.start()

    def jobs(self) -> list[Callable[[], Any]]:
        """What runs as long as the node does: coroutine functions for tasks of the daemon's."""
        return self._made.jobs()

    async def stop(self) -> None:
        await self._made.stop()

    def give_up_memory(self) -> None:
        """What is kept in memory for later only."""
        self._made.answers.cache.give_up()

    # -- calls

    async def serve(self, call: Call) -> Reply:
        """Response cache, limits, adapter. Raises `ExoError`."""
        self._made.prober.requested()
        call = self._made.runtime.applied(call)
        self._made.admissions.check_models(call)
        call = self._made.registry.meant(call)
        key = None if call.begun is not None else self._made.answers.key(call)
        if key is not None and (kept := await self._made.answers.get(key, call)) is not None:
            return kept
        call = await self._made.admissions.admit(call)
        try:
            reply = await self._made.adapter.serve(call)
        except UpstreamError as error:
            self._made.admissions.forget(call.id)
            if error.cause == "not_found" and self._made.registry.is_unknown(call):
                raise self._nobody_knows(call, error) from error
            raise
        except BaseException:
            self._made.admissions.forget(call.id)  # the record has settled it; what never came so far is given back
            raise
        return reply if key is None else await self._made.answers.keep(key, call, reply)

    def _nobody_knows(self, call: Call, error: UpstreamError) -> ExoError:
        """The 404 for a name on which everybody was tried in vain, with everything that there is."""
        found = self._made.registry.not_found(call.model, error.message)
        found.__dict__["exo_headers"] = headers_of(error)
        return found

    async def explain(self, call: Call) -> dict[str, Any]:
        self._made.admissions.check_models(call)
        return await self._made.adapter.explain(self._made.registry.meant(self._made.runtime.applied(call)))

    # -- lists and facts

    async def models(self, provider: str | None = None) -> list[dict[str, Any]]:
        rows = self._made.registry.models(provider)
        if provider is not None:
            known = {row["id"] for row in rows}
            rows += [
                row
                for row in await upstream_models(provider, self._made.registry, self._made.connections)
                if row["id"] not in known
            ]
        return rows

    def providers(self) -> list[dict[str, Any]]:
        return self._made.registry.providers()

    async def check_provider(self, name: str) -> dict[str, Any]:
        made = self._made
        found = await check_provider(name, made.registry, made.service, made.connections)
        known = found["ok"] and not found["detail"]
        if known and made.breaker.why(found["deployment"]) == "auth":  # its key is good again
            made.give_new_chance(found["deployment"])
        return found

    async def cost_estimate(
        self, models: Sequence[str], prompt_tokens: int, completion_tokens: int
    ) -> list[dict[str, Any]]:
        return [self._made.registry.estimate(one, prompt_tokens, completion_tokens).as_dict() for one in models]

    def stats(self) -> dict[str, Any]:
        """Document 004's keys, then ours."""
        return self._made.statistics.rows(self._made.notes())

    def render_metrics(self, rings: Sequence[Mapping[str, Any]], node: Mapping[str, float]) -> tuple[bytes, str]:
        return self._made.statistics.rendered(rings, node)

    def deployments(self) -> list[dict[str, Any]]:
        return self._made.registry.deployments()

    def is_external(self, name: str) -> bool:
        """Whether a name is configured, by a wildcard too (but one for everything), or has a provider's prefix."""
        registry, low = self._made.registry, name.lower()
        prefix, slash, _ = low.partition("/")
        configured = {*(one["model_name"] for one in registry.deployments()), *registry.config.aliases}
        named = (fnmatch.fnmatchcase(low, one.lower()) for one in configured if one.strip("*/"))
        return any(named) or (bool(slash) and registry.tables.provider(prefix) is not None)

    def shared(self) -> tuple[SharedDeployment, ...]:
        """What peers may ask this node to call."""
        return tuple(self._made.registry.shared())

    def verify(self, token: str) -> KeyInfo | None:
        """Whose key this is; None while there is none at all. Raises `Unauthorized`."""
        return self.keys.verify(token)

    def has_key(self, key_id: str) -> bool:
        """Whether that key is still there; so are "" (no key was needed, or --api-key) and the admin's."""
        return self.keys.has(key_id)

    def default_model(self, kind: CallKind) -> str | None:
        changed = self._made.runtime.default_model if kind in ("chat", "completion") else None
        return changed or self._made.registry.default_model(kind)

    # -- changes (changes.py)

    async def add_deployment(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Raises `InvalidRequest` naming what is wrong with the record."""
        return await self._changes.add(record)

    async def remove_deployment(self, deployment_id: str) -> bool:
        return await self._changes.remove(deployment_id)

    async def reload(self) -> dict[str, Any]:
        """Read the configuration again. A wrong one changes nothing and raises `ConfigurationError`."""
        return await self._changes.reload()

    async def update_config(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Document 002's defaults at run time, until the node ends."""
        return await self._changes.update(changes)
