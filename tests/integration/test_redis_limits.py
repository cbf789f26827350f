"""Limits, budgets, cooldowns and cached answers that several nodes share through a real Redis, which comes and goes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from exo_node.errors import BudgetExceeded, RateLimited
from exo_node.limits.admission import Admission, Rules
from exo_node.limits.api_keys import ApiKeys
from exo_node.limits.budgets import Period, SubjectKind
from exo_node.limits.gate import Gate
from exo_node.limits.rates import Rate
from exo_node.limits.redis import LOOK_S, SharedRedis
from exo_node.store import Store
from tests.integration.redis_server import PASSWORD, Server, needs_redis, until
from tests.limited import Place
from tests.standins.hazards import self_signed_file

pytestmark = needs_redis

PATIENT_S = 20.0  # for what is to be exact on a machine that has other work; what is to be quick uses the default


@dataclass(frozen=True)
class Rule:
    subject: tuple[SubjectKind, str]
    limit: float
    period: Period = "month"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[Server, None]:
    server = Server(tmp_path)
    await server.start()
    yield server
    await server.kill()


@asynccontextmanager
async def gates(
    server: Server, folder: Path, rules: Rules, count: int = 3, timeout_s: float = PATIENT_S, look_s: float = LOOK_S
) -> AsyncGenerator[list[Gate], None]:
    """Nodes on machines of their own (a store each) that share `server`."""
    made, stores = [], []
    for index in range(count):
        stores.append(Store(folder / f"machine-{index}.db"))
        redis = SharedRedis("127.0.0.1", server.port, password=PASSWORD, timeout_s=timeout_s, look_s=look_s)
        made.append(Gate(node=f"n{index}", keys=ApiKeys(stores[-1]), sums=stores[-1], rules=rules, redis=redis))
        await made[-1].start()
    yield made
    for gate in made:
        await gate.close()
    for store in stores:
        store.close()


async def passed(gates: list[Gate], count: int, user: str = "") -> int:
    """How many of `count` concurrent requests, spread over the nodes, are let in."""

    async def one(gate: Gate) -> bool:
        try:
            await gate.admit("", user, "m", 1)
        except RateLimited as e:
            assert e.retry_after is not None and 0 < e.retry_after <= 60
            return False
        return True

    return sum(await asyncio.gather(*(one(gates[index % len(gates)]) for index in range(count))))


async def test_three_nodes_let_exactly_50_of_200_through(server: Server, tmp_path: Path) -> None:
    """At rpm 50, of 200 concurrent requests on three nodes exactly 50 pass, of 200 more none, and none was local."""
    async with gates(server, tmp_path, Rules(router=Rate(rpm=50))) as nodes:
        assert await passed(nodes, 200) == 50
        assert await passed(nodes, 200) == 0
        assert all(node.status()["redis"]["state"] == "up" for node in nodes)


async def test_tokens_are_shared_and_settled(server: Server, tmp_path: Path) -> None:
    """Tokens that one node reserves are not there for another, until it settles to what was really used."""
    async with gates(server, tmp_path, Rules(router=Rate(tpm=100)), 2) as (one, other):
        first = await one.admit("", "", "m", 80)
        with pytest.raises(RateLimited, match="100 tokens"):
            await other.admit("", "", "m", 30)
        with pytest.raises(RateLimited, match="asks for 101"):
            await other.admit("", "", "m", 101)
        one.settle(first, 10, 0.0)
        assert one.redis is not None
        await one.redis.call(["spent", []])  # behind the settlement
        second = await other.admit("", "", "m", 90)
        other.release(second)
        assert other.redis is not None
        await other.redis.call(["spent", []])
        assert await one.admit("", "", "m", 90)


async def test_deployments_share_their_limit(server: Server, tmp_path: Path) -> None:
    """A deployment's rpm holds over all nodes; a node that was refused knows without asking that there is no room."""
    async with gates(server, tmp_path, Rules(), 2) as (one, other):
        leases = await asyncio.gather(*(gate.acquire(Place("d", 3), 5) for gate in (one, other) * 4))
        assert len([lease for lease in leases if lease is not None]) == 3
        assert one.room_in(Place("d", 3)) > 0 and other.room_in(Place("d", 3)) > 0
        assert one.room_in(Place("e", 3)) == 0.0


