"""routing/adapter/prober.py: over scripted backends with the real profile, breaker and policy, and a scripted clock."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from typing import Any

import pytest

from exo_node.errors import InvalidRequest
from exo_node.routing.adapter.parts import Parts
from exo_node.routing.adapter.ports import Gate, OpenGate
from exo_node.routing.adapter.prober import ASIDE_S, GAP_S, HOUR_S, IDLE_S, JITTER, TICK_S, Prober
from exo_node.routing.call import Call, CallRecord, Upstream
from exo_node.routing.deployment import Price
from exo_node.routing.health.breaker import Breaker
from exo_node.routing.health.profile import Profile
from exo_node.routing.health.retry_budget import RetryBudget
from exo_node.routing.plan import Candidate
from exo_node.routing.policy.policy import choose
from tests.unit.routing.adapter_parts import STOP, Item, Scripted, candidate, failure, usage

FREE = Price(0.0, 0.0)
ANSWER: Sequence[Item] = ("Hi", STOP, usage(8, 1))
RING, COLD = candidate("ring:demo"), candidate("ring:cold", cold_s=9.0)
OLLAMA = candidate("box:m", provider="ollama", price=FREE)
CLOUD = candidate("cloud:m", price=Price(100.0, 200.0))  # a probe costs 0.001
PROBE_USD = 0.001


class NoRoom(OpenGate):
    async def acquire(self, candidate: Candidate, tokens: int, cost: float | None) -> bool:
        return False


class World:
    """A node with these backends; `COLD` is the ring that is not loaded, servers of Ollama need no key."""

    def __init__(self, allowed: Any, *listed: Candidate, gate: Gate | None = None, **options: Any) -> None:
        self.now, self.idle = 1000.0, True
        self.listed = list(listed)
        self.scripts: dict[str, list[Sequence[Item]]] = {}
        self.backends: dict[str, Scripted] = {}
        self.records: list[CallRecord] = []
        self.naps: list[float] = []
        self.rested = asyncio.Event()
        self.profile, self.breaker = Profile(), Breaker()
        self.parts = Parts(
            sources=self, choose=choose, profile=self.profile, breaker=self.breaker, retries=RetryBudget(),
            gate=gate or OpenGate(), sinks=(self.hear,), clock=lambda: self.now, rng=random.Random(1),
        )  # fmt: skip
        self.prober = Prober(
            self.parts, allowed, candidates=lambda: self.listed, loaded=lambda one: one is not COLD,
            keyless=lambda one: one.provider == "ollama", idle=lambda: self.idle, sleep=self.sleep, **options,
        )  # fmt: skip

    def hear(self, record: CallRecord) -> None:
        self.records.append(record)

    async def candidates(self, call: Call) -> list[Candidate]:
        return self.listed

    def upstream(self, candidate: Candidate) -> Upstream:
        return self.backend(candidate)

    def backend(self, one: Candidate) -> Scripted:
        if one.backend not in self.backends:
            self.backends[one.backend] = Scripted(one.backend, self.scripts.get(one.backend, [ANSWER]))
        return self.backends[one.backend]

    async def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds
        if len(self.naps) > 20:
            self.rested.set()
            await asyncio.Event().wait()

    async def tick(self, after: float = IDLE_S) -> str:
        """One look, `after` seconds later: the backend that was asked."""
        self.now += after
        asked = await self.prober.tick()
        return "" if asked is None else asked.backend

    async def during(self, seconds: float) -> list[tuple[float, str]]:
        """Who was asked when, looking every `TICK_S`."""
        begun, found = self.now, []
        while self.now < begun + seconds:
            if asked := await self.tick(TICK_S):
                found.append((self.now - begun, asked))
        return found


async def test_a_probe_is_one_token_and_an_attempt_like_any_other() -> None:
    """The backend gets one short streamed chat request; profile and breaker hear of the answer; it costs nothing, so
    no record is made."""
    world = World("local", RING)
    assert await world.tick() == "ring:demo"
    (attempt,) = world.backend(RING).attempts
    assert (attempt.call.kind, attempt.call.model, attempt.call.stream) == ("chat", "demo", True)
    assert (attempt.call.body["max_tokens"], attempt.call.max_tokens) == (1, 1)
    assert attempt.call.caller.key_id == "probe"
    assert world.profile.known(RING, world.now) > 0
    assert world.profile.in_flight("ring:demo") == 0
    assert world.breaker.snapshot(world.now)[0]["state"] == "closed"
    assert world.backend(RING).closed == 1
    assert world.records == []


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [("off", set()), ("local", {"ring:demo", "box:m"}), ("all", {"ring:demo", "box:m", "cloud:m", "cloud@b:m"})],
)
async def test_only_what_is_allowed_is_asked(allowed: str, expected: set[str]) -> None:
    """Never a ring that is not loaded, a backend that is ruled out or full, or one whose price nobody knows; by default
    nothing that could cost money or is another node's."""
    listed = (
        RING, COLD, OLLAMA, CLOUD,
        candidate("unknown:m", price=None),
        candidate("gone:m", provider="ollama", price=FREE, rejected="no key"),
        candidate("full:m", provider="ollama", price=FREE, room=False),
        candidate("cloud@b:m", kind="peer", price=Price(1.0, 1.0), node_id="b"),
    )  # fmt: skip
    world = World(allowed, *listed)
    asked = {await world.tick(GAP_S[1]) for _ in range(12)}
    assert asked - {""} == expected
    assert set(world.backends) == expected


