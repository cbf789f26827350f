"""One service for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from exo_node.routing.upstream.service import LiteLLMService
from tests.integration.sidecar_stage import GUARD, KEY, Stage, deployment
from tests.standins import no_such_host_url, refused_url, standin


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    home = tmp_path_factory.mktemp("home")
    guard = tmp_path_factory.mktemp("guard")
    network = guard / "network.txt"
    network.touch()
    (guard / "sitecustomize.py").write_text(GUARD.replace("@LOG@", repr(str(network))))
    names = ("anthropic", "openai", "gemini", "ollama", "cohere", "azure")
    standins = {name: standin(name) for name in names}
    standins["anthropic"].key = KEY
    for one in standins.values():
        await one.start()
    url = {name: one.url for name, one in standins.items()}
    deployments = [
        deployment("claude", "anthropic/claude-sonnet-4-5", api_key=KEY, api_base=url["anthropic"]),
        deployment("wrong-key", "anthropic/claude-sonnet-4-5", api_key="sk-wrong-987654", api_base=url["anthropic"]),
        deployment("gpt", "openai/gpt-4o", api_key=KEY, api_base=url["openai"] + "/v1"),
        deployment("vllm", "hosted_vllm/llama", api_key=KEY, api_base=url["openai"] + "/v1"),
        deployment("gemini", "gemini/gemini-2.5-flash", api_key=KEY, api_base=url["gemini"] + "/v1beta"),
        deployment("llama", "ollama_chat/llama3", api_base=url["ollama"]),
        deployment("cohere", "cohere/rerank-v3.5", api_key=KEY, api_base=url["cohere"] + "/v2/rerank"),
        deployment("azure", "azure/dep-1", api_key=KEY, api_base=url["azure"], api_version="2024-10-21"),
        deployment("words", "openai/plain", api_key=KEY, api_base=url["openai"] + "/v1", exo_tools="prompt"),
        deployment("refused", "anthropic/claude-x", api_key=KEY, api_base=refused_url()),
        deployment("no-dns", "anthropic/claude-x", api_key=KEY, api_base=no_such_host_url()),
        deployment("nobody", "no_such_provider/x", api_key=KEY),
    ]
    service = LiteLLMService(
        home=home, environment={**os.environ, "PYTHONPATH": str(guard), "GROQ_API_KEY": KEY}, deployments=deployments
    )
    await service.start()
    assert not service.started
    stage = Stage(service, standins, network, home, [])
    try:
        await service.ready()
        stage.first_network = network.read_text().splitlines()
        yield stage
    finally:
        await service.stop()
        for one in standins.values():
            await one.stop()


@pytest.fixture(autouse=True)
def quiet(stage: Stage) -> None:
    """Each test begins with stand-ins that do what they do by themselves."""
    for one in stage.standins.values():
        one.queue.clear()
        one.requests.clear()
