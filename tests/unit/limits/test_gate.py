"""The gate of one node, without Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from exo_node.errors import BudgetExceeded, ModelNotAllowed, RateLimited
from exo_node.limits.admission import Admission, Rules
from exo_node.limits.api_keys import ApiKeys, KeyInfo
from exo_node.limits.budgets import Budget, Period, SubjectKind
from exo_node.limits.gate import Gate
from exo_node.limits.rates import Rate
from exo_node.limits.sums import LEARN_S
from exo_node.store import Store
from tests.limited import Place

NOON = 1795262400.0


@dataclass(frozen=True)
class Rule:
    subject: tuple[SubjectKind, str]
    limit: float
    period: Period = "month"


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def wall(self) -> float:
        return NOON + self.now


@dataclass
class Node:
    store: Store
    keys: ApiKeys
    gate: Gate
    clock: Clock = field(default_factory=Clock)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = make(tmp_path)
    yield made
    made.store.close()


def make(folder: Path, rules: Rules | None = None) -> Node:
    clock = Clock()
    store = Store(folder / "node.db")
    keys = ApiKeys(store)
    gate = Gate(node="a", keys=keys, sums=store, rules=rules, clock=clock, wall=clock.wall)
    return Node(store, keys, gate, clock)


async def outcome(gate: Gate, key: str = "", user: str = "", model: str = "m") -> Admission | Exception:
    try:
        return await gate.admit(key, user, model, 1)
    except RateLimited as e:
        return e


async def test_of_200_at_once_rpm_50_lets_50_through(node: Node) -> None:
    """The router's limit holds exactly for concurrent requests; the refused are told when to come again."""
    node.gate.rules = Rules(router=Rate(rpm=50))
    results = await asyncio.gather(*(outcome(node.gate) for _ in range(200)))
    assert len([one for one in results if isinstance(one, Admission)]) == 50
    refused = next(one for one in results if isinstance(one, RateLimited))
    assert (refused.status, refused.type, refused.retry_after) == (429, "rate_limit_error", 60.0)
    assert "50 requests per minute" in refused.message
    node.clock.now = 60.0
    assert isinstance(await outcome(node.gate), Admission)


async def test_each_scope_has_its_limit(node: Node) -> None:
    """Key, user, user of a key and model are limited each by itself, and the message names which."""
    info, _ = await node.keys.add(KeyInfo(id="", name="ci", rpm=4, user_rpm=3))
    node.gate.rules = Rules(models={"m": Rate(rpm=1)}, user=Rate(rpm=2))
    assert isinstance(await outcome(node.gate, info.id, "bob"), Admission)
    for model, user, words in (("m", "bob", "model 'm'"), ("n", "bob", ""), ("n", "bob", "this user"), ("n", "eve", ""),
                               ("n", "eve", ""), ("n", "joe", "API key 'ci'")):  # fmt: skip
        result = await outcome(node.gate, info.id, user, model)
        assert isinstance(result, RateLimited) == bool(words), (model, user)
        assert words in str(result)
    node.gate.rules = Rules()
    node.clock.now = 61.0
    for _ in range(3):
        assert isinstance(await outcome(node.gate, info.id, "bob"), Admission)
    assert "this user of API key 'ci'" in str(await outcome(node.gate, info.id, "bob"))


async def test_tokens_are_settled_to_real_use(node: Node) -> None:
    """What an answer did not use is given back, once; what alone is too large is refused for good."""
    node.gate.rules = Rules(router=Rate(tpm=100))
    first = await node.gate.admit("", "", "m", 10, max_tokens=5000)  # cut down to what the limit lets through at all
    with pytest.raises(RateLimited, match="100 tokens per minute") as caught:
        await node.gate.admit("", "", "m", 10)
    assert caught.value.retry_after == 60.0
    node.gate.settle(first, 30, 0.0)
    node.gate.settle(first, 0, 0.0)
    second = await node.gate.admit("", "", "m", 70)
    node.gate.release(second)
    assert await node.gate.admit("", "", "m", 70)
    with pytest.raises(RateLimited, match="asks for 101") as caught:
        await node.gate.admit("", "", "m", 101)
    assert caught.value.retry_after is None


async def test_a_key_may_ask_for_its_models_only(node: Node) -> None:
    """Another model is refused before anything is taken."""
    info, _ = await node.keys.add(KeyInfo(id="", models=("gpt-*",)))
    await node.gate.admit(info.id, "", "gpt-4o", 1)
    with pytest.raises(ModelNotAllowed):
        await node.gate.admit(info.id, "", "claude", 1)


async def test_budgets_refuse_before_and_settle_after(node: Node) -> None:
    """A key's budget counts what runs; the refusal names it; settling to the real cost makes room again."""
    info, _ = await node.keys.add(KeyInfo(id="", name="ci", budget=1.0, period="day"))
    running = await node.gate.admit(info.id, "", "m", 1, 0.7)
    with pytest.raises(BudgetExceeded, match=r"API key 'ci' is 1 USD per day: 0\.700000 USD") as caught:
        await node.gate.admit(info.id, "", "m", 1, 0.4)
    assert (caught.value.status, caught.value.type, caught.value.code) == (429, "insufficient_quota", "budget_exceeded")
    assert caught.value.retry_after == 12 * 3600
    node.gate.settle(running, 10, 0.5)
    node.gate.settle(await node.gate.admit(info.id, "", "m", 1, 0.5), 10, 0.6)  # dearer than predicted
    with pytest.raises(BudgetExceeded):
        await node.gate.admit(info.id, "", "m", 1)
    assert await node.gate.admit(info.id, "", "m", 1, 0.0)  # the ring costs nothing
    node.clock.now = 13 * 3600.0
    assert await node.gate.admit(info.id, "", "m", 1, 0.9)


