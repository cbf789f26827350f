"""Which backends a call may use, by FEATURES' rules where the documents overlap: which way a name goes."""

from __future__ import annotations

import pytest

from exo_node.errors import InvalidRequest, ModelNotFound
from exo_node.routing.catalog.capabilities import ModelInfo
from exo_node.routing.catalog.holdings import RegistryOptions
from exo_node.routing.catalog.listing import of_peer
from exo_node.routing.catalog.names import LocalModel
from exo_node.routing.catalog.pricing import FREE, Priced
from tests.unit.routing.catalog_world import ANTHROPIC, DEMO, LLAMA, OPENAI, PROXY, World, ask, call, dep, tiers


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


def test_asking_again_is_cheap() -> None:
    """A name that was asked before costs microseconds: what is worked out is kept while nothing changes."""
    registry = World(env={**OPENAI, **ANTHROPIC}, local=(LLAMA, DEMO)).registry()
    first = registry.candidates(call("gpt-4o"))
    assert all(a is b for a, b in zip(first, registry.candidates(call("gpt-4o", tokens=99)), strict=True))


def test_names_that_are_tried_out_do_not_pile_up() -> None:
    """What was worked out for many names is forgotten; a call on its way still finds its deployment."""
    registry = World(env=OPENAI).registry()
    for n in range(2000):
        (one,) = registry.candidates(call(f"openai/x-{n}", equivalents="off"))
    state = registry._holdings.state
    assert len(state.answers) <= 1024
    assert registry.deployment(one.backend).upstream_model == "x-1999"
    assert registry.deployment("auto:openai/x-0").upstream_model == "x-0"
