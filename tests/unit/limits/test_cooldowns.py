"""Backends that are left alone after failures, on a node without Redis."""

from __future__ import annotations

from exo_node.limits.cooldowns import Cooldowns, Cooling


def test_a_new_chance() -> None:
    """One that is forgotten may be asked at once; what was never marked is no matter."""
    cooldowns = Cooldowns(None, lambda: 0.0)
    cooldowns.mark("d", 10.0)
    cooldowns.forget("d")
    cooldowns.forget("e")
    assert (cooldowns.opened(), cooldowns.missed()) == ({}, [])


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
