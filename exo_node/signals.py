"""A change that several tasks may wait for. Imports nothing of ours, so every room may use it."""

from __future__ import annotations

import asyncio


class ChangeSignal:
    """Counts changes; waiters that fell behind see one change, not a queue of them. For one event loop."""

    def __init__(self) -> None:
        self.version = 0
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Something changed: wake every waiter."""
        self.version += 1
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self, seen: int) -> int:
        """Return the version as soon as it differs from `seen`."""
        while self.version == seen:
            await self._event.wait()
        return self.version
