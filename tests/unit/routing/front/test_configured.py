"""What a front makes of a configuration."""

from __future__ import annotations

from exo_node.routing.deployment import RedisConfig, RoutingConfig
from exo_node.routing.front.configured import rules_of, shared_redis


def test_the_shared_redis() -> None:
    """Every part of its configuration counts."""
    redis = RedisConfig("h", 1, "pw", 2, username="u", tls=True, ca_file="/ca.pem")
    made = shared_redis(RoutingConfig(redis=redis))
    assert made is not None and made.address == "rediss://h:1/2"
    assert shared_redis(RoutingConfig()) is None


def test_rules() -> None:
    """The router's own rates and the budgets go to the gate."""
    found = rules_of(RoutingConfig(rpm=7, tpm=8))
    assert (found.router.rpm, found.router.tpm, found.budgets) == (7, 8, ())
