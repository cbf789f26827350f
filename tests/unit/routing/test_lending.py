"""This node's deployments in its peers' hands: within its limits, and once only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exo_node.limits.admission import Rules
from exo_node.limits.api_keys import ApiKeys
from exo_node.limits.gate import Gate
from exo_node.routing.call import UpstreamError
from exo_node.routing.candidate_gate import CandidateGate
from exo_node.routing.deployment import BudgetRule, Deployment, Price
from exo_node.routing.lending import Lender
from exo_node.routing.policy.options import EXPECTED_OUTPUT
from exo_node.store import Store
from tests.unit.routing.cache_samples import make_call


async def test_lending(tmp_path: Path) -> None:
    """A lent deployment counts against its rpm; another node's is not lent on."""
    mine = Deployment(id="d", model_name="m", litellm_model="openai/m", provider="openai", upstream_model="m", rpm=1)
    other = Deployment(id="o", model_name="m", litellm_model="openai/m", provider="openai", upstream_model="m",
                       node_id="far")  # fmt: skip
    known = {"d": mine, "o": other}
    store = Store(tmp_path / "s.db")
    gate = CandidateGate(Gate(node="a", keys=ApiKeys(store), sums=store), known.get)
    upstream: Any = object()
    lender = Lender(gate, known.__getitem__, lambda _: upstream, lambda _: Price(1.0, 2.0))
    lent = await lender.lend("d", make_call())
    assert lent.upstream is upstream
    lent.settle(3, 4, 0)
    for name, cause in (("d", "rate_limited"), ("o", "unavailable")):
        with pytest.raises(UpstreamError) as error:
            await lender.lend(name, make_call())
        assert error.value.cause == cause
    store.close()


def of_one_dollar(store: Store, price: Price) -> Lender:
    """Of the deployment "d", whose provider has that budget."""
    mine = Deployment(id="d", model_name="m", litellm_model="openai/m", provider="openai", upstream_model="m")
    rules = Rules(budgets=(BudgetRule(subject=("provider", "openai"), limit=1.0),))
    gate = CandidateGate(Gate(node="a", keys=ApiKeys(store), sums=store, rules=rules), {"d": mine}.get)
    upstream: Any = object()
    return Lender(gate, {"d": mine}.__getitem__, lambda _: upstream, lambda _: price)


async def test_what_was_not_used_is_given_back(tmp_path: Path) -> None:
    """A provider that refused costs its budget nothing, not even the price of a request."""
    store = Store(tmp_path / "s.db")
    lender = of_one_dollar(store, Price(1.0, 2.0, per_request=0.6))
    (await lender.lend("d", make_call())).unused()
    lent = await lender.lend("d", make_call())
    lent.settle(3, 4, 0)
    with pytest.raises(UpstreamError):
        await lender.lend("d", make_call())
    store.close()


async def test_all_answers_of_a_call_are_paid_for(tmp_path: Path) -> None:
    """Money is kept free for as many as the peer's client wants."""
    store = Store(tmp_path / "s.db")
    lender = of_one_dollar(store, Price(0.0, 0.4e6 / EXPECTED_OUTPUT))
    with pytest.raises(UpstreamError):
        await lender.lend("d", make_call(n=3))
    (await lender.lend("d", make_call(n=2))).unused()
    store.close()
