"""What peers are told of deployments comes back as deployments; lists are tested in `test_registry.py`."""

from __future__ import annotations

import math

from exo_node.routing.catalog.listing import SWITCHED_OFF, of_peer, price_row, providers
from exo_node.routing.catalog.pricing import Priced
from exo_node.routing.catalog.tables import load_tables
from exo_node.routing.deployment import Price
from exo_node.types import SharedDeployment


def test_a_peers_deployment() -> None:
    """Unknown price and context stay unknown, never zero."""
    told = SharedDeployment(id="a", model_name="m", litellm_model="openai/x", provider="openai", upstream_model="x")
    one = of_peer(told, "b")
    assert (one.node_id, one.price, one.context, one.capabilities, one.params) == ("b", None, None, None, {})
    priced = SharedDeployment(
        id="a", model_name="m", litellm_model="openai/x", provider="openai", upstream_model="x", context=9,
        price_input=1.0, price_output=2.0, price_cached=0.5, price_per_request=0.1, price_per_image=0.04,
        capabilities=("tools",), timeout_s=math.nan, stream_timeout_s=0.0,
    )  # fmt: skip
    one = of_peer(priced, "b")
    assert (one.timeout_s, one.stream_timeout_s) == (None, None)
    assert (one.price, one.context, one.capabilities) == (Price(1.0, 2.0, 0.1, 0.5, 0.04), 9, frozenset({"tools"}))


def test_a_price_says_its_unit() -> None:
    """Per million tokens, and whose price it is."""
    assert price_row(None) is None
    assert price_row(Priced(Price(2.5, 10), "shipped")) == {
        "input": 2.5, "output": 10, "per_request": 0.0, "unit": "USD per million tokens", "source": "shipped",
    }  # fmt: skip


def test_switched_off_is_not_configured() -> None:
    """With --no-enable-litellm no provider is configured, whatever key is there, and the row says why."""
    env, tables = {"OPENAI_API_KEY": "sk-planted"}, load_tables()
    (on,) = [row for row in providers((), env, tables, ()) if row["id"] == "openai"]
    assert (on["key"], on["configured"], on["reason"]) == ("present", True, None)
    off = providers((), env, tables, (), enabled=False)
    assert {(row["configured"], row["reason"]) for row in off} == {(False, SWITCHED_OFF)}
