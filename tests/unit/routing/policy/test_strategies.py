"""Names of strategies."""

from __future__ import annotations

import pytest

from exo_node.routing.policy.strategies import ALIASES, MEANING, resolve


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("latency", "latency"), ("latency-based", "latency"), ("latency-based-routing", "latency"),
        ("cost", "cost"), ("least-cost", "cost"), ("cost-based-routing", "cost"), ("cost_optimized", "cost"),
        ("least-busy", "least-busy"), ("simple-shuffle", "simple-shuffle"),
        ("priority", "priority"), ("order", "priority"), ("priority/order", "priority"), ("local-first", "local-first"),
        ("cloud-first", "cloud-first"), ("heuristic", "heuristic"), ("hybrid", "hybrid"), ("cascade", "cascade"),
        ("usage-based-routing", "usage-based-routing"), ("usage-based-routing-v2", "usage-based-routing"),
        ("provider-budget-routing", "provider-budget-routing"), (" Latency_Based ", "latency"),
    ],
)  # fmt: skip
def test_every_name_of_the_documents_and_of_litellm(name: str, meaning: str) -> None:
    """Each has one meaning; case, blanks and underscores do not matter."""
    assert resolve(name) == meaning


def test_aliases_lead_to_strategies() -> None:
    """No alias points at another alias or at nothing."""
    assert set(ALIASES.values()) <= set(MEANING)
    assert not set(ALIASES) & set(MEANING)


def test_lar1_is_refused_with_its_reason() -> None:
    """LiteLLM's lar1 is not done, and the message says why."""
    with pytest.raises(ValueError, match="lar1 asks an outside service"):
        resolve("lar1")


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    """A slip is answered with the name that was meant, nonsense with the list."""
    with pytest.raises(ValueError, match="did you mean 'latency'"):
        resolve("latncy")
    with pytest.raises(ValueError, match="known: latency, cost"):
        resolve("qqq")
    with pytest.raises(ValueError, match="known: latency, cost"):
        resolve("fast")