async def test_keyless_but_not_free_and_free_but_not_keyless_are_not_local() -> None:
    """`local` wants both: no key and a price of 0."""
    proxy = candidate("proxy:m", provider="ollama", price=Price(1.0, 0.0))
    hosted = candidate("hosted:m", price=FREE)
    world = World("local", proxy, hosted)
    assert [await world.tick() for _ in range(3)] == ["", "", ""]


async def test_nothing_is_asked_while_the_node_works_or_just_has() -> None:
    """The idle time counts from the last request, and from the last moment that anything was in flight."""
    world = World("local", RING)
    assert await world.tick(IDLE_S - 1) == ""
    world.prober.requested()
    assert await world.tick(IDLE_S - 1) == ""
    world.idle = False
    assert await world.tick(60) == ""
    world.idle = True
    assert await world.tick(IDLE_S - 1) == ""
    assert await world.tick(1) == "ring:demo"


async def test_a_backend_at_work_is_not_asked() -> None:
    """Something in flight at the backend is a measurement already."""
    world = World("local", RING)
    world.profile.started("ring:demo", world.now)
    assert await world.tick() == ""
    world.profile.ended("ring:demo")
    assert await world.tick() == "ring:demo"


async def test_well_known_backends_are_left_alone_until_their_estimates_are_old() -> None:
    """Ten samples are enough for some minutes."""
    world = World("local", RING)
    for _ in range(10):
        world.profile.observe_ttft(RING, 10, 0.3, world.now)
    assert await world.during(300) == []
    assert (await world.during(900))[0][1] == "ring:demo"


async def test_gaps_grow_while_nothing_changes_and_a_request_makes_them_short_again() -> None:
    """Every gap is about twice the one before, up to ten minutes; never in step."""
    world = World("local", OLLAMA)
    world.scripts = {"box:m": [(failure("refused"),)]}
    times = [when for when, _ in await world.during(3 * 3600)]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert gaps[1] > 1.2 * gaps[0] and max(gaps) <= GAP_S[1] * JITTER[1] + TICK_S
    assert gaps[-1] >= GAP_S[1] * JITTER[0] and len({round(gap) for gap in gaps[-4:]}) > 1
    world.prober.requested()
    assert (await world.during(60))[0][0] <= IDLE_S + TICK_S


async def test_new_backends_are_looked_at_at_once() -> None:
    """A change of what there is ends a long gap."""
    world = World("local", RING)
    for _ in range(30):
        world.profile.observe_ttft(RING, 10, 0.3, world.now)
    await world.during(500)
    world.listed.append(OLLAMA)
    assert await world.tick(TICK_S) == "box:m"


async def test_a_broken_backend_is_found_to_be_well_again() -> None:
    """Not before the breaker lets it be tried; a good answer closes the breaker without a real request."""
    world = World("local", OLLAMA)
    world.breaker.failed(OLLAMA, failure("rate_limited", retry_after=40.0), world.now)
    assert await world.tick(30) == ""
    assert await world.tick(30) == "box:m"
    assert world.breaker.state("box:m", world.now) == ("closed", 0.0)


async def test_a_failed_trial_opens_the_breaker_for_longer() -> None:
    """A failure is told to profile and breaker as an attempt's."""
    world = World("local", OLLAMA)
    world.scripts = {"box:m": [(failure("refused"),)]}
    world.breaker.failed(OLLAMA, failure("rate_limited"), world.now)
    assert await world.tick(30) == "box:m"
    state, left = world.breaker.state("box:m", world.now)
    assert state == "open" and left == pytest.approx(10.0)
    assert world.profile.known(OLLAMA, world.now) > 0


@pytest.mark.parametrize("script", [("Hi",), ("Hi", failure("reset"))])
async def test_an_answer_that_breaks_off_is_a_failure(script: Sequence[Item]) -> None:
    """Whether the stream ends early or says so."""
    world = World("local", OLLAMA)
    world.scripts = {"box:m": [script]}
    assert await world.tick() == "box:m"
    assert world.breaker.snapshot(world.now)[0]["fails_in_row"] == 1


