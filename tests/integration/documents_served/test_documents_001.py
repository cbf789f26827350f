"""Document 001 (ModelMuxer): its snippets, its proxy, its tables."""

from __future__ import annotations

import asyncio

import pytest

from exo_node import sdk
from tests.integration.document_nodes import NEEDED, Cloud, Node, ready, snippets
from tests.standins import answer_to, refused_url

pytestmark = NEEDED


PROXY = "http://localhost:4000"


def test_001_custom_models(cloud: Cloud) -> None:
    """The provider with its own prices and limits."""
    names, _ = snippets(1, 0, {PROXY: cloud["litellm_proxy"].url})
    assert names["provider"].calculate_cost(1000, 500, "gpt-4") == pytest.approx(0.06)


def test_001_basic_chat(cloud: Cloud) -> None:
    """The answer, and what it cost."""
    _, printed = snippets(1, 1, {PROXY: cloud["litellm_proxy"].url})
    assert f"Response: {answer_to('What is the capital of France?')}" in printed
    assert "Cost: $0.0000" in printed
    assert cloud["litellm_proxy"].requests[-1].headers["authorization"] == "Bearer your-api-key"


def test_001_streaming(cloud: Cloud) -> None:
    """The text in pieces."""
    _, printed = snippets(1, 2, {PROXY: cloud["litellm_proxy"].url}, (1,))
    assert answer_to("Write a short story about AI") in printed
    assert printed.endswith("Streaming complete!\n")


def test_001_cost_comparison(cloud: Cloud) -> None:
    """Every supported model has a cost, and one is the cheapest."""
    names, printed = snippets(1, 3, {PROXY: cloud["litellm_proxy"].url}, (1,))
    assert "gpt-4o: $0.007500" in printed
    assert "Most cost-effective model: " in printed
    assert "text-embedding" not in printed
    assert names


def test_001_models_at_run_time(cloud: Cloud) -> None:
    """add_custom_model and get_model_info."""
    names, printed = snippets(1, 4, {PROXY: cloud["litellm_proxy"].url}, (0,))
    assert "'context_window': 4096" in printed
    assert "custom-llama-7b" in names["provider"].get_supported_models()


def test_001_health(cloud: Cloud) -> None:
    """A proxy that answers is healthy and lists its models; one that is not there is not."""
    _, printed = snippets(1, 5, {PROXY: cloud["litellm_proxy"].url}, (1,))
    assert "Healthy" in printed and "'gpt-3.5-turbo'" in printed
    _, printed = snippets(1, 5, {PROXY: refused_url()}, (), asyncio=asyncio, LiteLLMProvider=sdk.LiteLLMProvider)
    assert "Unhealthy" in printed and "Failed to get models: no exo node answers" in printed


def test_001_heuristic_and_cost_aware_routing(cloud: Cloud) -> None:
    """select_model says what and why; route_request keeps to max_cost and to what the proxy lists."""
    addresses = {PROXY: cloud["litellm_proxy"].url}
    _, printed = snippets(1, 6, addresses, (0, 1))
    assert "Selected: litellm/" in printed and "hard code task" in printed
    names, _ = snippets(1, 7, addresses, (0, 1, 6))
    assert names["response"].choices[0].message.content == answer_to("Simple question")
    assert names["response"].model == "claude-3-haiku"  # the cheapest of those that the proxy lists and has a price for


def test_001_the_rest_of_its_snippets(cloud: Cloud) -> None:
    """Debug logging and the monitor, which only has to be defined (it never ends)."""
    snippets(1, 8, {PROXY: cloud["litellm_proxy"].url}, (1,))
    names, _ = snippets(1, 9, {PROXY: cloud["litellm_proxy"].url}, (1,))
    assert callable(names["monitor_litellm"])


def test_001_a_node_over_a_litellm_proxy(started: dict[str, Node], cloud: Cloud) -> None:
    """LITELLM_BASE_URL and its key from .env, custom models with their prices and limits, hybrid and cascade."""
    node = ready(started, "muxer")
    told, headers = node.chat("custom-llama-7b")
    assert told["choices"][0]["message"]["content"] == answer_to("Hello!")
    request = cloud["litellm_proxy"].requests[-1]
    assert (request.model, request.headers["authorization"]) == ("custom-llama-7b", "Bearer your-litellm-key")
    used = told["usage"]
    cost = (used["prompt_tokens"] * 0.0001 + used["completion_tokens"] * 0.0002) / 1000
    assert float(headers["x-exo-cost"]) == pytest.approx(cost, rel=0.01)
    assert node.request("GET", "/v1/router/stats")[1]["strategy"] == "cascade"


def test_001_own_tables(started: dict[str, Node], cloud: Cloud) -> None:
    """configs/models.toml in the exo home folder: a provider of one's own, with its price."""
    told, headers = ready(started, "muxer").chat("corp/house-70b")
    request = cloud["openai2"].requests[-1]
    assert (request.model, request.headers["authorization"]) == ("house-70b", "Bearer corp-key")
    used = told["usage"]
    assert float(headers["x-exo-cost"]) == pytest.approx(0.2e-6 * used["total_tokens"], rel=0.01)


def test_001_the_yaml_of_the_document(started: dict[str, Node], cloud: Cloud) -> None:
    """Every group of config.yaml answers in its provider's own wire format; its master key is this node's."""
    node = ready(started, "switching", "001-config.yaml")
    groups = ("gpt-4", "gpt-3.5-turbo", "claude-3-sonnet", "claude-3-haiku", "gemini-pro", "llama2-70b-chat")
    for model in groups:
        assert node.chat(model)[0]["choices"][0]["message"]["content"] == answer_to("Hello!")
    assert cloud.asked() == {"openai": 2, "anthropic": 2, "gemini": 1, "openai2": 1}
    status, _ = node.process.request("GET", "/v1/models")
    assert status == 401


def test_001_the_docker_setup(started: dict[str, Node], cloud: Cloud) -> None:
    """Keys that stand in the file."""
    node = ready(started, "switching", "001-docker.yaml")
    for model in ("gpt-4o", "claude-3-5-sonnet"):
        node.chat(model)
    assert cloud["openai"].requests[-1].headers["authorization"] == "Bearer your-openai-key-here"
    assert cloud["anthropic"].requests[-1].headers["x-api-key"] == "your-anthropic-key-here"
