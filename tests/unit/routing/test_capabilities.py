"""What a call needs, how long its prompt is, and what a model can do."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.routing.call import CallKind
from exo_node.routing.capabilities import Facts, ModelInfo, capabilities_of, context_of, estimate_tokens, needs_of
from exo_node.routing.deployment import Deployment
from exo_node.routing.equivalents import Equivalents
from exo_node.routing.tables import load_tables

TABLES = load_tables()
FACTS = Facts(TABLES, Equivalents(TABLES))
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def made(provider: str, model: str, **fields: Any) -> Deployment:
    return Deployment(
        id="d", model_name="m", litellm_model=f"{provider}/{model}", provider=provider, upstream_model=model, **fields
    )


@pytest.mark.parametrize(
    ("kind", "body", "needs"),
    [
        ("chat", {"messages": [{"role": "user", "content": "hi"}]}, set()),
        ("chat", {"tools": [{"type": "function"}]}, {"tools"}),
        ("chat", {"functions": [{"name": "f"}]}, {"tools"}),
        ("chat", {"tools": [{"type": "function"}], "tool_choice": "none"}, set()),
        ("chat", {"tools": []}, set()),
        ("chat", user(IMAGE), {"vision"}),
        ("chat", user({"type": "input_audio", "input_audio": {}}), {"audio"}),
        ("chat", {"modalities": ["text", "audio"]}, {"audio"}),
        ("chat", {"response_format": {"type": "json_schema"}}, {"json_schema"}),
        ("chat", {"response_format": {"type": "json_object"}}, set()),
        ("chat", {"logprobs": True}, {"logprobs"}),
        ("chat", {"logprobs": False}, set()),
        ("completion", {"logprobs": 0}, {"logprobs"}),
        ("completion", {"logprobs": None}, set()),
        ("embedding", {"input": "x"}, {"embedding"}),
        ("rerank", {"query": "x"}, {"rerank"}),
        ("speech", {"input": "x"}, set()),
    ],
)  # fmt: skip
def test_needs(kind: CallKind, body: dict[str, Any], needs: set[str]) -> None:
    """A body says which capabilities it needs."""
    assert needs_of(kind, body) == needs


def test_a_prompt_is_counted_by_its_characters() -> None:
    """Four characters a token; a picture counts as one picture, token ids as tokens."""
    text = {"messages": [{"role": "user", "content": "a" * 400}]}
    assert estimate_tokens(text) == 104
    assert 700 < estimate_tokens(user(IMAGE)) < 1000
    assert estimate_tokens({"prompt": [1, 2, 3]}) == 3
    assert estimate_tokens({"input": ["a" * 8, "b" * 8]}) == 4
    assert estimate_tokens({}) == 1
    assert estimate_tokens({**text, "tools": [{"function": {"description": "d" * 400}}]}) > 200


def test_capabilities_of_known_models() -> None:
    """The table's row counts, seen through hosts, with what the provider adds."""
    assert "vision" in capabilities_of(made("azure", "gpt-4o-x"), TABLES, FACTS)
    assert "vision" not in capabilities_of(made("openai", "gpt-4"), TABLES, FACTS)
    assert "logprobs" in capabilities_of(made("openai", "gpt-4"), TABLES, FACTS)
    assert "prefill" in capabilities_of(made("anthropic", "claude-3-opus-20240229"), TABLES, FACTS)
    assert "prefill" not in capabilities_of(made("anthropic", "claude-opus-4-6"), TABLES, FACTS)
    assert "prefill" in capabilities_of(made("deepseek", "deepseek-chat"), TABLES, FACTS)
    assert capabilities_of(made("openai", "text-embedding-3-small"), TABLES, FACTS) == {"embedding"}


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
