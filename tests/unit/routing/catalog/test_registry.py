"""Which backends a call may use, by FEATURES' rules where the documents overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from exo_node.errors import InvalidRequest, ModelNotFound
from exo_node.routing.call import Call, CallKind, UpstreamError, Wishes
from exo_node.routing.catalog.capabilities import ModelInfo
from exo_node.routing.catalog.listing import of_peer
from exo_node.routing.catalog.names import LocalModel
from exo_node.routing.catalog.pricing import FREE, Priced
from exo_node.routing.catalog.registry import Registry, RegistryOptions
from exo_node.routing.catalog.tables import load_tables
from exo_node.routing.deployment import Deployment, Price, RoutingConfig
from exo_node.routing.plan import Candidate

TABLES = load_tables()
LLAMA = LocalModel(id="unsloth/Llama-3.3-70B-Instruct", loaded=True, aliases=("llama-3.3-70b",), context=8192, slots=4)
DEMO = LocalModel(id="demo", loaded=True, context=512, slots=2)
COLD = LocalModel(id="cold", loaded=False, cold_s=12.0)
STUCK = LocalModel(id="huge", loaded=False, loadable=False, reason="it needs 400 GB")
OPENAI = {"OPENAI_API_KEY": "sk-planted-openai"}
ANTHROPIC = {"ANTHROPIC_API_KEY": "sk-planted-anthropic"}
PROXY = {"LITELLM_BASE_URL": "http://proxy:4000"}


@dataclass
class World:
    """What a registry is made of; changed by a test, then asked."""

    env: dict[str, str] = field(default_factory=dict)
    local: Sequence[LocalModel] = ()
    peers: Sequence[Deployment] = ()
    deployments: tuple[Deployment, ...] = ()
    options: RegistryOptions = field(default_factory=RegistryOptions)
    config: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def registry(self) -> Registry:
        config = RoutingConfig(deployments=self.deployments, environment=self.env, **self.config)
        return Registry(
            config, TABLES, self.options, local_models=lambda: self.local, peers=lambda: self.peers, **self.extra
        )


def dep(name: str, model: str, **fields: Any) -> Deployment:
    params = {"api_key": "sk-planted-own", **fields.pop("params", {})}
    one = {"id": f"{name}:{model}", **fields}
    return Deployment(model_name=name, litellm_model=model, provider="", upstream_model="", params=params, **one)


def call(model: str, kind: CallKind = "chat", *, tokens: int = 10, **wishes: Any) -> Call:
    return Call(
        id="c",
        kind=kind,
        model=model,
        body={},
        stream=False,
        deadline=0.0,
        prompt_tokens=tokens,
        wishes=Wishes(**wishes),
    )


def tiers(found: Sequence[Candidate], *, usable: bool = False) -> list[set[str]]:
    """Backends, tier by tier."""
    rows: dict[int, set[str]] = {}
    for one in found:
        if not (usable and one.rejected):
            rows.setdefault(one.tier, set()).add(one.backend)
    return [rows[tier] for tier in sorted(rows)]


def ask(world: World, model: str, **more: Any) -> list[set[str]]:
    return tiers(world.registry().candidates(call(model, **more)))


# Which way a name goes.


def test_a_configured_deployment_is_external() -> None:
    """(1) A configured name goes to its deployments, even where a local model has it too."""
    world = World(local=(DEMO,), deployments=(dep("demo", "openai/gpt-4o"), dep("demo", "azure/x", id="b")))
    assert ask(world, "demo", equivalents="off") == [{"demo:openai/gpt-4o", "b"}]


def test_a_provider_prefix_is_external() -> None:
    """(1) provider/model is made of the key in the environment; google/ is gemini/."""
    world = World(env={**OPENAI, "GEMINI_API_KEY": "g"})
    assert ask(world, "openai/gpt-new", equivalents="off") == [{"auto:openai/gpt-new"}]
    assert ask(world, "google/gemini-new", equivalents="off") == [{"auto:gemini/gemini-new"}]


def test_a_prefix_finds_the_configured_deployment_of_that_model() -> None:
    """(1) A deployment of that very model serves provider/model with its own key."""
    world = World(env=OPENAI, deployments=(dep("prod", "openai/gpt-4"),))
    assert ask(world, "openai/gpt-4", equivalents="off") == [{"prod:openai/gpt-4"}]


def test_the_field_provider_forces_that_provider() -> None:
    """(1) With `provider` nothing else is asked: neither the ring, nor equivalents, nor another provider."""
    world = World(env={**OPENAI, **ANTHROPIC, "OLLAMA_API_BASE": "http://o:1"}, local=(LLAMA, DEMO))
    assert ask(world, "llama-3.3-70b", provider="ollama") == [{"auto:ollama/llama3.3"}]
    assert ask(world, "gpt-4", provider="openai") == [{"auto:openai/gpt-4"}]
    assert ask(world, "openai/gpt-4", provider="openai") == [{"auto:openai/gpt-4"}]
    assert ask(world, "demo", provider="ring") == [{"ring:demo"}]
    with pytest.raises(InvalidRequest, match="no provider 'nope'; known: anthropic"):
        ask(world, "gpt-4", provider="nope")


def test_the_field_provider_litellm_means_anything_external() -> None:
    """Document 002's provider name "litellm": whoever it is, but not the ring."""
    world = World(env=OPENAI, local=(DEMO,))
    assert ask(world, "openai/gpt-4", provider="litellm") == [{"auto:openai/gpt-4"}]
    with pytest.raises(ModelNotFound):
        ask(world, "demo", provider="litellm")


