"""What calls take from the limits before they are served, and what they give back."""

from __future__ import annotations

from pathlib import Path

import pytest

from exo_node.errors import BudgetExceeded, ModelNotAllowed, RateLimited
from exo_node.limits.admission import Rules
from exo_node.limits.api_keys import ApiKeys, KeyInfo
from exo_node.limits.gate import Gate
from exo_node.limits.rates import Rate
from exo_node.routing.admissions import Admissions
from exo_node.routing.call import CallRecord, Wishes
from exo_node.routing.catalog.pricing import FREE, Priced
from exo_node.routing.deployment import BudgetRule, Price
from exo_node.store import Store
from exo_node.types import Usage
from tests.unit.routing.cache_samples import make_call


def record(cost: float) -> CallRecord:
    call = make_call()
    return CallRecord(id=call.id, kind="chat", model="gpt", served_model="m", backend="d", provider="p", stream=False,
                      caller=call.caller, started=0.0, usage=Usage(1, 1), cost=cost)  # fmt: skip


async def test_taken_settled_and_given_back(tmp_path: Path) -> None:
    """A failed call gives its place back, a served one keeps it; a refusal is counted by its code."""
    store = Store(tmp_path / "s.db")
    gate = Gate(node="a", keys=ApiKeys(store), sums=store, rules=Rules(router=Rate(rpm=1)))
    refused: list[str] = []
    admissions = Admissions(gate, lambda _: False, lambda _: None, refused.append)
    await admissions.admit(make_call())
    admissions.forget("c")
    await admissions.admit(make_call())
    admissions.settled(record(0.0))
    admissions.forget("c")  # settled already
    with pytest.raises(RateLimited):
        await admissions.admit(make_call())
    assert len(refused) == 1
    store.close()


async def test_budgets_reckon_with_the_models_price(tmp_path: Path) -> None:
    """What the answer may cost at most is refused before; what it did cost is spent."""
    store = Store(tmp_path / "s.db")
    rules = Rules(budgets=(BudgetRule(subject=("all", ""), limit=1.0),))
    gate = Gate(node="a", keys=ApiKeys(store), sums=store, rules=rules)
    price = Priced(Price(input=0.0, output=1e6), "configured")  # a dollar a token
    admissions = Admissions(gate, lambda _: False, lambda _: price, lambda _: None)
    with pytest.raises(BudgetExceeded):
        await admissions.admit(make_call())
    gate.rules = Rules(budgets=(BudgetRule(subject=("all", ""), limit=5000.0),))
    await admissions.admit(make_call())
    admissions.settled(record(4999.9))
    with pytest.raises(BudgetExceeded):
        await admissions.admit(make_call())
    store.close()


async def test_a_free_model_needs_no_money(tmp_path: Path) -> None:
    """It is let in when nothing is left of a budget, and the call says so; while some is left it does not."""
    store = Store(tmp_path / "s.db")
    rules = Rules(budgets=(BudgetRule(subject=("all", ""), limit=1.0, period="day"),))
    gate = Gate(node="a", keys=ApiKeys(store), sums=store, rules=rules)
    refused: list[str] = []
    admissions = Admissions(gate, lambda _: False, lambda _: Priced(FREE, "local"), refused.append)
    assert (await admissions.admit(make_call())).broke_for_s is None
    admissions.settled(record(1.0))
    broke_for_s = (await admissions.admit(make_call())).broke_for_s
    assert broke_for_s is not None and 0 < broke_for_s <= 86400
    assert refused == []
    store.close()


async def test_a_keys_models_hold_for_wished_fallbacks(tmp_path: Path) -> None:
    """A key gets a model that it may not ask for neither as its own fallback nor by naming a provider."""
    store = Store(tmp_path / "s.db")
    keys = ApiKeys(store)
    info, _ = await keys.add(KeyInfo(id="", models=("gpt", "text-*")))
    admissions = Admissions(Gate(node="a", keys=keys, sums=store), lambda _: False, lambda _: None, lambda _: None)
    admissions.check_models(make_call(key=info.id, wishes=Wishes(fallbacks=("text-a",))))
    wishes = (Wishes(fallbacks=("demo",)), Wishes(provider="openai"))
    for wrong in (make_call(key=info.id, model="demo"), *(make_call(key=info.id, wishes=one) for one in wishes)):
        with pytest.raises(ModelNotAllowed):
            admissions.check_models(wrong)
    store.close()
