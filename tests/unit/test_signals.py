"""signals.py: waiting for a change without losing one."""

from __future__ import annotations

import asyncio

from exo_node.signals import ChangeSignal


async def test_a_waiter_that_fell_behind_returns_at_once() -> None:
    """A change between two waits is not lost, and several changes are one."""
    signal = ChangeSignal()
    seen = signal.version
    signal.notify()
    signal.notify()
    assert await signal.wait(seen) == 2


async def test_all_waiters_wake() -> None:
    """One change wakes every waiter."""
    signal = ChangeSignal()
    waiters = [asyncio.create_task(signal.wait(0)) for _ in range(3)]
    await asyncio.sleep(0)
    signal.notify()
    assert await asyncio.gather(*waiters) == [1, 1, 1]
