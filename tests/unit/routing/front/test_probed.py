"""Whom the prober may ask."""

from __future__ import annotations

from exo_node.routing.front.probed import Probed
from tests.unit.routing.catalog_world import COLD, DEMO, World, dep


def test_what_can_be_probed() -> None:
    """Deployments and loaded models of the ring, first tiers only; what is loaded and what needs no key is told."""
    world = World(
        local=(DEMO, COLD),
        deployments=(
            dep("paid", "openai/gpt-4o", id="paid"),
            dep("free", "ollama/x", id="free", params={"api_key": ""}),
        ),
    )
    probed = Probed(world.registry(), lambda: world.local)
    found = {one.backend: one for one in probed.candidates()}
    assert found.keys() == {"paid", "free", "ring:demo"}
    assert [probed.is_loaded(found[name]) for name in ("ring:demo", "paid")] == [True, False]
    assert [probed.is_keyless(found[name]) for name in ("free", "paid", "ring:demo")] == [True, False, False]
