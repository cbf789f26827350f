"""The shipped prices by the names that people use."""

from __future__ import annotations

from exo_node.sdk.prices import shipped_models


def test_names() -> None:
    """Without a provider where the name alone says it; with one where it does not; no embeddings among chats."""
    names = shipped_models().chat()
    assert {"gpt-4o", "claude-3-haiku", "groq/llama-3.3-70b-versatile"} <= names.keys()
    assert "text-embedding-3-small" not in names


def test_find() -> None:
    """Dates and hosts are seen through; what nobody sells is unknown."""
    dated, plain = (
        shipped_models().find("anthropic/claude-3-5-sonnet-20241022"),
        shipped_models().find("claude-3-5-sonnet"),
    )
    assert dated is not None and dated == plain
    assert shipped_models().find("openrouter/openai/gpt-4o") == shipped_models().find("gpt-4o")
    assert shipped_models().find("my-own-model") is None
