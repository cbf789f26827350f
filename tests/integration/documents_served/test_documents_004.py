"""Document 004 (AI Services): records, direct mode, regions; and that no key was told by any node."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from exo_node import sdk
from tests.integration.document_nodes import MASTER, NEEDED, Cloud, Node, ready, snippets
from tests.standins import Script, answer_to

pytestmark = NEEDED


# -- document 004: AI Services


def ai_snippet(node: Node, wanted: int, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], str]:
    """One of its snippets; each but the first two leaves the import to those."""
    node.sdk(monkeypatch)
    found: tuple[dict[str, Any], str] = snippets(4, wanted, {}, get_ai_provider=sdk.get_ai_provider)
    return found


def test_004_router_mode_chat(started: dict[str, Node], cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record's alias, its secrets in place of the placeholders, its defaults where the request is silent."""
    node = ready(started, "switching", "004-router-mode.json")
    for _ in range(6):
        names, _ = ai_snippet(node, 0, monkeypatch)
        assert names["response"].choices[0].message.content == answer_to("Hello!")
    asked = cloud.asked()
    assert sum(asked.values()) == 6 and asked.keys() <= {"azure", "openai"}
    node.chat()  # metadata_info.defaults.model
    for one in (*cloud["azure"].requests, *cloud["openai"].requests):
        key = one.headers.get("api-key") or one.headers.get("authorization")
        assert key in ("your-azure-key", "Bearer your-openai-key")
        assert one.body["top_p"] == 1.0
    assert {one.query["api-version"] for one in cloud["azure"].requests} <= {"2024-02-01"}


def test_004_unknown_record(started: dict[str, Node], monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that the node does not have is refused by name."""
    ready(started, "switching", "004-router-mode.json").sdk(monkeypatch)
    with pytest.raises(sdk.NotFoundError, match="no provider 'litellm-gpt5'; it has: litellm-gpt4"):
        asyncio.run(sdk.get_ai_provider("litellm-gpt5"))


def test_004_batch(started: dict[str, Node], cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three at once, in order."""
    node = ready(started, "switching", "004-router-mode.json")
    names, _ = ai_snippet(node, 1, monkeypatch)
    answers = [one.choices[0].message.content for one in names["responses"]]
    assert answers == [answer_to(f"Question {i}") for i in (1, 2, 3)]


def test_004_embeddings_with_failover(started: dict[str, Node], cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Azure is down: the next deployment embeds; so it does the other way round."""
    node = ready(started, "switching", "004-router-mode.json")
    for down, up in (("azure", "openai"), ("openai", "azure")):
        cloud.clear()
        cloud[down].script = Script(status=503)
        names, _ = ai_snippet(node, 2, monkeypatch)
        assert len(names["embedding"]) == 8
        assert cloud[up].requests[-1].path.endswith("/embeddings")


def test_004_router_stats(started: dict[str, Node], monkeypatch: pytest.MonkeyPatch) -> None:
    """The document's three keys."""
    node = ready(started, "switching", "004-router-mode.json")
    names, _ = ai_snippet(node, 3, monkeypatch)
    stats = names["stats"]
    assert {"azure/gpt-4o-deployment", "openai/gpt-4o"} <= set(stats["healthy_deployments"])
    assert "gpt-4o" in stats["model_list"]
    assert stats["routing_strategy"] == "simple-shuffle"


def test_004_rerank_by_the_records_model(
    started: dict[str, Node], cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`rerank_model` of the record where the call names none."""
    node = ready(started, "switching", "004-router-mode.json")
    node.sdk(monkeypatch)

    async def rerank() -> Any:
        provider = await sdk.get_ai_provider("litellm-gpt4")
        return await provider.rerank("red apple", ["a green car", "a red apple"])

    assert asyncio.run(rerank()).results[0].index == 1
    assert cloud.asked() == {"cohere": 1}


def test_004_direct_mode(started: dict[str, Node], cloud: Cloud) -> None:
    """The model record answers under both of its names; its own cache; its fallbacks when it fails."""
    node = ready(started, "switching", "004-direct-mode.json")
    node.chat("gpt-4o-prod")
    assert cloud["azure"].requests[-1].headers["api-key"] == "your-azure-key"
    for cached in ("false", "true"):
        assert node.chat("gpt-4o")[1].get("x-exo-cached") == cached
    cloud["azure"].script = Script(status=503)
    _, headers = node.chat("gpt-4o", messages=[{"role": "user", "content": "Hello, fallback"}])
    assert (headers["x-exo-provider"], cloud["openai"].requests[-1].model) == ("openai", "gpt-4o-mini")


def test_004_multi_region(started: dict[str, Node], cloud: Cloud) -> None:
    """Two regions share the load; when one is down the other takes all of it."""
    node = ready(started, "switching", "004-multi-region.json")
    for _ in range(12):
        node.chat("gpt-4o")
    assert cloud.asked().keys() == {"azure", "azure2"}
    assert cloud["azure2"].requests[0].headers["api-key"] == "planted-azure_westeurope_key"
    cloud.clear()
    cloud["azure"].script = Script(status=503)
    for _ in range(4):
        node.chat("gpt-4o")
    told = [one.outcome for one in cloud["azure2"].requests if one.ended.wait(10)]
    assert told.count("answered") == 4


def test_004_multi_provider(started: dict[str, Node], cloud: Cloud) -> None:
    """Azure and OpenAI are down: Anthropic answers under the same name."""
    node = ready(started, "switching", "004-multi-provider.json")
    cloud["azure"].script = cloud["openai"].script = Script(status=503)
    told, headers = node.chat("gpt-4o")
    assert (headers["x-exo-provider"], told["choices"][0]["message"]["content"]) == ("anthropic", answer_to("Hello!"))
    assert cloud["anthropic"].requests[-1].headers["x-api-key"] == "planted-anthropic_key"


# -- nothing secret anywhere


def test_no_key_in_a_log_or_a_list(started: dict[str, Node]) -> None:
    """What the daemons printed, list and count names no key of any provider."""
    for name in ("exo", "switching", "jaf"):
        node = ready(started, name)
        seen = [node.process.log()]
        seen += [
            json.dumps(node.request("GET", path)[1])
            for path in ("/v1/router/stats", "/v1/deployments", "/v1/providers")
        ]
        for key in ("sk-openai", "sk-ant", "az-key", "planted-", "your-azure-key", "sk-lf", "sk-helicone", MASTER):
            assert not any(key in text for text in seen), key
