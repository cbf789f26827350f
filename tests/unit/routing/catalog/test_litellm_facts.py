"""LiteLLM's table of models, copied once its sidecar runs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from exo_node.routing.call import UpstreamError
from exo_node.routing.catalog import litellm_facts
from exo_node.routing.catalog.capabilities import ModelInfo
from exo_node.routing.catalog.litellm_facts import LiteLLMFacts
from exo_node.routing.deployment import Price

ROWS: dict[str, list[Any]] = {
    "groq/new": ["groq", "chat", 1000, ["vision"], ["tools"], 1.0, 2.0, 0.1],
    "voyage/v": ["voyage", "embedding", None, [], [], None, None, None],
}


class Service:
    """Serves when told to; fails as often as `failures` says."""

    def __init__(self, failures: int = 0) -> None:
        self.started = asyncio.Event()
        self.failures = failures
        self.asked = 0

    async def serving(self) -> None:
        await self.started.wait()

    async def facts(self) -> dict[str, list[Any]]:
        self.asked += 1
        if self.asked <= self.failures:
            raise UpstreamError("the worker died", "unavailable")
        return ROWS


async def test_nothing_is_known_before() -> None:
    """Nobody is asked, and nothing known, before a worker serves; then everything, once."""
    service, told = Service(), asyncio.Event()
    facts = LiteLLMFacts(service)
    job = asyncio.create_task(facts.run(told.set))
    await asyncio.sleep(0)
    assert (facts.price("groq/new"), facts.info("groq/new"), service.asked) == (None, None, 0)
    service.started.set()
    await job
    assert told.is_set() and service.asked == 1
    assert facts.price("groq/new") == Price(1.0, 2.0, cached=0.1)
    assert facts.info("groq/new") == ModelInfo(
        provider="groq", context=1000, adds=frozenset({"vision"}), lacks=frozenset({"tools"})
    )
    assert facts.price("voyage/v") is None
    assert facts.info("voyage/v") == ModelInfo(provider="voyage", can=frozenset({"embedding"}))


async def test_a_worker_that_dies_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure is tried again."""
    monkeypatch.setattr(litellm_facts, "AGAIN_S", 0.0)
    service = Service(failures=2)
    service.started.set()
    facts = LiteLLMFacts(service)
    await facts.run(lambda: None)
    assert (service.asked, facts.price("groq/new")) == (3, Price(1.0, 2.0, cached=0.1))
