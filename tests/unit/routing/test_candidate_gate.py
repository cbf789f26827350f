"""The limits' gate as the adapter asks it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from exo_node.limits.admission import Rules
from exo_node.limits.api_keys import ApiKeys
from exo_node.limits.gate import Gate
from exo_node.routing.candidate_gate import CandidateGate
from exo_node.routing.catalog.equivalents import Equivalents
from exo_node.routing.catalog.resolution import Resolver
from exo_node.routing.deployment import BudgetRule, Deployment, Price
from exo_node.routing.plan import Candidate
from exo_node.store import Store
from tests.unit.routing.catalog_world import TABLES


async def test_candidates_take_from_their_deployment(tmp_path: Path) -> None:
    """A deployment's rpm holds per call and its tpm is settled; rings and peers are not limited here."""
    deployment = Deployment(id="d", model_name="m", litellm_model="openai/m", provider="openai", upstream_model="m",
                            rpm=3, tpm=100)  # fmt: skip
    store = Store(tmp_path / "s.db")
    gate = CandidateGate(Gate(node="a", keys=ApiKeys(store), sums=store), {"d": deployment}.get)
    ring = Candidate(backend="ring:m", kind="ring", provider="exo", model="m")
    one = Candidate(backend="d", kind="deployment", provider="openai", model="m")
    assert await gate.acquire(ring, 10**6, 0.0)
    gate.settle(ring, 10**6, 5, 0.0)
    assert await gate.acquire(one, 5000, 0.0)  # more than fits at all is cut down
    assert not await gate.acquire(one, 1, 0.0)
    why, wait_s = gate.why_full(one, 1, 0.0)
    assert (why.partition(";")[0], 59 < (wait_s or 0) <= 60) == ("d allows 100 tokens per minute", True)
    assert gate.why_full(ring, 1, 0.0)[1] is None
    gate.settle(one, 5000, 10, 0.0)
    assert gate.why_full(one, 1, 0.0)[1] is None
    assert await gate.acquire(one, 40, 0.0) and await gate.acquire(one, 50, 0.0)
    gate.settle(one, 50, 0, 0.0)
    gate.settle(one, 40, 0, 0.0)
    assert not await gate.acquire(one, 1, 0.0)
    store.close()


async def test_no_more_at_once_than_a_deployment_takes(tmp_path: Path) -> None:
    """`max_parallel_requests` holds whatever asks at the same time; one that ends makes room for one."""
    deployment = Deployment(id="d", model_name="m", litellm_model="openai/m", provider="openai", upstream_model="m",
                            capacity=2, rpm=4)  # fmt: skip
    store = Store(tmp_path / "s.db")
    gate = CandidateGate(Gate(node="a", keys=ApiKeys(store), sums=store), {"d": deployment}.get)
    one = Candidate(backend="d", kind="deployment", provider="openai", model="m")
    assert sum(await asyncio.gather(*(gate.acquire(one, 5, 0.0) for _ in range(9)))) == 2
    assert "max_parallel_requests: 2" in gate.why_full(one, 5, 0.0)[0]
    for _ in range(2):
        gate.settle(one, 5, 5, 0.0)
        assert await gate.acquire(one, 5, 0.0) and not await gate.acquire(one, 5, 0.0)
    gate.settle(one, 5, 5, 0.0)
    assert not await gate.acquire(one, 5, 0.0)  # the rpm is used up, which takes no place
    gate.settle(one, 5, 5, 0.0)
    store.close()


async def test_a_deployments_own_budget(tmp_path: Path) -> None:
    """`max_budget` of a deployment counts what runs and what was spent, over restarts too, and no other's calls."""
    mine, other = [
        Deployment(id=name, model_name="m", litellm_model="openai/m", provider="openai", upstream_model="m",
                   max_budget=budget, budget_period="day")
        for name, budget in (("d", 1.0), ("e", None))
    ]  # fmt: skip
    store = Store(tmp_path / "s.db")
    limits = Gate(node="a", keys=ApiKeys(store), sums=store)
    gate = CandidateGate(limits, {"d": mine, "e": other}.get)
    one, two = [Candidate(backend=name, kind="deployment", provider="openai", model="m") for name in ("d", "e")]
    assert await gate.acquire(one, 5, 0.7)
    assert not await gate.acquire(one, 6, 0.4)
    assert (gate.why_full(one, 6, 0.4)[1] or 0) > 1  # some is left, for a cheaper one
    gate.settle(one, 5, 5, 0.6)
    assert await gate.acquire(one, 6, 0.4)
    gate.settle(one, 6, 5, 0.4)
    why, wait_s = gate.why_full(one, 1, 0.1)
    assert (why, 0 < (wait_s or 0) <= 86400) == ("its budget has no room for it", True)
    assert await gate.acquire(two, 5, 5.0)
    gate.settle(two, 5, 5, 5.0)
    await limits.close()
    await store.flush()
    again = CandidateGate(Gate(node="a", keys=ApiKeys(store), sums=store), {"d": mine}.get)
    assert not await again.acquire(one, 5, 0.1)
    store.close()


async def test_a_wildcards_limits_hold_for_all_its_names(tmp_path: Path) -> None:
    """Its rpm and its places are shared by every model that it is asked for, as in LiteLLM."""
    pattern = Deployment(id="openai/*", model_name="openai/*", litellm_model="openai/*", provider="openai",
                         upstream_model="*", rpm=3, capacity=2)  # fmt: skip
    resolver = Resolver(TABLES, Equivalents(TABLES), (pattern,), (), (), {}, {}, None)
    store = Store(tmp_path / "s.db")
    gate = CandidateGate(Gate(node="a", keys=ApiKeys(store), sums=store), resolver.of_wildcard)
    one, two, three = (
        Candidate(backend=f"openai/m{i}", kind="deployment", provider="openai", model=f"m{i}") for i in range(3)
    )
    assert await gate.acquire(one, 5, 0.0) and await gate.acquire(two, 5, 0.0)
    assert not await gate.acquire(three, 5, 0.0)  # both places are taken
    gate.settle(one, 5, 5, 0.0)
    assert await gate.acquire(three, 5, 0.0)
    gate.settle(two, 5, 5, 0.0)
    assert not await gate.acquire(two, 5, 0.0)  # the rpm is used up
    gate.settle(three, 5, 5, 0.0)
    store.close()


async def test_what_is_free_is_asked_though_the_providers_budget_is_spent(tmp_path: Path) -> None:
    """A price of 0 breaks no budget; a price that nobody knows may."""
    deployment = Deployment(id="d", model_name="m", litellm_model="openai/m", provider="openai", upstream_model="m")
    rules = Rules(budgets=(BudgetRule(subject=("provider", "openai"), limit=1.0, period="month"),))
    store = Store(tmp_path / "s.db")
    limits = Gate(node="a", keys=ApiKeys(store), sums=store, rules=rules)
    gate = CandidateGate(limits, {"d": deployment}.get)
    unknown = Candidate(backend="d", kind="deployment", provider="openai", model="m")
    free = replace(unknown, price=Price(0.0, 0.0))
    assert await gate.acquire(unknown, 1, None)
    gate.settle(unknown, 1, 1, 1.0)
    assert not await gate.acquire(unknown, 1, None)
    assert (gate.why_full(unknown, 1, None)[1] or 0) > 0
    assert await gate.acquire(free, 1, 0.0)
    gate.settle(free, 1, 1, 0.0)
    store.close()
