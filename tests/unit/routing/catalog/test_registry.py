"""What a registry tells of candidates, peers, wildcards, models, keys and prices."""

from __future__ import annotations

import pytest

from exo_node.routing.call import UpstreamError
from exo_node.routing.catalog.listing import of_peer
from exo_node.routing.deployment import Price
from tests.unit.routing.catalog_world import COLD, DEMO, OPENAI, STUCK, World, ask, call, dep

# What a candidate says.


def test_a_candidates_group_and_limits() -> None:
    """A deployment's own settings, else the configuration's; its group and the group's strategy."""
    one = dep("gpt-4o", "azure/gpt-4o", weight=0.8, order=1, timeout_s=7.0, strategy="least-busy", capacity=3,
              params={"api_base": "https://r"})  # fmt: skip
    world = World(deployments=(one, dep("gpt-4o", "openai/gpt-4o")), config={"timeout_s": 30.0, "allowed_fails": 2})
    azure, openai = world.registry().candidates(call("gpt-4o", equivalents="off"))
    assert (azure.group, azure.group_strategy, azure.weight, azure.order, azure.capacity) == (
        "gpt-4o", "least-busy", 0.8, 1, 3,
    )  # fmt: skip
    assert (azure.timeout_s, openai.timeout_s, openai.allowed_fails) == (7.0, 30.0, 2)
    assert azure.price == Price(2.5, 10, cached=1.25) and azure.context == 128000 and "vision" in azure.capabilities


def test_one_name_with_several_models() -> None:
    """Document 004's group of gpt-4o and Claude: both may answer, the second is another model."""
    world = World(deployments=(dep("gpt-4o", "openai/gpt-4o"), dep("gpt-4o", "anthropic/claude-3-5-sonnet-20241022")))
    found = world.registry().candidates(call("gpt-4o"))
    assert [(one.tier, one.equivalent) for one in found] == [(0, False), (0, True)]


def test_ring_candidates() -> None:
    """The ring's candidate: free, its slots, its cold start, and why it cannot be loaded."""
    world = World(local=(DEMO, COLD, STUCK))
    registry = world.registry()
    demo, cold, huge = (registry.candidates(call(name))[0] for name in ("demo", "cold", "huge"))
    assert (demo.kind, demo.provider, demo.capacity, demo.cold_s, demo.price) == ("ring", "exo", 2, 0.0, Price(0, 0))
    assert (cold.cold_s, huge.rejected) == (12.0, "it needs 400 GB")
    assert registry.local("ring:demo") == DEMO and registry.local("ring:gone") is None


# Peers.


def test_a_node_without_the_key_uses_a_peers_deployment() -> None:
    """A peer's key in its environment serves the same names here; the peer's id comes back to the peer."""
    there = World(env=OPENAI).registry()
    peers = [of_peer(one, "node-b") for one in there.shared()]
    registry = World(peers=peers).registry()
    for name in ("gpt-4o", "openai/gpt-4o"):
        (one,) = registry.candidates(call(name, equivalents="off"))
        assert (one.backend, one.kind, one.node_id) == ("auto:openai/gpt-4o@node-b", "peer", "node-b")
        assert one.price == Price(2.5, 10, cached=1.25) and one.rejected == ""
    mine = registry.deployment("auto:openai/gpt-4o@node-b")
    assert mine.params == {} and mine.id == "auto:openai/gpt-4o"
    assert there.deployment(mine.id).params["api_key"] == "sk-planted-openai"


def test_a_peers_deployments_join_the_name() -> None:
    """One name on several nodes: this node's deployment and the peers' may all answer."""
    there = World(deployments=(dep("gpt-4o", "openai/gpt-4o"),)).registry()
    world = World(deployments=(dep("gpt-4o", "openai/gpt-4o"),))
    world.peers = [of_peer(one, "b") for one in there.shared()]
    assert ask(world, "gpt-4o", equivalents="off") == [{"gpt-4o:openai/gpt-4o", "gpt-4o:openai/gpt-4o@b"}]


