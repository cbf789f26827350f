"""The orders of the strategies by themselves."""

from __future__ import annotations

import random

import pytest

from exo_node.routing.health.profile import Profile
from exo_node.routing.plan import Ask, Candidate
from exo_node.routing.policy.options import predict
from exo_node.routing.policy.orders import EPSILON, order
from exo_node.routing.policy.strategies import MEANING

ASK = Ask(kind="chat", model="m", prompt_tokens=500, max_tokens=10, stream=True)
BACKENDS = [Candidate(backend=n, kind="deployment", provider="openai", model=n) for n in "abc"]


@pytest.mark.parametrize("strategy", sorted(MEANING))
def test_every_strategy_orders_everything_and_says_why(strategy: str) -> None:
    """No option is lost or doubled, also where there is only one, and there is a reason."""
    profile = Profile()
    for count in (1, 3):
        options = [predict(c, ASK, profile, 0.0, half_open=False) for c in BACKENDS[:count]]
        found = order(strategy, options, ASK, profile, 0.0, random.Random(1))
        assert sorted(o.candidate.backend for o in found.options) == ["a", "b", "c"][:count]
        assert found.reason


def test_chance_is_rare_and_never_far_off() -> None:
    """About one request in a hundred goes elsewhere, and not to a backend that is much slower."""
    profile = Profile()
    for i in range(60):
        for candidate, seconds in zip(BACKENDS, (0.4, 0.5, 2.0), strict=True):
            profile.observe_ttft(candidate, 500, seconds, i * 0.1)
    firsts = []
    for seed in range(3000):
        options = [predict(c, ASK, profile, 6.0, half_open=False) for c in BACKENDS]
        firsts.append(order("latency", options, ASK, profile, 6.0, random.Random(seed)).options[0].candidate.backend)
    assert 0 < firsts.count("b") < 3 * EPSILON * 3000
    assert "c" not in firsts
