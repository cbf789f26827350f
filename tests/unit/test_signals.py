"""A change that several tasks wait for."""

from __future__ import annotations

import asyncio

from exo_node.signals import ChangeSignal


async def test_every_waiter_wakes_once_per_change() -> None:
    """All waiters wake; one that fell behind sees one change; one that is up to date waits."""
    signal = ChangeSignal()
    waiting = [asyncio.create_task(signal.wait(0)) for _ in range(3)]
    await asyncio.sleep(0)
    signal.notify()
    signal.notify()
    assert await asyncio.gather(*waiting) == [2, 2, 2]
    assert await signal.wait(1) == 2
    late = asyncio.create_task(signal.wait(2))
    await asyncio.sleep(0.01)
    assert not late.done()
    signal.notify()
    assert await late == 3