def test_a_lenders_terms_hold_for_its_borrowers() -> None:
    """What a call costs beside its tokens, and how long the owner waits for an answer and for its beginning."""
    named = dep("a", "openai/gpt-4o", timeout_s=7.0, stream_timeout_s=2.0, price=Price(1, 2, 0.04))
    there = World(env=OPENAI, deployments=(named, dep("a", "openai/gpt-4o-mini")), config={"timeout_s": 30.0})
    borrower = World(peers=[of_peer(one, "b") for one in there.registry().shared()]).registry()
    own, general = borrower.candidates(call("a", equivalents="off"))
    assert (own.timeout_s, own.stream_timeout_s, own.price) == (7.0, 2.0, Price(1, 2, 0.04))
    assert (general.timeout_s, general.stream_timeout_s) == (30.0, None)
    assert [one.timeout_s for one in borrower.candidates(call("openai/o3", equivalents="off"))] == [30.0]


def test_a_lenders_timers_of_direct_calls_only() -> None:
    """A borrower could not tell the start of LiteLLM's worker from a provider that is late."""
    named = dep("a", "anthropic/claude-x", timeout_s=7.0, stream_timeout_s=2.0)
    there = World(env={"ANTHROPIC_API_KEY": "k"}, deployments=(named,), config={"timeout_s": 30.0})
    shared = there.registry().shared()
    assert [(one.provider, one.timeout_s, one.stream_timeout_s) for one in shared] == [("anthropic", None, None)] * 2


def test_what_is_shared_holds_no_secret() -> None:
    """Peers are told names, prices and abilities; deployments without a key are not told."""
    world = World(env=OPENAI, deployments=(dep("a", "openai/gpt-4o"), dep("b", "groq/x", params={"api_key": ""})))
    shared = world.registry().shared()
    assert [one.id for one in shared] == ["a:openai/gpt-4o", "auto:openai/*"]
    assert "sk-planted" not in repr(shared)


# Wildcards.


def test_litellms_wildcards() -> None:
    """`openai/*` serves every model of the prefix with its own key; `*` everything that nobody else has."""
    world = World(local=(DEMO,), deployments=(dep("openai/*", "openai/*", id="w"), dep("*", "*", id="all")))
    registry = world.registry()
    (one,) = registry.candidates(call("openai/gpt-new", equivalents="off"))
    made = registry.deployment(one.backend)
    assert (one.backend, made.upstream_model, made.litellm_model) == ("w:gpt-new", "gpt-new", "openai/gpt-new")
    assert made.params["api_key"] == "sk-planted-own"
    assert registry.candidates(call("demo"))[0].kind == "ring"
    (other,) = registry.candidates(call("claude-3-opus-20240229", equivalents="off"))
    assert (other.provider, other.model) == ("anthropic", "claude-3-opus-20240229")


@pytest.mark.parametrize(("id", "backend"), [("w", "w:gpt-new"), ("openai/*", "openai/gpt-new")])
def test_a_peer_asks_for_what_a_wildcard_means(id: str, backend: str) -> None:
    """A node that lends a wildcard finds the deployment that the borrower named, without having been asked itself."""
    registry = World(deployments=(dep("openai/*", "openai/*", id=id),)).registry()
    made = registry.deployment(backend)
    assert (made.id, made.litellm_model, made.params["api_key"]) == (backend, "openai/gpt-new", "sk-planted-own")
    for other in ("x:gpt-new", "w:", "openai/"):
        with pytest.raises(UpstreamError):
            registry.deployment(other)


# Lists and changes at run time.


def test_models_are_listed_by_name_and_provider() -> None:
    """/v1/models: deployments, aliases, shipped models of providers with a key; filtered by provider."""
    world = World(env=OPENAI, deployments=(dep("prod", "anthropic/claude-3-opus-20240229"), dep("l", "ollama/llama3")),
                  config={"aliases": {"fast": ("prod",)}})  # fmt: skip
    rows = {row["id"]: row for row in world.registry().models()}
    assert rows["prod"]["owned_by"] == "anthropic" and rows["prod"]["context_length"] == 200000
    assert rows["fast"]["owned_by"] == "anthropic" and rows["openai/gpt-4o"]["pricing"]["input"] == 2.5
    assert [row["id"] for row in world.registry().models("ollama")] == ["l"]
    assert {row["owned_by"] for row in world.registry().models("openai")} == {"openai"}
    assert world.registry().models("vllm") == []


