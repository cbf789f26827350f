"""ring/reporting.py: reports of running work as a generator."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest

from exo_node.errors import NoCapacity
from exo_node.ring.reporting import reported


async def test_all_reports_come_and_then_the_failure() -> None:
    """Also those that were made just before the end."""

    async def work(report: Callable[[int], None]) -> None:
        report(1)
        await asyncio.sleep(0)
        report(2)
        raise NoCapacity("full")

    heard: list[int] = []
    with pytest.raises(NoCapacity):
        async for one in reported(work):
            heard.append(one)
    assert heard == [1, 2]


async def test_closing_it_ends_the_work() -> None:
    """The work is cancelled, and has ended when the close returns."""
    ended = asyncio.Event()

    async def work(report: Callable[[int], None]) -> None:
        try:
            report(1)
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with contextlib.aclosing(reported(work)) as updates:
        assert await anext(updates) == 1
    assert ended.is_set()


async def test_who_waits_for_a_report_leaves_nothing_behind() -> None:
    """A caller that is cancelled, which is what happens to one whose own caller goes away."""

    async def work(report: Callable[[int], None]) -> None:
        await asyncio.Event().wait()

    async def listen() -> None:
        async for _ in reported(work):
            pass

    before = asyncio.all_tasks()
    listening = asyncio.create_task(listen())
    await asyncio.sleep(0.01)
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
