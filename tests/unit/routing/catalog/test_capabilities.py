"""What a model can do."""

from __future__ import annotations

import pytest

from exo_node.routing.catalog.capabilities import ModelInfo, capabilities_of, context_of
from tests.unit.routing.catalog_world import FACTS, TABLES, made


def test_capabilities_of_known_models() -> None:
    """The table's row counts, seen through hosts, with what the provider adds."""
    assert "vision" in capabilities_of(made("azure", "gpt-4o-x"), TABLES, FACTS)
    assert "vision" not in capabilities_of(made("openai", "gpt-4"), TABLES, FACTS)
    assert "logprobs" in capabilities_of(made("openai", "gpt-4"), TABLES, FACTS)
    assert "prefill" in capabilities_of(made("anthropic", "claude-3-opus-20240229"), TABLES, FACTS)
    assert "prefill" not in capabilities_of(made("anthropic", "claude-opus-4-6"), TABLES, FACTS)
    assert "prefill" in capabilities_of(made("deepseek", "deepseek-chat"), TABLES, FACTS)
    assert "vision" not in capabilities_of(made("ollama", "llama3.2"), TABLES, FACTS)
    assert capabilities_of(made("openai", "text-embedding-3-small"), TABLES, FACTS) == {"embedding"}


@pytest.mark.parametrize(
    ("provider", "model"),
    [("ollama", "llama3.2"), ("ollama", "llama3.1"), ("hosted_vllm", "meta-llama/Llama-3.1-8B-Instruct"),
     ("lm_studio", "llama-3.1-8b-instruct"), ("exo", "llama-3.2-3b")],
)  # fmt: skip
def test_own_servers_do_their_part_for_every_model(provider: str, model: str) -> None:
    """What another host of the model says of itself takes no JSON schema and no tools from a server of one's own."""
    assert capabilities_of(made(provider, model), TABLES, FACTS) >= {"json_schema", "tools"}


def test_capabilities_of_unknown_models() -> None:
    """LiteLLM's word counts before what the provider's models usually can; the configuration's before all."""
    info = ModelInfo(can=frozenset({"tools"}), context=5)
    assert "vision" in capabilities_of(made("hosted_vllm", "mine"), TABLES, FACTS)
    assert "vision" not in capabilities_of(made("groq", "new"), TABLES, FACTS, info)
    parts = ModelInfo(adds=frozenset({"vision"}), lacks=frozenset({"tools"}))
    usual = capabilities_of(made("groq", "new"), TABLES, FACTS)
    assert capabilities_of(made("groq", "new"), TABLES, FACTS, parts) == (usual | {"vision"}) - {"tools"}
    fixed = made("openai", "gpt-4o", capabilities=frozenset({"rerank"}))
    assert capabilities_of(fixed, TABLES, FACTS, info) == {"rerank"}


def test_context() -> None:
    """Configured, else shipped, else LiteLLM's, else unknown."""
    info = ModelInfo(context=5)
    assert context_of(made("openai", "gpt-4", context=7), FACTS) == 7
    assert context_of(made("openai", "gpt-4"), FACTS, info) == 8192
    assert context_of(made("openai", "new"), FACTS, info) == 5
    assert context_of(made("openai", "new"), FACTS) is None
