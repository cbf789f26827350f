"""The same model under many names, and models that are alike."""

from __future__ import annotations

import pytest

from exo_node.routing.catalog.equivalents import Equivalents, expand
from exo_node.routing.catalog.tables import load_tables

EQUIVALENTS = Equivalents(load_tables())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("openai/gpt-4o", "azure/gpt-4o-deployment"),
        ("openai/gpt-4o", "openrouter/openai/gpt-4o"),
        ("openai/gpt-4o-2024-08-06", "gpt-4o"),
        ("azure/gpt-4o-mini-eastus", "gpt-4o-mini"),
        ("anthropic/claude-3-5-sonnet-20241022", "openrouter/anthropic/claude-3.5-sonnet"),
        ("anthropic/claude-3-5-sonnet-20241022", "vertex_ai/claude-3-5-sonnet@20241022"),
        ("bedrock/us.anthropic.claude-3-sonnet-20240229-v1:0", "claude-3-sonnet"),
        ("gemini/gemini-2.5-pro", "vertex_ai/gemini-2.5-pro"),
        ("google/gemini-2.5-pro", "openrouter/google/gemini-2.5-pro"),
        ("groq/llama-3.3-70b-versatile", "together_ai/meta-llama/Llama-3.3-70B-Instruct-Turbo"),
        ("ollama/llama3.2", "llama-3.2-3b"),
        ("litellm_proxy/claude-3-haiku", "anthropic/claude-3-haiku-20240307"),
    ],
)
def test_same_model(one: str, other: str) -> None:
    """Two names of one model have one id."""
    assert EQUIVALENTS.id_of_name(one) == EQUIVALENTS.id_of_name(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("gpt-4o", "gpt-4o-mini"), ("claude-3-opus", "claude-3-sonnet"), ("llama-3.1-8b", "llama-3.1-70b"),
     ("azure/gpt-4o-mini-x", "gpt-4o"), ("gpt-oss-20b", "gpt-oss-120b")],
)  # fmt: skip
def test_different_models(one: str, other: str) -> None:
    """Models of one family with different sizes are different models."""
    assert EQUIVALENTS.id_of_name(one) != EQUIVALENTS.id_of_name(other)


@pytest.mark.parametrize(
    ("names", "model_id"),
    [
        (("llama-3.2-1b",), "llama-3.2-1b"),
        (("unsloth/Llama-3.3-70B-Instruct",), "llama-3.3-70b"),
        (("mlx-community/Llama-3.2-3B-Instruct-4bit",), "llama-3.2-3b"),
        (("folder", "llama-3.1-8b"), "llama-3.1-8b"),
        (("meta-llama/Llama-3.2-3B",), None),  # the base model is another one
        (("demo",), None),
    ],
)
def test_local_models(names: tuple[str, ...], model_id: str | None) -> None:
    """A local model is known by its name or an alias; a base model is not its instruct version."""
    assert EQUIVALENTS.id_of_local(names) == model_id


def test_what_a_provider_calls_a_model() -> None:
    """A short name becomes the one that the provider takes; any other stays."""
    assert EQUIVALENTS.spelled("anthropic", "claude-3-opus") == "claude-3-opus-20240229"
    assert EQUIVALENTS.spelled("together_ai", "llama-2-70b") == "meta-llama/Llama-2-70b-chat-hf"
    assert EQUIVALENTS.spelled("openai", "gpt-4o-2024-08-06") == "gpt-4o-2024-08-06"
    assert EQUIVALENTS.spelled("anthropic", "claude-3-5-sonnet-20240620") == "claude-3-5-sonnet-20240620"


def test_hosts() -> None:
    """A model's hosts start with its maker; a cloud model without a row has its maker's and OpenRouter's."""
    assert EQUIVALENTS.hosts("claude-3-opus")[0] == ("anthropic", "claude-3-opus-20240229")
    assert EQUIVALENTS.hosts("openai/gpt-4o") == [("openai", "gpt-4o"), ("openrouter", "openai/gpt-4o")]
    assert EQUIVALENTS.hosts("mistral/mistral-large") == [("mistral", "mistral-large-latest")]
    assert EQUIVALENTS.hosts("demo") == []


def test_like() -> None:
    """Models of a class stand in for each other, never for themselves; a model of no class has none."""
    like = EQUIVALENTS.like(EQUIVALENTS.id_of_name("gpt-4"))
    assert EQUIVALENTS.id_of_name("claude-3-opus") in like and EQUIVALENTS.id_of_name("gpt-4") not in like
    assert EQUIVALENTS.like("demo") == []


def test_expand_takes_each_target_of_a_cycle_once() -> None:
    """Lists that lead to each other end."""
    lists = {"a": ("b", "c"), "b": ("a", "d"), "c": ("c", "b")}
    assert expand(["a"], lists) == ["a", "b", "c", "d"]