async def test_budgets_are_shared_and_survive_an_emptied_redis(server: Server, tmp_path: Path) -> None:
    """What one node reserves or spends another may not spend; after a Redis that forgot everything that still holds."""
    rules = Rules(budgets=(Rule(("all", ""), 1.0), Rule(("user", "*"), 0.8, "day")))
    async with gates(server, tmp_path, rules, 2) as (one, other):
        running = await one.admit("", "bob", "m", 1, 0.7)
        with pytest.raises(BudgetExceeded, match="user 'bob'"):
            await other.admit("", "bob", "m", 1, 0.2)
        with pytest.raises(BudgetExceeded, match="1 USD per month"):
            await other.admit("", "eve", "m", 1, 0.4)
        one.settle(running, 5, 0.75)
        assert one.redis is not None and other.redis is not None
        await one.redis.call(["spent", []])
        with pytest.raises(BudgetExceeded, match=r"0\.750000 USD"):
            await other.admit("", "eve", "m", 1, 0.3)
        await server.kill()
        await until(lambda: not _is_up(one, other))
        await server.start()
        await until(lambda: _all_up(one, other))
        with pytest.raises(BudgetExceeded, match=r"0\.750000 USD"):
            await other.admit("", "eve", "m", 1, 0.3)


async def test_two_budgets_for_the_same_money(server: Server, tmp_path: Path) -> None:
    """What a call had reserved in two budgets of one subject and period is free again when it ends."""
    rules = Rules(budgets=(Rule(("user", "bob"), 5.0), Rule(("user", "*"), 1.0)))
    async with gates(server, tmp_path, rules, 2) as (one, other):
        for _ in range(10):
            one.settle(await one.admit("", "bob", "m", 1, 0.3), 1, 0.0)
        assert one.redis is not None
        await one.redis.call(["spent", []])
        with pytest.raises(BudgetExceeded, match=r"user 'bob' is 1 USD per month: 0\.000000 USD"):
            await other.admit("", "bob", "m", 1, 1.1)
        assert await other.admit("", "bob", "m", 1, 1.0)


async def test_a_redis_that_was_emptied_is_told_again(server: Server, tmp_path: Path) -> None:
    """A Redis that has lost everything between two requests decides none of a node's before it knows again what that
    node has spent and let in; those that are not asked tell it by themselves."""
    rules = Rules(router=Rate(rpm=5), budgets=(Rule(("all", ""), 1.0),))
    async with gates(server, tmp_path, rules, look_s=0.2) as (one, other, idle):
        for gate in (one, other, idle):
            gate.settle(await gate.admit("", "", "m", 1, 0.2), 1, 0.2)
        idle.mark_open("openai/1", 30.0)
        assert idle.redis is not None
        await idle.redis.call(["spent", []])
        await server.flush()
        with pytest.raises(BudgetExceeded, match=r"0\.[246]00000 USD"):
            await one.admit("", "", "m", 1, 0.9)
        await until(lambda: "openai/1" in one.opened())
        with pytest.raises(BudgetExceeded, match=r"0\.600000 USD"):
            await other.admit("", "", "m", 1, 0.5)
        assert await passed([one, other], 5) == 2
        assert _all_up(one, other, idle)


async def test_an_idle_node_tells_a_redis_that_started_anew(server: Server, tmp_path: Path) -> None:
    """What a node has spent counts for the others after a new start of Redis, though nobody asks that node anything."""
    async with gates(server, tmp_path, Rules(budgets=(Rule(("all", ""), 1.0),)), 2, look_s=0.2) as (idle, other):
        idle.settle(await idle.admit("", "", "m", 1, 0.8), 1, 0.8)
        await server.kill()
        await server.start()
        await until(lambda: not _all_up(idle, other))
        await until(lambda: _all_up(idle, other))
        with pytest.raises(BudgetExceeded, match=r"0\.800000 USD"):
            await other.admit("", "", "m", 1, 0.3)