async def test_a_failure_after_the_end_is_none() -> None:
    """The answer was complete: what breaks while the usage report is awaited does not count."""
    world = World("local", OLLAMA)
    world.scripts = {"box:m": [("Hi", STOP, failure("reset"))]}
    await world.tick()
    assert world.breaker.snapshot(world.now)[0]["fails_in_row"] == 0


@pytest.mark.parametrize(
    "error",
    [failure("bad_request"), failure("unavailable", code="unsupported_parameter"), InvalidRequest("no max_tokens")],
)
async def test_who_cannot_answer_a_probe_is_left_alone(error: Exception) -> None:
    """A refusal of the request says nothing of the backend's health, and is not provoked again for an hour."""
    world = World("local", OLLAMA)
    world.scripts = {"box:m": [(error,)]}
    assert await world.tick() == "box:m"
    assert world.breaker.state("box:m", world.now) == ("closed", 0.0)
    assert await world.during(ASIDE_S - 100) == []
    assert len(await world.during(GAP_S[1] * 2)) == 1


async def test_a_real_request_ends_the_probe_at_once() -> None:
    """The backend's stream is closed, nothing is held against it, its half-open trial is free again."""
    world = World("local", OLLAMA)
    world.scripts = {"box:m": [(asyncio.Event(),), ANSWER]}
    world.breaker.failed(OLLAMA, failure("rate_limited"), world.now)
    ticking = asyncio.create_task(world.tick(30))
    await world.backend(OLLAMA).asked.wait()
    assert world.breaker.state("box:m", world.now)[0] == "open"  # its trial is on its way
    assert await world.tick(0) == ""  # never two at once
    world.prober.requested()
    assert await ticking == "box:m"
    assert (world.backend(OLLAMA).closed, world.profile.in_flight("box:m")) == (1, 0)
    assert world.breaker.state("box:m", world.now)[0] == "half_open"
    assert world.profile.known(OLLAMA, world.now) == 0
    assert await world.tick(IDLE_S - 1) == ""
    assert await world.tick(1) == "box:m"
    assert world.breaker.state("box:m", world.now)[0] == "closed"


async def test_what_costs_money_is_told_and_capped() -> None:
    """Paid probes are in the spend log under the key "probe"; no more than the cap in any hour."""
    world = World("all", CLOUD, spend_cap=3.5 * PROBE_USD)
    world.scripts = {"cloud:m": [ANSWER, (failure("timeout"),)]}
    times = [when for when, _ in await world.during(2 * HOUR_S)]
    assert [record.caller.key_id for record in world.records] == ["probe"] * len(world.records)
    first = world.records[0]
    assert (first.kind, first.backend, first.status, first.stream) == ("chat", "cloud:m", 200, True)
    assert first.cost == pytest.approx(PROBE_USD)
    assert first.ttft_s is not None
    assert {record.status for record in world.records[1:]} == {504}  # a timeout may have been billed
    assert len(times) > 3
    for start in times:
        spent = sum(r.cost for t, r in zip(times, world.records, strict=True) if start <= t < start + HOUR_S)
        assert spent <= 3.5 * PROBE_USD


async def test_a_cancelled_paid_probe_is_told_too() -> None:
    """The provider may bill the prompt."""
    world = World("all", CLOUD)
    world.scripts = {"cloud:m": [(asyncio.Event(),)]}
    ticking = asyncio.create_task(world.tick())
    await world.backend(CLOUD).asked.wait()
    world.prober.requested()
    await ticking
    (record,) = world.records
    assert (record.status, record.usage_estimated) == (499, True)
    assert record.cost == pytest.approx(8 * 100 / 1e6)


async def test_no_room_in_the_limits_means_no_probe() -> None:
    """Nothing is sent, nothing is held against the backend."""
    world = World("local", OLLAMA, gate=NoRoom())
    await world.tick()
    assert (world.backends, world.breaker.snapshot(world.now), world.records) == ({}, [], [])


async def test_the_task_runs_until_cancelled_and_takes_its_probe_along() -> None:
    """`off` ends at once; cancelling the owner's task closes a probe that runs."""
    await World("off", RING).prober.run()
    world = World("local", RING)
    task = asyncio.create_task(world.prober.run())
    await world.rested.wait()
    assert len(world.backend(RING).attempts) >= 3
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    hanging = World("local", RING)
    hanging.scripts = {"ring:demo": [(asyncio.Event(),)]}
    task = asyncio.create_task(hanging.prober.run())
    await hanging.backend(RING).asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (hanging.backend(RING).closed, hanging.profile.in_flight("ring:demo")) == (1, 0)