def test_a_local_model_goes_to_the_ring() -> None:
    """(2) A local model runs on the ring, even under a cloud name."""
    world = World(env=ANTHROPIC, local=(DEMO, LocalModel(id="claude-mine", loaded=True)))
    assert ask(world, "demo") == [{"ring:demo"}]
    assert ask(world, "claude-mine")[0] == {"ring:claude-mine"}


def test_a_cloud_name_goes_to_its_provider() -> None:
    """(3) gpt-, claude-, gemini- go to their makers under the name that these take."""
    world = World(env={**OPENAI, **ANTHROPIC})
    assert ask(world, "gpt-4", equivalents="off") == [{"auto:openai/gpt-4"}]
    assert ask(world, "claude-3-opus", equivalents="off") == [{"auto:anthropic/claude-3-opus-20240229"}]


def test_an_open_models_name_goes_to_hosts_with_a_key() -> None:
    """(3) llama-2-70b goes to Together; without any key the first host says what is missing."""
    world = World(env={"TOGETHERAI_API_KEY": "t"})
    assert ask(world, "llama-2-70b", equivalents="off") == [{"auto:together_ai/meta-llama/Llama-2-70b-chat-hf"}]
    (bare,) = World().registry().candidates(call("llama-2-70b"))
    assert bare.rejected == "no key for Together AI: set TOGETHERAI_API_KEY"


def test_an_unknown_name_tries_litellm_first_then_a_near_local_one() -> None:
    """(4) The upstream proxy, then a near local name; 404 with a list when there is neither."""
    world = World(env=PROXY, local=(LLAMA,))
    assert ask(world, "llama-3.3") == [{"auto:litellm_proxy/llama-3.3"}, {"ring:unsloth/Llama-3.3-70B-Instruct"}]
    assert ask(World(local=(LLAMA,)), "Llama-3.3-70B")[0] == {"ring:unsloth/Llama-3.3-70B-Instruct"}
    world = World(local=(DEMO,), deployments=(dep("prod", "openai/gpt-4"),))
    with pytest.raises(ModelNotFound, match="no model 'nobody'; there are: demo, prod"):
        ask(world, "nobody")