async def test_what_others_have_spent_counts_while_redis_is_away(server: Server, tmp_path: Path) -> None:
    """A node that cannot ask Redis goes on from what all had spent when it last could, not from its own part."""
    rules = Rules(budgets=(Rule(("all", ""), 1.0),))
    async with gates(server, tmp_path, rules, 2) as (one, other):
        one.settle(await one.admit("", "", "m", 1, 0.5), 1, 0.5)
        other.settle(await other.admit("", "", "m", 1, 0.2), 1, 0.2)
        one.settle(await one.admit("", "", "m", 1, 0.1), 1, 0.1)
        await server.kill()
        await until(lambda: not _is_up(one) and not _is_up(other))
        with pytest.raises(BudgetExceeded, match=r"0\.800000 USD"):
            await one.admit("", "", "m", 1, 0.3)
        with pytest.raises(BudgetExceeded, match=r"0\.700000 USD"):  # 0.5 and its own
            await other.admit("", "", "m", 1, 0.4)
        other.settle(await other.admit("", "", "m", 1, 0.2), 1, 0.3)
        with pytest.raises(BudgetExceeded, match=r"1\.000000 USD"):
            await other.admit("", "", "m", 1)


async def test_a_node_that_starts_tells_what_its_machine_has_spent(server: Server, tmp_path: Path) -> None:
    """What a machine has spent in earlier starts is known to all from its node's start on, before anybody asks it."""
    rules = Rules(budgets=(Rule(("all", ""), 1.0),))
    async with gates(server, tmp_path, rules, 1) as (earlier,):
        earlier.settle(await earlier.admit("", "", "m", 1, 0.8), 1, 0.8)
    await server.flush()
    async with gates(server, tmp_path, rules, 2) as (_, other):
        with pytest.raises(BudgetExceeded, match=r"0\.800000 USD"):
            await other.admit("", "", "m", 1, 0.3)


async def test_what_ended_while_redis_was_away_holds_no_money(server: Server, tmp_path: Path) -> None:
    """A Redis that comes back with all that it knew is told of the calls that ended meanwhile: what they had reserved
    is there for others, and not only after an hour."""
    rules = Rules(budgets=(Rule(("all", ""), 1.0),))
    async with gates(server, tmp_path, rules, 2, timeout_s=3.0) as (one, other):
        settled, released = [await one.admit("", "", "m", 1, 0.4) for _ in range(2)]
        with pytest.raises(BudgetExceeded):
            await other.admit("", "", "m", 1, 0.3)
        server.pause()
        one.settle(settled, 5, 0.1)  # told, and lost
        await until(lambda: not _is_up(one))
        one.release(released)
        server.resume()
        await until(lambda: _all_up(one, other))
        assert await other.admit("", "", "m", 1, 0.9)
        assert _all_up(other)


def _all_up(*nodes: Gate) -> bool:
    return all(node.status()["shared"] for node in nodes)


def _is_up(*nodes: Gate) -> bool:
    """Ask, so that an absence is noticed."""
    for node in nodes:
        node.mark_open("probe", 0.001)
    return any(node.status()["shared"] for node in nodes)


