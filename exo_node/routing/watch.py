"""One timer for all the waits of a stream, re-armed only when it fires: `asyncio.timeout` per event would cost more
than relaying the event does."""

from __future__ import annotations

import asyncio


class Watch:
    """Cancels the task that waits too long; the waiting code then asks `expired()` whether that was us.

    A wait may last `limit_s` (None: as long as it likes) and never beyond `until` (on the event loop's clock). Time
    between `end` and `begin`, when the reader is busy, counts for neither.
    """

    __slots__ = ("_cancelling", "_fired", "_handle", "_limit", "_loop", "_since", "_task", "_until")

    def __init__(self, until: float, limit_s: float | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._until, self._limit = until, limit_s
        self._since = self._loop.time()
        self._task: asyncio.Task[object] | None = None
        self._fired = False
        self._cancelling = 0
        self._handle = self._loop.call_at(self._due(), self._fire)

    def begin(self) -> None:
        """The current task starts to wait."""
        self._since = self._loop.time()
        self._task = asyncio.current_task()

    def end(self) -> None:
        self._task = None

    def restart(self, until: float, limit_s: float | None) -> None:
        """Other limits from now on."""
        self._handle.cancel()
        self._until, self._limit, self._since = until, limit_s, self._loop.time()
        self._handle = self._loop.call_at(self._due(), self._fire)

    def expired(self) -> bool:
        """After a `CancelledError`: whether it was ours alone. The task is then as if it had not been cancelled."""
        task, self._task = self._task, None
        return self._fired and task is not None and task.uncancel() <= self._cancelling

    def stop(self) -> None:
        self._task = None
        self._handle.cancel()

    @property
    def left(self) -> float:
        """Seconds until `until`."""
        return max(0.0, self._until - self._loop.time())

    def _due(self) -> float:
        return self._until if self._limit is None else min(self._since + self._limit, self._until)

    def _fire(self) -> None:
        now = self._loop.time()
        if self._task is None:  # nobody waits: the limit starts anew with the next wait
            self._since = now
            later = now + (self._limit if self._limit is not None else 1.0)
            self._handle = self._loop.call_at(later, self._fire)
        elif now + 1e-3 < self._due():
            self._handle = self._loop.call_at(self._due(), self._fire)
        else:
            self._fired = True
            self._cancelling = self._task.cancelling()
            self._task.cancel()
