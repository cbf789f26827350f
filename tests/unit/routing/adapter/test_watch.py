"""routing/adapter/watch.py: one timer for all waits of a stream."""

from __future__ import annotations

import asyncio

import pytest

from exo_node.routing.adapter.watch import Watch


async def wait(watch: Watch, event: asyncio.Event) -> str:
    watch.waits += 1
    watch.task = asyncio.current_task()
    try:
        await event.wait()
    except asyncio.CancelledError:
        if watch.expired():
            return "late"
        raise
    finally:
        watch.task = None
    return "there"


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_silence_ends_the_wait_and_nothing_else() -> None:
    """The waiting code hears of it, its task is not left cancelled; the watch can be set anew."""
    watch = Watch(now() + 60, 0.02)
    assert await wait(watch, asyncio.Event()) == "late"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    watch.stop()


async def test_the_end_counts_whatever_the_limit() -> None:
    """`until` holds with and without a limit for silence."""
    for limit in (None, 30.0):
        watch = Watch(now() + 0.02, limit)
        assert await wait(watch, asyncio.Event()) == "late"
        watch.stop()


async def test_news_and_busy_readers_are_not_silence() -> None:
    """Waits that end in time start the limit anew; so does time between waits."""
    watch = Watch(now() + 60, 0.2)
    for _ in range(8):
        there = asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, there.set)
        assert await wait(watch, there) == "there"
    await asyncio.sleep(0.3)  # the reader's own time, longer than the limit
    watch.stop()


async def test_others_cancellations_are_not_ours() -> None:
    """A client that leaves while the watch runs is a cancellation."""
    watch = Watch(now() + 60, 30.0)
    task = asyncio.ensure_future(wait(watch, asyncio.Event()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert watch.left > 50
    watch.stop()
