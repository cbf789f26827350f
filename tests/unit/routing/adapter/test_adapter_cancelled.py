"""routing/adapter: calls over backends that answer, fail and dawdle by chance, and clients that go at any step."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import pytest

from exo_node.errors import InvalidRequest
from exo_node.routing.adapter.parts import Options
from exo_node.routing.call import Attempt, Batch, Reply, UpstreamError
from exo_node.routing.plan import Candidate
from tests.unit.routing.adapter_parts import ROLE, STOP, Item, Scripted, World, call, failure, hear, usage, world

CAUSES = ("server", "reset", "eof", "timeout", "bad_request", "auth", "malformed")


@dataclass
class Counting:
    """A gate that knows what was taken and not settled."""

    dice: random.Random
    taken: int = 0

    async def acquire(self, candidate: Candidate, tokens: int, cost: float | None) -> bool:
        if self.dice.random() < 0.05:
            return False
        if self.dice.random() < 0.3:
            await asyncio.sleep(0)
        self.taken += 1
        return True

    def why_full(self, candidate: Candidate, tokens: int, cost: float) -> tuple[str, float | None]:
        return "", None

    def settle(self, candidate: Candidate, reserved: int, used: int, cost: float) -> None:
        self.taken -= 1


@dataclass
class Dawdling(Scripted):
    """Takes its time between events, and to leave."""

    dice: random.Random | None = None

    async def stream(self, attempt: Attempt) -> AsyncGenerator[Batch, None]:
        events = super().stream(attempt)
        try:
            async for batch in events:
                await self._dawdle()
                yield batch
        finally:
            try:
                await self._dawdle()
            finally:
                await events.aclose()

    async def _dawdle(self) -> None:
        assert self.dice is not None
        for _ in range(self.dice.randint(0, 3)):
            await asyncio.sleep(0)


def script(dice: random.Random) -> tuple[Item, ...]:
    items: list[Item] = [ROLE]
    for _ in range(dice.randint(0, 4)):
        items.append(dice.choice(("one ", "two ", "three ")))
        if dice.random() < 0.12:
            cause: Any = dice.choice(CAUSES)
            items.append(failure(cause) if dice.random() < 0.8 else InvalidRequest("no"))
    if dice.random() < 0.8:
        items += [STOP, usage(10, 3)]
    return tuple(items) if dice.random() < 0.9 else (failure("refused"),)


def chance(dice: random.Random) -> World:
    mode: Any = dice.choice(("same-model", "any", "off"))
    scripts = [[script(dice) for _ in range(4)] for _ in range(3)]
    made = world(
        ("a", *scripts[0]),
        ("b", *scripts[1]),
        ("ring:c", *scripts[2]),
        options=Options(hedge=dice.random() < 0.6, continuation=mode),
        hedge_after_s=dice.choice((0.0, 0.0, None)),
        cascade=dice.random() < 0.25,
        gate=Counting(dice),
    )
    made.backends = {name: Dawdling(name, one.scripts, dice=dice) for name, one in made.backends.items()}
    for _ in range(100):
        made.adapter._parts.hedges.request(1.0)
    return made


@pytest.mark.parametrize("seed", range(400))
async def test_nothing_stays_open_and_nothing_is_told_twice(seed: int) -> None:
    """However an answer ends: every attempt is settled, one record is told, and who stays to its end has one reason."""
    dice = random.Random(seed)
    one = chance(dice)
    stream = dice.random() < 0.75

    async def client() -> None:
        reply: Reply = await one.adapter.serve(call(stream, max_tokens=dice.choice((None, 3, 50))))
        if reply.frames is not None:
            heard = await hear(reply)
            assert len(heard.reasons) == 1
            assert (heard.text, 200) == (one.records[0].text, one.records[0].status)

    task = asyncio.ensure_future(client())
    if dice.random() < 0.7:
        for _ in range(dice.randint(1, 60)):
            await asyncio.sleep(0)
        task.cancel()
    ended = (await asyncio.gather(task, return_exceptions=True))[0]
    assert ended is None or isinstance(ended, UpstreamError | InvalidRequest | asyncio.CancelledError), ended
    assert isinstance(one.gate, Counting)
    assert (one.gate.taken, one.adapter.in_flight, len(one.records)) == (0, 0, 1)
    assert not any(one.profile.in_flight(name) for name in one.backends)
    assert all(backend.closed == len(backend.attempts) for backend in one.backends.values())
