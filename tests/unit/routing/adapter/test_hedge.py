"""routing/adapter/hedge.py: the budget and the race."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from exo_node.routing.adapter.hedge import HedgeBudget, race
from tests.unit.routing.adapter_parts import failure


def test_at_most_a_twentieth_of_requests_and_money() -> None:
    """1000 requests of one cent allow 50 hedges of one cent, and a few for the start."""
    budget = HedgeBudget()
    hedges = 0
    for _ in range(1000):
        budget.request(0.01)
        hedges += budget.take(0.01)
    assert 45 <= hedges <= 51
    assert not HedgeBudget().take(0.01), "no money has come in yet"
    free = HedgeBudget()
    assert free.take(0.0)
    assert not free.take(0.0)


class Runner:
    """Answers after an event; counts what is cancelled and discarded."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []
        self.discarded: list[str] = []

    async def run(self, name: str, event: asyncio.Event | None = None, error: Exception | None = None) -> str:
        try:
            if event is not None:
                await event.wait()
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        if error is not None:
            raise error
        return name

    async def discard(self, name: str) -> None:
        self.discarded.append(name)


async def test_a_first_in_time_runs_alone() -> None:
    """Nothing else starts, also when it fails."""
    one = Runner()

    def never() -> Any:
        raise AssertionError

    assert await race(one.run("a"), never, 5.0, one.discard) == "a"
    with pytest.raises(Exception, match="server"):
        await race(one.run("a", error=failure("server")), never, 5.0, one.discard)


async def test_the_quicker_wins_and_the_other_is_cancelled() -> None:
    """Whoever answers first, and none when the second may not start."""
    one = Runner()
    assert await race(one.run("a", asyncio.Event()), lambda: one.run("b"), 0.0, one.discard) == "b"
    assert one.cancelled == ["a"]
    event = asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, event.set)
    assert await race(one.run("a", event), lambda: None, 0.0, one.discard) == "a"


async def test_two_answers_at_once_leave_one_to_discard() -> None:
    """The one that was not taken is settled."""
    one, event = Runner(), asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, event.set)
    assert await race(one.run("a", event), lambda: one.run("b", event), 0.0, one.discard) == "a"
    assert one.discarded == ["b"]


async def test_a_winner_that_nobody_takes_is_discarded() -> None:
    """The client goes while the loser is on its way out: neither answer is left open."""
    one, closing = Runner(), asyncio.Event()

    async def slow_to_leave() -> str:
        try:
            return await one.run("a", asyncio.Event())
        except asyncio.CancelledError:
            closing.set()
            await asyncio.sleep(0.01)
            raise

    racing = asyncio.ensure_future(race(slow_to_leave(), lambda: one.run("b"), 0.0, one.discard))
    await closing.wait()
    racing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await racing
    assert one.discarded == ["b"]


@pytest.mark.parametrize("steps", range(12))
async def test_no_result_is_left_open_whenever_the_client_goes(steps: int) -> None:
    """Two that answer at once: what is not the race's result is discarded, at whichever step it is cancelled."""
    one, event = Runner(), asyncio.Event()
    made: list[str] = []

    async def run(name: str) -> str:
        found = await one.run(name, event)
        made.append(name)
        return found

    racing = asyncio.ensure_future(race(run("a"), lambda: run("b"), 0.0, one.discard))
    for step in range(20):
        await asyncio.sleep(0)
        if step == 6:
            event.set()
        if step == 6 + steps:
            racing.cancel()
    result = await asyncio.gather(racing, return_exceptions=True)
    assert sorted([*one.discarded, *(name for name in result if isinstance(name, str))]) == made


async def test_one_failure_waits_for_the_other() -> None:
    """A hedge that fails does not end the first, nor the other way round; two failures raise."""
    one, event = Runner(), asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, event.set)
    won = await race(one.run("a", event), lambda: one.run("b", error=failure("auth")), 0.0, one.discard)
    assert won == "a"
    failing = asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, failing.set)
    with pytest.raises(Exception, match="reset"):
        await race(
            one.run("a", failing, failure("reset")), lambda: one.run("b", error=failure("auth")), 0.0, one.discard
        )


async def test_leaving_cancels_both() -> None:
    """Cancelling the race leaves nothing behind."""
    one = Runner()
    task = asyncio.ensure_future(
        race(one.run("a", asyncio.Event()), lambda: one.run("b", asyncio.Event()), 0.0, one.discard)
    )
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(one.cancelled) == ["a", "b"]