async def test_redis_goes_away_and_comes_back(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Killed in between: said once, each node limits by itself with what it let in before; then all share again."""
    caplog.set_level(logging.INFO, "exo.limits")
    async with gates(server, tmp_path, Rules(router=Rate(rpm=50))) as nodes:
        assert await passed(nodes, 30) == 30  # 10 each
        await server.kill()
        assert await passed(nodes[:1], 100) == 40  # this node knows its own ten
        assert await passed(nodes[:1], 10) == 0
        state = nodes[0].status()["redis"]
        assert state["state"].startswith("away") and state["error"] and PASSWORD not in str(state)
        await until(lambda: not _is_up(*nodes))
        assert await passed(nodes[1:2], 25) == 25
        await server.start()
        await until(lambda: _all_up(*nodes))
        # Redis was empty and has been told: 50 + 35 + 10 are in the window.
        assert await passed(nodes, 20) == 0
    assert len([r for r in caplog.records if "is away" in r.message]) == 3
    assert len([r for r in caplog.records if "is back" in r.message]) == 3
    assert PASSWORD not in caplog.text


async def test_a_redis_that_hangs_costs_a_request_little(server: Server, tmp_path: Path) -> None:
    """Where something accepts and never answers, a request is decided without it, and later ones at once."""

    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(silence, "127.0.0.1", 0)
    store = Store(tmp_path / "s.db")
    redis = SharedRedis("127.0.0.1", silent.sockets[0].getsockname()[1])
    gate = Gate(node="n", keys=ApiKeys(store), sums=store, rules=Rules(router=Rate(rpm=3)), redis=redis)
    begun = time.monotonic()
    assert await passed([gate], 5) == 3
    first = time.monotonic() - begun
    await until(lambda: not redis.up)
    asked = redis._queue
    assert await passed([gate], 100) == 0
    assert not asked  # nobody was put in a queue
    assert first < 5.0  # 0.25 s, and room for a machine with other work
    await gate.close()
    store.close()
    silent.close()


async def test_a_busy_node_is_not_redis_gone(server: Server) -> None:
    """An answer that came in time is taken, though this node got to it late."""
    redis = SharedRedis("127.0.0.1", server.port, password=PASSWORD, timeout_s=0.1)
    await redis.start()
    asked = asyncio.create_task(redis.call(["cool", "b", 1_000_000]))
    while not asked.done():
        time.sleep(0.06)  # noqa: ASYNC251 : as everything else does that a busy node has to do
        await asyncio.sleep(0)
    assert asked.result() is not None
    assert redis.up
    await redis.close()


async def test_cooldowns_and_answers_are_shared(server: Server, tmp_path: Path) -> None:
    """A backend that one node leaves alone is left alone by the other; a value stored by one is read by the other."""
    async with gates(server, tmp_path, Rules(router=Rate(rpm=100)), 2) as (one, other):
        one.mark_open("openai/1", 30.0)
        assert one.redis is not None and other.redis is not None
        await one.redis.call(["spent", []])
        assert isinstance(await other.admit("", "", "m", 1), Admission)
        assert isinstance(await one.admit("", "", "m", 1), Admission)
        mine, theirs = one.opened()["openai/1"], other.opened()["openai/1"]
        assert (25 < mine.left_s <= 30, 25 < theirs.left_s <= 30) == (True, True)
        assert (mine.elsewhere, theirs.elsewhere) == (False, True)
        one.mark_closed("openai/1")
        await one.redis.call(["spent", []])
        assert isinstance(await other.admit("", "", "m", 1), Admission)
        assert (one.opened(), other.opened()) == ({}, {})
        await one.redis.put("k", b"\x00value", 60.0)
        assert await other.redis.get("k") == b"\x00value"
        await one.redis.put("gone", b"x", 0.001)
        await asyncio.sleep(0.01)
        assert await other.redis.get("gone") is None
        await server.kill()
        await other.redis.put("k", b"new", 60.0)
        assert await other.redis.get("k") is None


async def test_many_answers_at_once_leave_the_limits_shared(server: Server, tmp_path: Path) -> None:
    """Two hundred requests that look for their answers take no connection from the limits, and all are served."""
    async with gates(server, tmp_path, Rules(router=Rate(rpm=50))) as made:
        shared = [gate.redis for gate in made if gate.redis is not None]
        await shared[0].put("k", b"value", 60.0)
        reads = [shared[index % 3].get("k") for index in range(600)]
        values, let_in = await asyncio.gather(asyncio.gather(*reads), passed(made, 200))
        assert set(values) == {b"value"}
        assert (let_in, [one.up for one in shared]) == (50, [True] * 3)


async def test_a_wrong_password_is_said(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A Redis that does not let us in counts as away; the reason is logged without the password."""
    redis = SharedRedis("127.0.0.1", server.port, password="wrong-password", timeout_s=PATIENT_S)
    await redis.start()
    assert not redis.up
    assert "password" in caplog.text and "wrong-password" not in caplog.text
    await redis.close()


async def test_tls(tmp_path: Path) -> None:
    """Over TLS Redis is used where its certificate is trusted, and is away, with the reason, where it is not."""
    chain = self_signed_file(tmp_path)
    server = Server(tmp_path, chain)
    await server.start()
    for trusted, state in ((str(chain), "up"), (None, "away: limits hold for each node by itself")):
        redis = SharedRedis("127.0.0.1", server.port, password=PASSWORD, tls=True, ca_file=trusted, timeout_s=PATIENT_S)
        await redis.start()
        status = redis.status()
        assert (status["state"], status["address"]) == (state, f"rediss://127.0.0.1:{server.port}/0")
        assert ("certificate" in status["error"].lower()) == (trusted is None)
        await redis.put("k", b"v", 60)
        assert await redis.get("k") == (b"v" if trusted else None)
        await redis.close()
    await server.kill()
