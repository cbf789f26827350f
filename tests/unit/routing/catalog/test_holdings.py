"""What changes while a node runs: deployments, the configuration, what the ring has, refused keys, prices."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exo_node.errors import InvalidRequest, ModelNotFound
from exo_node.routing.call import UpstreamError
from exo_node.routing.deployment import Price, RoutingConfig
from tests.unit.routing.catalog_world import COLD, DEMO, World, call, dep


def test_deployments_are_added_and_removed_at_run_time() -> None:
    """add_custom_model: it serves at once, survives a reload, is told apart, and can be taken away."""
    registry = World(deployments=(dep("a", "openai/gpt-4"),)).registry()
    added = registry.add(dep("custom-llama-7b", "ollama/custom", id="new", price=Price(100, 200), context=4096))
    assert (added.provider, added.api_base) == ("ollama", "http://localhost:11434/v1")
    assert registry.candidates(call("custom-llama-7b"))[0].backend == "new"
    assert registry.info("custom-llama-7b")[0]["pricing"] == {
        "input": 100, "output": 200, "per_request": 0.0, "unit": "USD per million tokens", "source": "configured",
    }  # fmt: skip
    with pytest.raises(InvalidRequest, match="'new' already"):
        registry.add(dep("other", "ollama/x", id="new"))
    registry.replace(RoutingConfig())
    assert [row["id"] for row in registry.deployments()] == ["new"]
    assert registry.remove("new") and not registry.remove("new")
    with pytest.raises(ModelNotFound):
        registry.candidates(call("custom-llama-7b"))


def test_what_is_taken_away_comes_back_with_a_reload_only() -> None:
    """A deployment that was added in a configured one's place, or was configured later, too: taking it away brings no
    other of its id to light."""
    one = dep("a", "openai/gpt-4", id="x")
    registry = World(deployments=(one,)).registry()
    assert registry.remove("x")
    registry.add(replace(one, weight=2.0))
    assert registry.remove("x") and registry.deployments() == []
    registry.add(replace(one, weight=3.0))
    registry.replace(RoutingConfig(deployments=(one,)))
    assert registry.deployment("x").weight == 3.0
    assert registry.remove("x") and registry.deployments() == []
    registry.replace(RoutingConfig(deployments=(one,)))
    assert [row["id"] for row in registry.deployments()] == ["x"]


def test_a_refused_key_goes_with_its_deployment() -> None:
    """Taken away and added again with another key, under the same id, it may be asked."""
    one = dep("a", "openai/gpt-4", id="x", params={"api_key": "wrong"})
    registry = World().registry()
    registry.add(one)
    registry.mark_key("x", False)
    assert not registry.deployments()[0]["usable"]
    assert registry.remove("x")
    registry.add(replace(one, params={"api_key": "good"}))
    assert registry.deployments()[0]["usable"]


def test_a_reload_takes_effect_and_keeps_ids() -> None:
    """Another configuration answers from the next call on; a deployment that is gone is unavailable."""
    one = dep("a", "openai/gpt-4")
    registry = World(deployments=(one,)).registry()
    assert registry.candidates(call("a"))[0].backend == one.id
    registry.replace(RoutingConfig(deployments=(replace(one, weight=2.0), dep("b", "openai/gpt-4o"))))
    assert registry.candidates(call("a"))[0].weight == 2.0 and registry.deployment(one.id).weight == 2.0
    registry.replace(RoutingConfig())
    with pytest.raises(UpstreamError, match="no deployment 'a:openai/gpt-4' any more"):
        registry.deployment(one.id)


def test_what_the_ring_has_now_counts() -> None:
    """A model that was loaded or a peer that came since is seen by the next call."""
    world = World(local=(COLD,))
    registry = world.registry()
    assert registry.candidates(call("cold"))[0].cold_s == 12.0
    world.local = (replace(COLD, loaded=True), DEMO)
    assert registry.candidates(call("cold"))[0].cold_s == 0.0
    assert registry.candidates(call("demo"))[0].backend == "ring:demo"
