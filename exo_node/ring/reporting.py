"""Work that reports while it runs, as an asynchronous generator of its reports."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

from exo_node.errors import ExoError

P = TypeVar("P")


async def reported(work: Callable[[Callable[[P], None]], Coroutine[Any, Any, None]]) -> AsyncGenerator[P, None]:
    """Run `work(report)` and yield what it reports; raises what it raises. Closing the generator cancels it and waits
    until it has ended."""
    reports: asyncio.Queue[P] = asyncio.Queue()
    task = asyncio.create_task(work(reports.put_nowait))
    try:
        while not task.done() or not reports.empty():
            getting = asyncio.ensure_future(reports.get())
            try:
                await asyncio.wait((task, getting), return_when=asyncio.FIRST_COMPLETED)
            finally:
                getting.cancel()
            if getting.done():
                yield getting.result()
        task.result()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ExoError):
            await task
