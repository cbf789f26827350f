"""Tiers of one call; `test_registry.py` tests the rules through the registry."""

from __future__ import annotations

from exo_node.routing.call import Call
from exo_node.routing.catalog.equivalents import Equivalents
from exo_node.routing.catalog.names import LocalModel
from exo_node.routing.catalog.resolution import Resolver, backend_id
from exo_node.routing.catalog.tables import load_tables
from exo_node.routing.catalog.tiers import Tiers
from exo_node.routing.deployment import RoutingConfig

TABLES = load_tables()
EQUIVALENTS = Equivalents(TABLES)
DEMO = LocalModel(id="demo", loaded=True)
ENV = {"OPENAI_API_KEY": "k"}


def places(name: str, shipped: str, fallbacks: tuple[str, ...] = ()) -> list[tuple[str, int, bool]]:
    """(backend, tier, last resort) in order; `fallbacks` are the default ones."""
    resolver = Resolver(TABLES, EQUIVALENTS, (), (), (DEMO,), ENV, {}, None)
    config = RoutingConfig(default_fallbacks=fallbacks)
    tiers = Tiers(resolver, EQUIVALENTS, config, shipped=shipped, own="latency", local_default=None)
    call = Call(id="c", kind="chat", model=name, body={}, stream=False, deadline=0.0, prompt_tokens=1)
    return [(backend_id(one.backend), one.tier, one.last) for one in tiers.places(call, name, too_long=False)]


def test_tiers_are_numbered_without_gaps() -> None:
    """A tier that adds nothing takes no number, and the last resort is marked."""
    assert places("o1", "failover") == [
        ("auto:openai/o1", 0, False), ("auto:openai/o3", 1, False), ("auto:openai/o4-mini", 1, False),
        ("auto:openai/o3-mini", 1, False), ("ring:demo", 2, True),
    ]  # fmt: skip


def test_a_backend_stands_in_its_best_tier_only() -> None:
    """A fallback that is the asked model adds nothing; one that is the last resort is no longer that."""
    found = places("gpt-new", "failover", fallbacks=("openai/gpt-new", "demo"))
    assert found == [("auto:openai/gpt-new", 0, False), ("ring:demo", 1, False)]


def test_nobody_knows_it() -> None:
    """No places at all."""
    assert places("nobody", "latency", fallbacks=("demo",)) == []
