"""Document 003 (JAF): aliases, the cheapest, Redis, fallbacks."""

from __future__ import annotations

import shutil

import pytest

from tests.integration import documents
from tests.integration.document_nodes import NEEDED, Cloud, Node, ready
from tests.standins import Script, answer_to

pytestmark = NEEDED


def test_003_its_calls(started: dict[str, Node], cloud: Cloud) -> None:
    """health, models and the chat of its curl calls, all without /v1."""
    node = ready(started, "jaf")
    body = next(one for one in documents.bodies(3) if one.get("model") == "gpt-3.5-turbo")
    assert node.request("GET", "/health")[0] == 200
    assert {"gpt-4", "azure-gpt-4"} <= {one["id"] for one in node.request("GET", "/models")[1]["data"]}
    status, told = node.request("POST", "/chat/completions", body)
    assert (status, told["choices"][0]["message"]["content"]) == (200, answer_to("Hello"))


def test_003_use_litellm_sends_cloud_names_to_the_proxy(started: dict[str, Node], cloud: Cloud) -> None:
    """USE_LITELLM and LITELLM_URL of its .env: gpt-3.5-turbo, mixtral and llama-2-70b go to the proxy with its key."""
    node = ready(started, "jaf")
    for model in ("gpt-3.5-turbo", "mixtral-8x7b", "llama-2-70b"):
        node.chat(model, messages=[{"role": "user", "content": f"Hello {model}"}])
    asked = cloud["litellm_proxy"].requests
    assert [one.model for one in asked] == ["gpt-3.5-turbo", "mixtral-8x7b", "llama-2-70b"]
    assert asked[0].headers["authorization"] == "Bearer your-master-key"


def test_003_the_cheapest_of_an_alias(started: dict[str, Node], cloud: Cloud) -> None:
    """gpt-4 is gpt-4, azure-gpt-4 or claude-3-opus, whichever is cheapest: Claude at $15/$75 against $30/$60 a million
    where the answer is short."""
    node = ready(started, "jaf")
    ask = {"messages": [{"role": "user", "content": "words " * 2000}], "max_tokens": 4}
    _, headers = node.chat("gpt-4", **ask)
    assert headers["x-exo-provider"] == "anthropic"


def test_003_cache_in_redis(started: dict[str, Node], cloud: Cloud) -> None:
    """The same question again is answered by the cache."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    node = ready(started, "jaf")
    ask = {"messages": [{"role": "user", "content": "Cache this"}], "temperature": 0}
    first, _ = node.chat("mixtral-8x7b", **ask)
    second, headers = node.chat("mixtral-8x7b", **ask)
    assert headers["x-exo-cached"] == "true"
    assert first["choices"] == second["choices"]
    assert cloud.asked() == {"litellm_proxy": 1}


def test_003_fallbacks(started: dict[str, Node], cloud: Cloud) -> None:
    """When everything that gpt-4 stands for fails, gemini-ultra answers."""
    node = ready(started, "jaf")
    for name in ("openai", "azure", "anthropic", "litellm_proxy"):
        cloud[name].script = Script(status=503)
    told, headers = node.chat("gpt-4", messages=[{"role": "user", "content": "Hello once more"}])
    assert headers["x-exo-provider"] == "gemini"
    assert told["choices"][0]["message"]["content"] == answer_to("Hello once more")
