"""OpenAI's `service_tier` and the ring's priorities."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.api.tiers import TIER_OF, priority_of
from exo_node.types import Priority


@pytest.mark.parametrize(
    ("tier", "at_most", "wanted"),
    [
        ("flex", "high", "low"),
        ("flex", "low", "low"),
        ("priority", "high", "high"),
        ("priority", "normal", "normal"),
        ("priority", "low", "low"),
        ("default", "high", "normal"),
        ("scale", "normal", "normal"),
        (None, "high", "normal"),
        (None, "low", "low"),
        (["flex"], "high", "normal"),
    ],
)
def test_priorities(tier: Any, at_most: Priority, wanted: Priority) -> None:
    """flex is low, priority is high, all else normal; nobody gets more than is allowed."""
    assert priority_of(tier, at_most) == wanted


def test_tiers() -> None:
    """What an answer says that it had, asked for again, gives the same."""
    assert all(priority_of(tier, "high") == priority for priority, tier in TIER_OF.items())
