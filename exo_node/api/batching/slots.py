"""How many requests of batches may be under way: few, and fewer while clients wait for answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

LIMIT = 2  # at once on this node
BESIDE_OTHERS = 1  # while clients wait; the ring shares its steps evenly among its sequences and knows no priorities
POLL_S = 0.05


class Slots:
    """Enter it for the time of one request; who came first enters first. `in_flight()` counts everybody's requests."""

    def __init__(self, in_flight: Callable[[], int]) -> None:
        self._in_flight = in_flight
        self._taken = 0
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> None:
        async with self._turn:
            # Polled: clients' requests come and go in a place that knows nothing of batches.
            while self._taken >= room(self._in_flight() - self._taken):  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
            self._taken += 1

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._taken -= 1


def room(others: int) -> int:
    """How many may be under way beside so many requests of clients."""
    return BESIDE_OTHERS if others > 0 else LIMIT
