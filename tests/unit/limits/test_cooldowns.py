"""Backends that are left alone after failures, on a node without Redis."""

from __future__ import annotations

from typing import Any, cast

import pytest

from exo_node.limits.cooldowns import Cooldowns, Cooling


def test_cooldowns_end() -> None:
    """A backend that was marked is listed as this node's with the seconds left, until they are over."""
    now = [0.0]
    cooldowns = Cooldowns(None, lambda: now[0])
    cooldowns.mark("d", 10.0)
    now[0] = 4.0
    assert cooldowns.opened() == {"d": Cooling(6.0, elsewhere=False)}
    assert cooldowns.missed() == [["cool", "d", 6_000_000]]
    now[0] = 10.0
    assert cooldowns.opened() == {}
    assert cooldowns.missed() == []


class Told:
    """A Redis that only listens."""

    def __init__(self) -> None:
        self.operations: list[Any] = []

    def tell(self, operation: Any) -> None:
        self.operations.append(operation)

    def opened(self) -> dict[str, float]:
        return {}


@pytest.mark.parametrize("redis", [None, Told()])
def test_what_is_forgotten_is_not_left_alone(redis: Told | None) -> None:
    """Neither here nor, as soon as Redis has heard it, at the nodes that share it; what was never marked is no
    matter."""
    cooldowns = Cooldowns(cast(Any, redis), lambda: 0.0)
    cooldowns.mark("d", 10.0)
    cooldowns.forget("d")
    assert (cooldowns.opened(), cooldowns.missed()) == ({}, [])
    if redis is not None:
        assert redis.operations == [["cool", "d", 10_000_000], ["cool", "d", 0]]
    cooldowns.forget("e")
