"""Who answers when those that were asked for do not: equivalents, aliases, fallbacks, records."""

from __future__ import annotations

import pytest

from exo_node.errors import InvalidRequest, ModelNotFound
from exo_node.routing.catalog.holdings import RegistryOptions
from tests.unit.routing.catalog_world import ANTHROPIC, COLD, DEMO, LLAMA, OPENAI, World, ask, call, dep


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
    with pytest.raises(
        ModelNotFound, match=r"'demo' for rerank: it is a local one, which does chat, .* embeddings only$"
    ):
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