def test_providers_are_listed_with_features_and_keys() -> None:
    """/v1/providers: features, and whether a key is there, in the environment or in a deployment."""
    world = World(env=OPENAI, deployments=(dep("g", "groq/x"),))
    rows = {row["id"]: row for row in world.registry().providers()}
    states = [rows[name]["key"] for name in ("openai", "groq", "anthropic", "ollama")]
    assert states == ["present", "present", "missing", "keyless"]
    assert {"vision", "tools", "embeddings", "tts", "stt"} <= set(rows["openai"]["features"])
    assert rows["gemini"]["key_variables"] == ["GEMINI_API_KEY", "GOOGLE_API_KEY"]


def test_no_list_holds_a_secret() -> None:
    """Keys, and credentials inside addresses, are in no row."""
    secret = dep("x", "openai/gpt-4", params={"api_base": "https://me:sk-planted-url@h/v1?key=sk-planted-query"})
    registry = World(env=OPENAI, deployments=(secret,)).registry()
    shown = repr(
        [registry.models(), registry.providers(), registry.deployments(), registry.info("x"), registry.shared()]
    )
    assert "sk-planted" not in shown
    assert registry.deployments()[0]["api_base"] == "https://h/v1"


def test_a_key_that_a_provider_refused() -> None:
    """After a 401 the deployment is ruled out until a good check or a reload."""
    registry = World(deployments=(dep("a", "openai/gpt-4", id="a"),)).registry()
    registry.mark_key("a", ok=False)
    assert registry.candidates(call("a"))[0].rejected == "OpenAI refused the key"
    registry.mark_key("a", ok=True)
    assert registry.candidates(call("a"))[0].rejected == ""


def test_a_refused_key_of_the_environment_counts_for_the_whole_provider() -> None:
    """All of a provider's models share the environment's key; its row says so."""
    registry = World(env=OPENAI).registry()
    registry.mark_key("auto:openai/any", ok=False)
    assert registry.candidates(call("gpt-4o"))[0].rejected == "OpenAI refused the key"
    assert {row["id"]: row["key"] for row in registry.providers()}["openai"] == "invalid"
    registry.mark_key("auto:openai/gpt-4o", ok=True)
    assert registry.candidates(call("gpt-4o"))[0].rejected == ""


@pytest.mark.parametrize(
    ("model", "total", "source"),
    [("gpt-4o", 0.0075, "shipped"), ("openai/gpt-4o", 0.0075, "shipped"), ("prod", 0.5, "configured"),
     ("demo", 0.0, "local"), ("ollama/x", 0.0, "local"), ("openai/never-heard", None, ""), ("nobody", None, "")],
)  # fmt: skip
def test_cost_estimates_by_name(model: str, total: float | None, source: str) -> None:
    """Any name that a request may use has its price, without a key; what nobody knows has none."""
    world = World(local=(DEMO,), deployments=(dep("prod", "openai/gpt-4", price=Price(0, 1000)),))
    one = world.registry().estimate(model, 1000, 500)
    assert one.total == pytest.approx(total)
    assert one.source == source


def test_prices_that_come_later() -> None:
    """What was worked out without LiteLLM's prices is worked out again; a call on its way keeps its deployment."""
    prices: dict[str, Price] = {}
    registry = World(
        deployments=(dep("openai/*", "openai/*"),), extra={"price_lookup": lambda name: prices.get(name)}
    ).registry()
    (before,) = registry.candidates(call("openai/odd-1", equivalents="off"))
    prices["openai/odd-1"] = Price(1.0, 2.0)
    registry.relearn()
    assert registry.deployment(before.backend).upstream_model == "odd-1"
    (after,) = registry.candidates(call("openai/odd-1", equivalents="off"))
    assert (before.price, after.price) == (None, Price(1.0, 2.0))