def test_a_model_that_must_be_fetched_comes_after_who_has_it() -> None:
    """An alias of the hub whose model is not here: first whoever serves that model, then the ring, then others."""
    absent = LocalModel(id="llama-3.1-8b", loaded=False, here=False)
    assert ask(World(local=(absent,)), "llama-3.1-8b") == [{"ring:llama-3.1-8b"}]
    world = World(local=(absent, DEMO), env={"GROQ_API_KEY": "g"})
    found = ask(world, "llama-3.1-8b")
    assert found[:2] == [{"auto:groq/llama-3.1-8b-instant"}, {"ring:llama-3.1-8b"}]
    assert (world.registry().price("llama-3.1-8b") or Priced(FREE, "local")).source == "shipped"
    mine = dep("mine", "openai/llama-3.1-8b", params={"api_base": "http://127.0.0.1:1/v1"})
    world = World(local=(absent,), deployments=(mine,))
    assert ask(world, "llama-3.1-8b")[:2] == [{"mine:openai/llama-3.1-8b"}, {"ring:llama-3.1-8b"}]
    peers = [of_peer(one, "b") for one in World(env={"GROQ_API_KEY": "g"}).registry().shared()]
    world = World(local=(absent,), peers=peers)
    assert ask(world, "llama-3.1-8b")[:2] == [{"auto:groq/llama-3.1-8b-instant@b"}, {"ring:llama-3.1-8b"}]
    assert ask(world, "llama-3.1-8b", provider="ring") == [{"ring:llama-3.1-8b"}]
    assert ask(world, "llama-3.1-8b", equivalents="off") == [{"ring:llama-3.1-8b"}]


def test_the_404_names_what_is_here_first() -> None:
    """Configured names and models on the disk before those that a key would allow or the hub has."""
    absent = LocalModel(id="a-hub-name", loaded=False, here=False)
    world = World(local=(absent, DEMO), deployments=(dep("mine", "openai/x"),), env=OPENAI)
    with pytest.raises(ModelNotFound, match=r"there are: demo, mine, a-hub-name, openai/"):
        ask(world, "no-such")


def test_an_unknown_name_that_litellm_knows() -> None:
    """(4) LiteLLM's own table says whose a bare name is, while the sidecar runs."""
    world = World(env={"VOYAGE_API_KEY": "v"})
    world.extra["info_lookup"] = lambda name: ModelInfo(provider="voyage") if name == "odd-embed" else None
    assert ask(world, "odd-embed") == [{"auto:voyage/odd-embed"}]


def test_an_unknown_name_that_the_ring_could_fetch() -> None:
    """(4) A repository that nobody has is the ring's to fetch, after LiteLLM."""
    world = World(env=PROXY)
    world.extra["fetchable"] = lambda name: LocalModel(id=name, loaded=False) if name.count("/") == 1 else None
    assert ask(world, "Qwen/Qwen9") == [{"auto:litellm_proxy/Qwen/Qwen9"}, {"ring:Qwen/Qwen9"}]


def test_litellm_url_moves_cloud_and_unknown_names_only() -> None:
    """With a proxy, names of kinds (3) and (4) go to it first; deployments, prefixes and local models stay."""
    world = World(env={**OPENAI, **PROXY}, local=(DEMO,), deployments=(dep("prod", "openai/gpt-4o"),))
    assert ask(world, "gpt-4", equivalents="off") == [{"auto:litellm_proxy/gpt-4"}, {"auto:openai/gpt-4"}]
    assert ask(world, "openai/gpt-4", equivalents="off") == [{"auto:openai/gpt-4"}]
    assert ask(world, "prod", equivalents="off") == [{"prod:openai/gpt-4o"}]
    assert ask(world, "demo")[0] == {"ring:demo"}
    world.env["USE_LITELLM"] = "false"
    assert ask(world, "gpt-4", equivalents="off") == [{"auto:openai/gpt-4"}]


