"""LiteLLM's tables by our words (integration/sidecar asks the real ones)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from exo_node.routing.sidecar.queries import Knowledge, resident_bytes


class Unknown(Exception):
    pass


def provider_of(model: str) -> tuple[str, str, None, None]:
    provider, slash, name = model.partition("/")
    if not slash:
        raise Unknown
    return name, provider, None, None


def knowledge(**costs: dict[str, Any]) -> Knowledge:
    return Knowledge(
        SimpleNamespace(
            model_cost={name.replace("__", "/"): row for name, row in costs.items()},
            get_llm_provider=provider_of,
            exceptions=SimpleNamespace(BadRequestError=Unknown),
            get_supported_openai_params=lambda model, custom_llm_provider: ["tools"] * (custom_llm_provider == "a"),
        )
    )


def test_rows() -> None:
    """A model is found by its full name or without its provider; a row of another provider is another model."""
    row = {"litellm_provider": "a"}
    known = knowledge(m=row)
    assert [known.row(name) for name in ("a/m", "m", "b/m", "who")] == [row, row, None, None]


def test_facts() -> None:
    """Every row, also under its provider's prefix where it is filed without."""
    row = {
        "litellm_provider": "vertex_ai-language-models", "mode": "chat", "max_tokens": 9, "supports_vision": True,
        "supports_function_calling": False, "input_cost_per_token": 1e-6,
        "cache_read_input_token_cost": 1e-7,
    }  # fmt: skip
    facts = ["vertex_ai", "chat", 9, ["vision"], ["tools"], pytest.approx(1.0), 0.0, pytest.approx(0.1)]
    assert knowledge(m=row, a__n={}).facts() == {
        "m": facts,
        "vertex_ai/m": facts,
        "a/n": ["", "", None, [], [], None, None, None],
    }


def test_tools() -> None:
    """A known chat model has tools where its row says so; an unknown one where its provider's translation has."""
    known = knowledge(a__no={"mode": "chat"}, a__yes={"mode": "chat", "supports_function_calling": True})
    assert [known.tools(m) for m in ("a/no", "a/yes", "a/new", "b/new", "who")] == [False, True, True, False, True]


def test_resident_bytes() -> None:
    """The process's memory is a plausible number (0 where the platform does not tell)."""
    assert resident_bytes() == 0 or resident_bytes() > 2**20
