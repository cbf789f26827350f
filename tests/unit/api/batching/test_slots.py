"""How many requests of batches run at once."""

from __future__ import annotations

import asyncio

import pytest

from exo_node.api.batching import slots
from exo_node.api.batching.slots import Slots, room


@pytest.mark.parametrize(("others", "wanted"), [(0, 2), (1, 1), (9, 1), (-1, 2)])
def test_room(others: int, wanted: int) -> None:
    """Two at once; one while clients wait."""
    assert room(others) == wanted


async def test_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits for a client's request to end, the third for one of a batch's."""
    monkeypatch.setattr(slots, "POLL_S", 0.001)
    clients, inside, hold = 1, 0, asyncio.Event()

    def in_flight() -> int:
        return clients + inside

    gate = Slots(in_flight)
    entered = [asyncio.Event() for _ in range(3)]

    async def request(mine: asyncio.Event) -> None:
        nonlocal inside
        async with gate:
            inside += 1
            mine.set()
            await hold.wait()
            inside -= 1

    tasks = [asyncio.create_task(request(mine)) for mine in entered]
    await entered[0].wait()
    assert not entered[1].is_set()
    clients = 0
    await entered[1].wait()
    assert not entered[2].is_set()
    hold.set()
    await asyncio.gather(*tasks)
    assert entered[2].is_set()