def test_use_litellm_without_a_proxy_means_the_library() -> None:
    """USE_LITELLM alone sends cloud names through LiteLLM instead of calling the provider directly."""
    world = World(env={**OPENAI, "USE_LITELLM": "true"})
    registry = world.registry()
    (one,) = registry.candidates(call("gpt-4", equivalents="off"))
    assert registry.deployment(one.backend).transport == "litellm"
    (direct,) = World(env=OPENAI).registry().candidates(call("openai/gpt-4", equivalents="off"))
    assert World(env=OPENAI).registry().deployment(direct.backend).transport == "passthrough"


def test_no_enable_litellm_wins_over_everything() -> None:
    """Nothing external is asked or listed: a local name works, any other is a 404 that says why."""
    world = World(env={**OPENAI, **PROXY}, local=(LLAMA,), deployments=(dep("prod", "openai/gpt-4o"),),
                  options=RegistryOptions(enabled=False))  # fmt: skip
    assert ask(world, "llama-3.3-70b") == [{"ring:unsloth/Llama-3.3-70B-Instruct"}]
    for name in ("prod", "gpt-4", "openai/gpt-4", "nobody"):
        with pytest.raises(ModelNotFound, match="external models are off"):
            ask(world, name)
    assert world.registry().models() == [] and world.registry().shared() == []
    assert World(env=OPENAI, config={"enabled": False}).registry().enabled is False


def test_without_litellm_passthrough_still_works() -> None:
    """When the extra is not installed, direct deployments work and the others name it."""
    world = World(env={**OPENAI, **ANTHROPIC}, options=RegistryOptions(litellm_available=False))
    (gpt,) = world.registry().candidates(call("gpt-4", equivalents="off"))
    (claude,) = world.registry().candidates(call("claude-3-opus", equivalents="off"))
    assert gpt.rejected == "" and "exo-node[litellm]" in claude.rejected


def test_a_missing_key_is_told_and_no_local_model_slips_in() -> None:
    """An asked model without a key is refused with the variable's name; the demo model does not answer for it."""
    world = World(local=(DEMO,))
    (one,) = world.registry().candidates(call("gpt-4"))
    assert one.rejected == "no key for OpenAI: set OPENAI_API_KEY"


def test_a_name_of_a_prefix_and_of_a_local_model() -> None:
    """A local model called like provider/model answers where the provider cannot."""
    world = World(local=(LocalModel(id="openai/gpt-oss-20b", loaded=True),))
    found = world.registry().candidates(call("openai/gpt-oss-20b"))
    assert tiers(found, usable=True) == [{"ring:openai/gpt-oss-20b"}]


# Equivalents, aliases, fallbacks.


def test_the_shipped_table_answers_only_after_a_failure() -> None:
    """By default the same model elsewhere comes first after a failure, then models like it, then a local one."""
    world = World(env={**OPENAI, **ANTHROPIC, "OPENROUTER_API_KEY": "o"}, local=(DEMO,))
    found = ask(world, "gpt-4o")
    assert found[0] == {"auto:openai/gpt-4o"}
    assert found[1] == {"auto:openrouter/openai/gpt-4o"}
    assert "auto:anthropic/claude-3-5-sonnet-20241022" in found[2]
    assert found[3] == {"ring:demo"}


def test_equivalents_off_and_latency() -> None:
    """`off`: the asked model only. `latency`: equivalents may answer at once. The request wins over config and flag."""
    world = World(env={**OPENAI, **ANTHROPIC}, local=(DEMO,), config={"equivalents": "off"},
                  options=RegistryOptions(equivalents="latency"))  # fmt: skip
    assert ask(world, "gpt-4o") == [{"auto:openai/gpt-4o"}]
    assert "auto:anthropic/claude-3-5-sonnet-20241022" in ask(world, "gpt-4o", equivalents="latency")[0]
    world.config = {}
    assert "auto:anthropic/claude-3-5-sonnet-20241022" in ask(world, "gpt-4o")[0]


