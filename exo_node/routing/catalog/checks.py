"""Whether a provider answers and takes our key, asked on demand.

Who speaks OpenAI's API is asked for its list of models, which costs nothing; all others get a one-token request through
LiteLLM, because most have no free question that proves a key.
"""

from __future__ import annotations

import time
from typing import Any

import aiohttp

from exo_node.errors import ConfigurationError, NotFound
from exo_node.routing.call import UpstreamError
from exo_node.routing.catalog.registry import Registry
from exo_node.routing.catalog.resolution import AUTO
from exo_node.routing.catalog.upstream_models import models_answer
from exo_node.routing.deployment import Deployment
from exo_node.routing.upstream.connections import Connections
from exo_node.routing.upstream.service import LiteLLMService
from exo_node.routing.upstream.wire_errors import error_from_exception

TIMEOUT_S = 15.0
KEY_REFUSED = (401, 403)


async def check_provider(
    name: str, registry: Registry, service: LiteLLMService, connections: Connections
) -> dict[str, Any]:
    """`{"id", "ok", "latency_s", "deployment", "detail", "costs"}`; marks what it learns of keys in the registry.

    Raises `NotFound` for a provider that nobody knows.
    """
    provider = registry.tables.provider(name)
    if provider is None:
        known = ", ".join(sorted(registry.tables.providers))
        raise NotFound(f"no provider {name[:60]!r}; known: {known}", param="provider")
    found: dict[str, Any] = {"id": provider.id, "ok": False, "latency_s": None, "deployment": None, "costs": False}
    try:
        deployment = _deployment(provider.id, registry)
    except UpstreamError:
        row = next((one for one in registry.providers() if one["id"] == provider.id), {})
        return {**found, "detail": f"not configured (key: {row.get('key', 'missing')})"}
    found["deployment"] = deployment.id
    began = time.monotonic()
    try:
        if deployment.transport == "passthrough":
            ok, detail, key_ok = await _list_models(deployment, connections)
        else:
            found["costs"] = True
            await service.ensure(deployment)
            checked = await service.check_key(deployment)
            ok, detail = checked.ok, "" if checked.ok else checked.message
            key_ok = checked.ok if checked.ok or checked.cause == "auth" else None
    except (UpstreamError, ConfigurationError) as error:
        ok, detail, key_ok = False, error.message, None
    found["latency_s"] = round(time.monotonic() - began, 4)
    if key_ok is not None:
        registry.mark_key(deployment.id, key_ok)
    return {**found, "ok": ok, "detail": detail}


def _deployment(provider: str, registry: Registry) -> Deployment:
    """A configured deployment of the provider, with a key if there is one, else one made of the environment's key."""
    rows = [row for row in registry.deployments() if row["provider"] == provider]
    rows.sort(key=lambda row: bool(row["key"] == "missing"))
    if rows:
        return registry.deployment(str(rows[0]["id"]))
    models = registry.tables.models_of(provider)
    return registry.deployment(f"{AUTO}{provider}/{models[0] if models else 'any'}")


async def _list_models(deployment: Deployment, connections: Connections) -> tuple[bool, str, bool | None]:
    """(whether it answers and refuses no key, "" or what is to be said, whether the key is good; None: not known)."""
    try:
        async with models_answer(deployment, connections, TIMEOUT_S) as response:
            if response.status in KEY_REFUSED:
                return False, f"the provider answered {response.status}: the key is not accepted", False
            if response.status >= 500:
                return False, f"the provider answered {response.status}", None
            if response.status >= 400:  # some have no list; a wrong address answers so, too
                said = f"it answers, but lists no models ({response.status}): whether its address and key are right"
                return True, f"{said} shows at the first call", None
            return True, "", True
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return False, error_from_exception(deployment.id, error).message, None
