"""What a key for some models only is shown of the node."""

from __future__ import annotations

from exo_node.api import visible
from exo_node.api.ports import Principal


def test_statistics_name_no_other_model() -> None:
    """Groups, deployments, breakers, profile and records' models: those that the key may ask for, peers' too."""
    backends = (
        "d1",
        "d2",
        "d1@b",
        "ring:demo",
        "ring:other",
        "auto:openai/gpt-4o",
        "auto:openai/o3",
        "auto:openai/gpt-4o@b",
    )
    rows = [{"backend": name} for name in backends]
    found = {
        "model_list": ["mine", "theirs"],
        "healthy_deployments": ["openai/a", "openai/b"],
        "breakers": rows,
        "profile": rows,
        "record_models": {"r": {"chat": "mine", "rerank": "theirs"}},
        "notes": ["theirs is not used"],
        "strategy": "latency",
    }
    deployments = [
        {"id": "d1", "model_name": "mine", "model": "openai/a"},
        {"id": "d2", "model_name": "theirs", "model": "openai/b"},
    ]
    caller = Principal("k", may_ask=lambda name: name in ("mine", "demo", "gpt-4o"))
    shown = visible.stats(found, deployments, caller)
    mine = ["d1", "d1@b", "ring:demo", "auto:openai/gpt-4o", "auto:openai/gpt-4o@b"]
    assert [row["backend"] for row in shown["breakers"]] == [row["backend"] for row in shown["profile"]] == mine
    assert "theirs" not in str(shown) and "openai/b" not in str(shown)
    assert (shown["model_list"], shown["record_models"], shown["strategy"]) == (
        ["mine"],
        {"r": {"chat": "mine"}},
        "latency",
    )
