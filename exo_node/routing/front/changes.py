"""What changes while the node runs: deployments, run-time defaults, and the configuration as a whole (reload)."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from typing import Any

from exo_node.errors import ConfigurationError, InvalidRequest
from exo_node.routing.catalog.tables import OWN_FILE, load_tables
from exo_node.routing.configuration.runtime import read_record
from exo_node.routing.configuration.settings import load_routing
from exo_node.routing.deployment import Deployment
from exo_node.routing.front.assembly import Assembly
from exo_node.routing.front.configured import log_as, named_in, options_of, rules_of

log = logging.getLogger("exo.routing")


class Changes:
    """Calls that run keep what they have."""

    def __init__(self, made: Assembly) -> None:
        self._made = made
        self._reading = asyncio.Lock()  # what was read last holds

    async def add(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Raises `InvalidRequest` naming what is wrong with the record."""
        made = self._made
        if not made.registry.enabled:
            raise InvalidRequest("external models are switched off (--no-enable-litellm)", code="litellm_disabled")
        new = made.registry.add(read_record(record, made.config, made.settings.home))
        await made.service.update(made.for_litellm())
        return next(row for row in made.registry.deployments() if row["id"] == new.id)

    async def remove(self, deployment_id: str) -> bool:
        made = self._made
        tried = self._tried()
        found = made.registry.remove(deployment_id)
        if found:
            self._forget_changed(tried)
            made.profile.forget(deployment_id)
            await made.service.update(made.for_litellm())
        return found

    async def reload(self) -> dict[str, Any]:
        """Read the configuration again. A wrong one changes nothing and raises `ConfigurationError`."""
        async with self._reading:
            return await self._reload()

    async def _reload(self) -> dict[str, Any]:
        made = self._made
        config = await asyncio.to_thread(load_routing, made.settings, dict(os.environ))
        tables = await asyncio.to_thread(load_tables, made.settings.home / OWN_FILE)
        if tables != made.tables:
            raise ConfigurationError(f"{made.settings.home / OWN_FILE} has changed: start the node again to read it")
        named = named_in(config, tables, made.connections, made.service)
        cache = made.make_cache(config) if config.cache != made.configured.cache else None
        # Nothing below may fail: a wrong configuration changes nothing.
        log_as(config)
        made.keys.set_admin_secrets((config.master_key,))
        made.gate.rules = rules_of(config)
        made.own_check = named.check
        tried = self._tried()
        before, made.configured = made.configured, config
        if (config.redis, config.database) != (before.redis, before.database):
            log.warning("the Redis server or the database has changed: start the node again to use it")
        made.registry.replace(made.runtime.over(config))
        self._forget_changed(tried)
        made.adapter.options = options_of(config, made.settings)
        if cache is not None:
            made.answers.cache = cache
        made.callbacks.replace(named.receivers)
        await made.service.update(made.for_litellm(), made.config.environment)
        log.info("configuration read again: %d deployments", len(config.deployments))
        made.log_notes()
        return {
            "object": "config.reload",
            "deployments": len(config.deployments),
            "sources": list(config.sources),
            "notes": made.notes(),
        }

    def _tried(self) -> dict[str, Deployment | None]:
        """This node's deployments behind what the breaker knows; None for others, and for what has gone."""
        return {backend: self._made.registry.own(backend) for backend in self._made.breaker.backends()}

    def _forget_changed(self, tried: Mapping[str, Deployment | None]) -> None:
        """A new key deserves a new chance; so does what a wildcard that is gone had made."""
        for backend, now in self._tried().items():
            if now != tried[backend]:
                self._made.give_new_chance(backend)

    async def update(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Document 002's defaults at run time, until the node ends."""
        made = self._made
        now = made.runtime.change(changes)
        if "enable_caching" in changes:
            made.answers.cache = made.make_cache(made.configured)
        config = made.runtime.over(made.configured)
        if config != made.config:
            made.registry.adjust(config)
            await made.service.update(made.for_litellm(), config.environment)
        return now