def test_the_same_model_is_no_equivalent() -> None:
    """`equivalent` marks other models than the asked one: a continuation needs the same."""
    world = World(env={**OPENAI, **ANTHROPIC, "OPENROUTER_API_KEY": "o"}, local=(DEMO,))
    by = {one.backend: one.equivalent for one in world.registry().candidates(call("gpt-4o"))}
    assert by["auto:openai/gpt-4o"] is False and by["auto:openrouter/openai/gpt-4o"] is False
    assert by["auto:anthropic/claude-3-5-sonnet-20241022"] is True and by["ring:demo"] is True
    ids = {one.backend: one.model_id for one in world.registry().candidates(call("gpt-4o"))}
    assert ids["auto:openai/gpt-4o"] == ids["auto:openrouter/openai/gpt-4o"] != ""
    assert len({ids["auto:openai/gpt-4o"], ids["auto:anthropic/claude-3-5-sonnet-20241022"], ids["ring:demo"]}) == 3


def test_a_local_model_falls_over_to_the_same_model_outside_and_back() -> None:
    """Document 000: external when local is missing or fails, local when external fails; the same model by the table."""
    world = World(env={"GROQ_API_KEY": "g"}, local=(LLAMA,))
    assert ask(world, "llama-3.3-70b")[:2] == [
        {"ring:unsloth/Llama-3.3-70B-Instruct"}, {"auto:groq/llama-3.3-70b-versatile"},
    ]  # fmt: skip
    assert ask(world, "groq/llama-3.3-70b-versatile")[:2] == [
        {"auto:groq/llama-3.3-70b-versatile"}, {"ring:unsloth/Llama-3.3-70B-Instruct"},
    ]  # fmt: skip


def test_the_last_resort_is_a_loaded_model_or_the_default() -> None:
    """When all of the outside has failed: loaded local models; with none, the default model, if it is local."""
    assert ask(World(env=OPENAI, local=(DEMO, COLD)), "gpt-new")[-1] == {"ring:demo"}
    assert ask(World(env=OPENAI, local=(COLD,)), "gpt-new") == [{"auto:openai/gpt-new"}]
    world = World(env=OPENAI, local=(COLD,), options=RegistryOptions(default_model="cold"))
    assert ask(world, "gpt-new")[-1] == {"ring:cold"}


def test_embeddings_have_no_equivalents_of_another_model_and_the_ring_only_by_name() -> None:
    """Vectors of different models must not be mixed: a local model makes them where the request names it."""
    world = World(env={**OPENAI, "COHERE_API_KEY": "c"}, local=(DEMO,), config={"default_fallbacks": ("demo",)})
    assert ask(world, "text-embedding-3-small", kind="embedding") == [{"auto:openai/text-embedding-3-small"}]
    assert ask(world, "demo", kind="embedding") == [{"ring:demo"}]
    assert ask(world, "text-embedding-3-small", kind="embedding", fallbacks=("demo",))[-1] == {"ring:demo"}
    assert ask(World(local=(DEMO,), config={"embedding_model": "demo"}), "", kind="embedding") == [{"ring:demo"}]
    with pytest.raises(ModelNotFound):  # a near name is good enough for words only
        ask(World(local=(DEMO,)), "dem", kind="embedding")
    with pytest.raises(ModelNotFound, match="those do chat, completions and embeddings only"):
        ask(world, "demo", kind="rerank")


def test_own_aliases_may_answer_at_once() -> None:
    """model_group_alias: every target may answer (document 000's default for the user's own), in one tier."""
    world = World(env={**OPENAI, **ANTHROPIC}, config={"aliases": {"fast": ("gpt-4o-mini", "claude-3-haiku")}})
    assert ask(world, "fast")[0] >= {"auto:openai/gpt-4o-mini", "auto:anthropic/claude-3-haiku-20240307"}
    world.config["equivalents"] = "failover"
    assert ask(world, "fast")[:2] == [{"auto:openai/gpt-4o-mini"}, {"auto:anthropic/claude-3-haiku-20240307"}]
    world.config["equivalents"] = "off"
    assert ask(world, "fast") == [{"auto:openai/gpt-4o-mini"}]