async def test_two_budgets_for_the_same_money(tmp_path: Path) -> None:
    """Of several budgets of one subject and period the smallest holds, and what a call had reserved in them is free
    again when it ends, while others run."""
    user, all_users = Rule(("user", "bob"), 5.0), Rule(("user", "*"), 1.0)
    node = make(tmp_path, Rules(budgets=(user, all_users, Rule(("user", "bob"), 3.0))))
    running = await node.gate.admit("", "bob", "m", 1, 0.1)
    for _ in range(10):
        node.gate.settle(await node.gate.admit("", "bob", "m", 1, 0.3), 1, 0.0)
    with pytest.raises(BudgetExceeded, match=r"user 'bob' is 1 USD per month: 0\.100000 USD"):
        await node.gate.admit("", "bob", "m", 1, 1.0)
    node.gate.release(running)
    assert node.gate.used(Budget("user", "bob", 1.0, "month")) == 0.0
    node.store.close()


async def test_sums_survive_a_restart(tmp_path: Path) -> None:
    """What was spent before a restart, and what another node of this machine spent, counts."""
    rules = Rules(budgets=(Rule(("all", ""), 1.0), Rule(("user", "*"), 0.5)))
    first = make(tmp_path, rules)
    first.gate.settle(await first.gate.admit("", "bob", "m", 1, 0.4), 1, 0.4)
    await first.gate.close()
    await first.store.flush()
    second = make(tmp_path, rules)
    with pytest.raises(BudgetExceeded, match="user 'bob'"):
        await second.gate.admit("", "bob", "m", 1, 0.2)
    second.gate.settle(await second.gate.admit("", "eve", "m", 1, 0.5), 1, 0.5)
    await second.gate.close()
    first.store.close()
    second.store.close()
    third = make(tmp_path, rules)
    with pytest.raises(BudgetExceeded, match="this node is 1 USD per month"):
        await third.gate.admit("", "joe", "m", 1, 0.2)
    third.store.close()


async def test_what_was_spent_counts_once(tmp_path: Path) -> None:
    """This node's own sums come back from the store when the machine's other nodes' are read there: counted once."""
    node = make(tmp_path, Rules(budgets=(Rule(("all", ""), 1.0),)))
    for _ in range(2):
        node.gate.settle(await node.gate.admit("", "", "m", 1, 0.4), 1, 0.4)
        await node.gate.close()
        await node.store.flush()
        node.clock.now += LEARN_S + 1
    assert await node.gate.admit("", "", "m", 1, 0.1)
    assert node.gate.used(Budget("all", "", 1.0, "month")) == pytest.approx(0.9)
    node.store.close()


async def test_leases_of_deployments(node: Node) -> None:
    """A deployment's limits and its provider's budget refuse without an error; what is given back is free again."""
    gate = node.gate
    gate.rules = Rules(budgets=(Rule(("provider", "openai"), 1.0),))
    assert gate.room_in(Place("d", 2)) == 0.0
    first = await gate.acquire(Place("d", 2), 10)
    second = await gate.acquire(Place("d", 2), 10)
    assert first is not None and second is not None
    assert await gate.acquire(Place("d", 2), 10) is None
    assert gate.room_in(Place("d", 2)) == 60.0
    assert gate.room_in(Place("other", 2)) == 0.0
    second.release()
    assert gate.room_in(Place("d", 2)) == 0.0
    paid = await gate.acquire(Place("p", provider="openai"), 10, 0.9)
    assert paid is not None
    assert await gate.acquire(Place("p", provider="openai"), 10, 0.2) is None
    paid.settle(10, 1.0)
    assert gate.room_in(Place("q", provider="openai")) > 86400  # NOON is not in a month's last day
    assert gate.room_in(Place("q", provider="groq")) == 0.0
    assert gate.room_in(Place("q", provider="openai"), cost=0.0) == 0.0  # free: it breaks no budget
    assert await gate.acquire(Place("q", provider="openai"), 10, 0.0) is not None


async def test_without_limits_nothing_is_touched(node: Node) -> None:
    """A node with neither keys nor limits opens no database to let a request in."""
    await node.gate.admit("", "", "m", 1)
    assert not node.store.path.exists()
    assert node.gate.status() == {"redis": None, "shared": False}


async def test_a_key_has_so_many_requests_at_once(node: Node) -> None:
    """Settled and released ones make room; one that another limit refuses has taken none."""
    info, _ = await node.keys.add(KeyInfo(id="", name="two", concurrency=2, rpm=4))
    first, second = [await outcome(node.gate, info.id) for _ in range(2)]
    assert isinstance(first, Admission)
    assert isinstance(second, Admission)
    refused = await outcome(node.gate, info.id)
    assert isinstance(refused, RateLimited)
    assert refused.code == "concurrency_limit_exceeded"
    node.gate.settle(first, 5, 0.0)
    node.gate.settle(first, 5, 0.0)
    node.gate.release(second)
    third, fourth = [await outcome(node.gate, info.id) for _ in range(2)]
    assert isinstance(third, Admission)
    assert isinstance(fourth, Admission)
    node.gate.settle(third, 5, 0.0)
    fifth = await outcome(node.gate, info.id)  # four in this minute, of which one was given back
    assert isinstance(fifth, Admission)
    node.gate.settle(fifth, 5, 0.0)
    refused = await outcome(node.gate, info.id)
    assert isinstance(refused, RateLimited)
    assert refused.code == "requests_rate_limit_exceeded"
    assert node.gate._running.count(info.id) == 1
