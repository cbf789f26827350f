"""Which models a server of the user's own has (Ollama, vLLM, LM Studio, another exo, a LiteLLM proxy).

Nobody ships a list of those, so the server is asked when somebody wants that provider's models (`?provider=ollama`).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from exo_node.routing.call import UpstreamError
from exo_node.routing.catalog.registry import Registry
from exo_node.routing.catalog.resolution import AUTO
from exo_node.routing.deployment import Deployment
from exo_node.routing.upstream.connections import Connections
from exo_node.routing.upstream.wire_request import target_of

log = logging.getLogger("exo.routing")
TIMEOUT_S = 5.0
MAX_MODELS = 10_000


async def upstream_models(provider: str, registry: Registry, connections: Connections) -> list[dict[str, Any]]:
    """OpenAI's model objects, named PROVIDER/MODEL, of every server of a provider without keys.

    Empty for other providers; a server that does not answer has none (the log says why).
    """
    known = registry.tables.provider(provider)
    if known is None or not known.keyless or not registry.enabled:
        return []
    lists = await asyncio.gather(*(_listed(one, connections) for one in _servers(known.id, registry)))
    ids = dict.fromkeys(model for found in lists for model in found)
    return [
        {"id": f"{known.id}/{one}", "object": "model", "created": 0, "owned_by": known.id, "provider": known.id}
        for one in ids
    ]


def _servers(provider: str, registry: Registry) -> list[Deployment]:
    """One deployment for each address."""
    found: dict[str | None, Deployment] = {}
    ids = [str(row["id"]) for row in registry.deployments() if row["provider"] == provider and row["usable"]]
    for name in (*ids, f"{AUTO}{provider}/any"):
        try:
            one = registry.deployment(name)
        except UpstreamError:
            continue  # the environment names no address
        if one.transport == "passthrough" and one.api_base:
            found.setdefault(one.api_base.rstrip("/"), one)
    return list(found.values())


async def _listed(deployment: Deployment, connections: Connections) -> list[str]:
    try:
        async with models_answer(deployment, connections, TIMEOUT_S) as response:
            response.raise_for_status()
            told = json.loads(await response.read())
            return [str(one["id"]) for one in told["data"][:MAX_MODELS]]
    except UpstreamError as error:
        log.info("%s did not list its models: %s", deployment.provider, error.message)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        log.info("%s did not list its models: %s", deployment.provider, type(error).__name__)
    except (ValueError, TypeError, KeyError) as error:
        log.info("%s listed its models in a shape of its own: %s", deployment.provider, type(error).__name__)
    return []


@asynccontextmanager
async def models_answer(
    deployment: Deployment, connections: Connections, timeout_s: float
) -> AsyncGenerator[aiohttp.ClientResponse, None]:
    """What a server that speaks OpenAI's API answers to GET models, of whatever status.

    Raises what aiohttp does, and `TimeoutError`.
    """
    target = target_of(deployment, "chat")
    beside_chat = target.url.path.endswith("/chat/completions")
    url = target.url.parent.parent / "models" if beside_chat else target.url
    limit = aiohttp.ClientTimeout(total=timeout_s)
    async with connections.session().get(
        url, headers=target.headers, proxy=connections.proxy_for(url), timeout=limit
    ) as response:
        yield response