def test_an_alias_may_name_itself_and_run_in_circles() -> None:
    """Document 003: gpt-4 -> [gpt-4, azure-gpt-4, claude-3-opus]; each target once, cycles end."""
    aliases = {"gpt-4": ("gpt-4", "azure-gpt-4", "claude-3-opus"), "azure-gpt-4": ("gpt-4",)}
    world = World(env={**OPENAI, **ANTHROPIC}, config={"aliases": aliases, "equivalents": "latency"})
    first = ask(world, "gpt-4")[0]
    assert {"auto:openai/gpt-4", "auto:anthropic/claude-3-opus-20240229"} <= first
    found = world.registry().candidates(call("gpt-4"))
    assert len({one.backend for one in found}) == len(found)
    circle = World(env=OPENAI, config={"aliases": {"a": ("b",), "b": ("a",)}})
    with pytest.raises(ModelNotFound):
        ask(circle, "a")


def test_fallbacks_come_in_order_each_once() -> None:
    """`fallbacks`: their own tiers in order, through cycles; the model's own list first, default_fallbacks last."""
    config = {
        "fallbacks": {"gpt-4": ("claude-3-opus", "gemini-pro"), "claude-3-opus": ("gpt-4",)},
        "default_fallbacks": ("demo",),
    }
    world = World(env={**OPENAI, **ANTHROPIC, "GEMINI_API_KEY": "g"}, local=(DEMO,), config=config)
    assert ask(world, "gpt-4", equivalents="off") == [
        {"auto:openai/gpt-4"}, {"auto:anthropic/claude-3-opus-20240229"}, {"auto:gemini/gemini-pro"}, {"ring:demo"},
    ]  # fmt: skip
    world.deployments = (dep("gpt-4", "openai/gpt-4", fallbacks=("demo",)),)
    assert ask(world, "gpt-4", equivalents="off")[1] == {"ring:demo"}


def test_the_requests_own_fallbacks_replace_the_configured() -> None:
    """An empty list means none."""
    world = World(env={**OPENAI, **ANTHROPIC}, local=(DEMO,), config={"fallbacks": {"gpt-4": ("claude-3-opus",)}})
    assert ask(world, "gpt-4", equivalents="off", fallbacks=("demo",)) == [{"auto:openai/gpt-4"}, {"ring:demo"}]
    assert ask(world, "gpt-4", equivalents="off", fallbacks=()) == [{"auto:openai/gpt-4"}]


def test_context_fallbacks_come_first_for_a_long_prompt() -> None:
    """A prompt beyond the asked model's context goes to the models for that before the other fallbacks."""
    config = {"fallbacks": {"gpt-4": ("claude-3-opus",)}, "context_fallbacks": {"gpt-4": ("gpt-4-turbo",)}}
    world = World(env={**OPENAI, **ANTHROPIC}, config=config)
    assert ask(world, "gpt-4", equivalents="off", tokens=10)[1] == {"auto:anthropic/claude-3-opus-20240229"}
    assert ask(world, "gpt-4", equivalents="off", tokens=9000)[1] == {"auto:openai/gpt-4-turbo"}


def test_default_fallbacks_do_not_make_an_unknown_name_known() -> None:
    """A misspelt model is a 404, not silently another one."""
    with pytest.raises(ModelNotFound, match="did you mean 'demo'"):
        ask(World(local=(DEMO,), config={"default_fallbacks": ("demo",)}), "demmo")


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
    assert azure.price == Price(2.5, 10) and azure.context == 128000 and "vision" in azure.capabilities


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
        assert one.price == Price(2.5, 10) and one.rejected == ""
    mine = registry.deployment("auto:openai/gpt-4o@node-b")
    assert mine.params == {} and mine.id == "auto:openai/gpt-4o"
    assert there.deployment(mine.id).params["api_key"] == "sk-planted-openai"


