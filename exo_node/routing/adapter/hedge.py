"""A second backend beside a late first one: how often that may be (budget), and the race between the two.

After Dean and Barroso, "The Tail at Scale" (2013): asking again after the 95th percentile costs little traffic.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from exo_node.errors import ExoError

T = TypeVar("T")

SHARE = 0.05  # hedges per request, and hedges' predicted cost per predicted cost
BURST = 3.0  # hedges that may come at once after quiet times


class HedgeBudget:
    """At most `SHARE` of the requests, and of their money, go into hedges."""

    def __init__(self) -> None:
        self._hedges = 1.0
        self._money = 0.0
        self._largest = 0.0

    def request(self, cost: float) -> None:
        """A request of predicted `cost` USD came."""
        self._hedges = min(BURST, self._hedges + SHARE)
        self._largest = max(self._largest, cost)
        self._money = min(BURST * self._largest, self._money + SHARE * cost)

    def take(self, cost: float) -> bool:
        """Whether a hedge of predicted `cost` may start now."""
        if self._hedges < 1.0 - 1e-9 or cost > self._money + 1e-12:
            return False
        self._hedges -= 1.0
        self._money -= cost
        return True


async def race(
    first: Coroutine[Any, Any, T],
    second: Callable[[], Coroutine[Any, Any, T] | None],
    after_s: float,
    discard: Callable[[T], Awaitable[None]],
) -> T:
    """The first result of `first` and, when that is not there after `after_s`, of `second()` as well.

    The other is cancelled and awaited; if it had a result too, that is given to `discard`. When both fail the last
    error is raised; when `first` fails before `after_s`, its error is, and nothing else starts.
    """
    tasks = [asyncio.ensure_future(first)]
    winner: asyncio.Task[T] | None = None
    try:
        await asyncio.wait(tasks, timeout=after_s)
        if not tasks[0].done() and (other := second()) is not None:
            tasks.append(asyncio.ensure_future(other))
        pending = set(tasks)
        while True:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task in done and not task.cancelled() and task.exception() is None:
                    winner = task
                    return task.result()
            for task in done:
                failure = task.exception()
                if failure is not None and (not pending or not isinstance(failure, ExoError)):
                    raise failure
    finally:
        try:
            await _let_go([task for task in tasks if task is not winner], discard)
        except asyncio.CancelledError:  # nobody is there any more to take the winner's
            if winner is not None:
                await discard(winner.result())
            raise


async def _let_go(tasks: Sequence[asyncio.Task[T]], discard: Callable[[T], Awaitable[None]]) -> None:
    """End them, and discard the results of those that have one. Whoever cancels us meanwhile has it raised after that:
    what is not discarded would count as running for ever."""
    cancelled: asyncio.CancelledError | None = None
    for task in tasks:
        task.cancel()
    while pending := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
    for task in tasks:
        if not task.cancelled() and task.exception() is None:
            try:
                await discard(task.result())
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled
