"""routing/catalog/upstream_models.py against stand-ins: only servers of the user's own are asked."""

from __future__ import annotations

from typing import Any

from exo_node.routing.catalog.holdings import RegistryOptions
from exo_node.routing.catalog.registry import Registry
from exo_node.routing.catalog.tables import load_tables
from exo_node.routing.catalog.upstream_models import upstream_models
from exo_node.routing.deployment import Deployment, RoutingConfig
from exo_node.routing.upstream.connections import Connections
from tests.standins import refused_url, standin


def registry(env: dict[str, str], *deployments: Deployment) -> Registry:
    config = RoutingConfig(deployments=deployments, environment=env)
    return Registry(config, load_tables(), RegistryOptions(), local_models=lambda: ())


def at(name: str, base: str) -> Deployment:
    return Deployment(
        id=name, model_name="m", litellm_model="ollama/m", provider="", upstream_model="", params={"api_base": base}
    )


async def listed(provider: str, found: Registry) -> list[str]:
    connections = Connections()
    try:
        rows: list[dict[str, Any]] = await upstream_models(provider, found, connections)
    finally:
        await connections.close()
    assert all(row["owned_by"] == provider for row in rows)
    return [row["id"] for row in rows]


async def test_every_server_is_asked_once() -> None:
    """The environment's and the deployments' servers list their models; one that is away lists none."""
    async with standin("ollama", models=("llama3", "phi")) as one, standin("ollama", models=("phi", "qwen")) as other:
        found = registry({"OLLAMA_API_BASE": one.url}, at("a", other.url), at("b", refused_url()))
        assert sorted(await listed("ollama", found)) == ["ollama/llama3", "ollama/phi", "ollama/qwen"]


async def test_a_provider_with_keys_is_not_asked() -> None:
    """Its models are in the shipped tables; and nothing is asked of a server that nobody named."""
    async with standin("openai", models=("gpt-x",)) as server:
        assert await listed("openai", registry({"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": server.url})) == []
    assert await listed("hosted_vllm", registry({})) == []
    assert await upstream_models("nobody", registry({}), Connections()) == []


async def test_an_address_that_is_none() -> None:
    """A variable that holds no URL spoils no list, neither of models nor of deployments."""
    found = registry({"HOSTED_VLLM_API_BASE": "http://[bad"}, at("a", "http://[bad"))
    assert await listed("hosted_vllm", found) == []
    assert [row["api_base"] for row in found.deployments()] == ["not an address"]