def test_a_peers_deployments_join_the_name() -> None:
    """One name on several nodes: this node's deployment and the peers' may all answer."""
    there = World(deployments=(dep("gpt-4o", "openai/gpt-4o"),)).registry()
    world = World(deployments=(dep("gpt-4o", "openai/gpt-4o"),))
    world.peers = [of_peer(one, "b") for one in there.shared()]
    assert ask(world, "gpt-4o", equivalents="off") == [{"gpt-4o:openai/gpt-4o", "gpt-4o:openai/gpt-4o@b"}]


def test_what_is_shared_holds_no_secret() -> None:
    """Peers are told names, prices and abilities; deployments without a key are not told."""
    world = World(env=OPENAI, deployments=(dep("a", "openai/gpt-4o"), dep("b", "groq/x", params={"api_key": ""})))
    shared = world.registry().shared()
    assert [one.id for one in shared] == ["a:openai/gpt-4o", "auto:openai/*"]
    assert "sk-planted" not in repr(shared)


# Defaults.


def test_the_model_of_a_request_that_names_none() -> None:
    """default_model, then defaults.model, then --default-model; embeddings and rerank have their own."""
    options = RegistryOptions(default_model="demo")
    config = {
        "default_model": "gpt-3.5-turbo",
        "defaults": {"model": "gpt-4o"},
        "embedding_model": "text-embedding-3-small",
    }
    world = World(env=OPENAI, local=(DEMO,), options=options, config=config)
    assert ask(world, "", equivalents="off") == [{"auto:openai/gpt-3.5-turbo"}]
    assert ask(world, "", kind="embedding") == [{"auto:openai/text-embedding-3-small"}]
    world.config = {"defaults": {"model": "gpt-4o"}}
    assert world.registry().default_model("chat") == "gpt-4o"
    world.config = {}
    assert world.registry().default_model("chat") == "demo"
    assert world.registry().default_model("rerank") is None
    with pytest.raises(InvalidRequest, match="names no model"):
        World().registry().candidates(call(""))


def test_the_default_provider_takes_names_without_one() -> None:
    """Document 002: default_provider ollama, default_model llama3.2."""
    world = World(local=(DEMO,), config={"default_provider": "ollama", "default_model": "llama3.2"})
    assert ask(world, "", equivalents="off") == [{"auto:ollama/llama3.2"}]
    assert ask(world, "qwen9", equivalents="off") == [{"auto:ollama/qwen9"}]
    assert ask(world, "demo")[0] == {"ring:demo"}
    assert World(env=OPENAI, config=world.config).registry().candidates(call("gpt-4"))[0].provider == "openai"


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


def test_asking_again_is_cheap() -> None:
    """A name that was asked before costs microseconds: what is worked out is kept while nothing changes."""
    registry = World(env={**OPENAI, **ANTHROPIC}, local=(LLAMA, DEMO)).registry()
    first = registry.candidates(call("gpt-4o"))
    assert all(a is b for a, b in zip(first, registry.candidates(call("gpt-4o", tokens=99)), strict=True))


def test_a_record_keeps_to_its_own_deployments() -> None:
    """Document 004: of two records with the same group the one that is named serves; what is in no record may too."""
    mine, other = (dep("gpt-4", "openai/gpt-4", id=name, record=name) for name in ("mine", "other"))
    world = World(deployments=(mine, other, dep("gpt-4", "azure/x", id="free")), config={"records": ("mine", "other")})
    assert ask(world, "gpt-4", equivalents="off") == [{"mine", "other", "free"}]
    assert ask(world, "gpt-4", equivalents="off", record="mine") == [{"mine", "free"}]
    only = World(deployments=(other,), config={"records": ("mine", "other")}, local=(DEMO,))
    assert ask(only, "demo", fallbacks=("gpt-4",), record="mine") == [{"ring:demo"}]
    with pytest.raises(ModelNotFound):
        ask(only, "gpt-4", equivalents="off", record="mine")
    with pytest.raises(InvalidRequest, match="no provider record 'none'; known: mine, other"):
        ask(only, "gpt-4", record="none")
