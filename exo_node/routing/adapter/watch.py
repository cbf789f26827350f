"""One timer for all the waits of a stream, re-armed only when it fires: `asyncio.timeout` per event would cost more
than relaying the event does."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

SAMPLES = 4  # looks per limit: silence is noticed after the limit and at most a quarter more


class Watch:
    """Cancels the task that waits too long; the waiting code then asks `expired()` whether that was us.

    Around a wait the waiting code sets `task` to its own, adds one to `waits`, and sets `task` to None after it. A wait
    may last `limit_s` (None: as long as it likes) and never beyond `until` (on the event loop's clock). Time between
    waits, when the reader is busy, does not count.
    """

    __slots__ = ("_cancelling", "_fired", "_handle", "_limit", "_loop", "_seen", "_since", "_until", "task", "waits")

    def __init__(self, until: float, limit_s: float | None = None) -> None:
        self.task: asyncio.Task[object] | None = None
        self.waits = 0
        self._loop = asyncio.get_running_loop()
        self._fired = False
        self._cancelling = 0
        self._arm(until, limit_s)

    def restart(self, until: float, limit_s: float | None) -> None:
        """Other limits from now on."""
        self._handle.cancel()
        self._arm(until, limit_s)

    def expired(self) -> bool:
        """After a `CancelledError`: whether it was ours alone. The task is then as if it had not been cancelled."""
        task, self.task = self.task, None
        return self._fired and task is not None and task.uncancel() <= self._cancelling

    def stop(self) -> None:
        self.task = None
        self._handle.cancel()

    @property
    def left(self) -> float:
        """Seconds until `until`."""
        return max(0.0, self._until - self._loop.time())

    def _arm(self, until: float, limit_s: float | None) -> None:
        self._until, self._limit = until, limit_s
        self._seen, self._since = self.waits, self._loop.time()
        self._handle = self._loop.call_at(self._next(self._since), self._look)

    def _next(self, now: float) -> float:
        if self._limit is None:
            return self._until if self._until > now else now + 1.0
        pace = self._limit / SAMPLES
        due = self._since + self._limit
        return min(due if now < due < now + pace else now + pace, self._until if self._until > now else now + pace)

    def _look(self) -> None:
        now = self._loop.time()
        if self.task is None or self.waits != self._seen:
            self._seen, self._since = self.waits, now
        late = self._limit is not None and now >= self._since + self._limit - 1e-3
        if self.task is not None and (late or now >= self._until - 1e-3):
            self._fired = True
            self._cancelling = self.task.cancelling()
            self.task.cancel()
        else:
            self._handle = self._loop.call_at(self._next(now), self._look)


class Within:
    """`asyncio.timeout` for a third of its price: raises `TimeoutError` where the block took longer than `seconds`."""

    __slots__ = ("_cancelling", "_fired", "_handle", "_seconds", "_task")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._fired = False
        self._cancelling = 0
        self._task: asyncio.Task[Any] | None = None
        self._handle: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        task = self._task = asyncio.current_task()
        assert task is not None
        self._cancelling = task.cancelling()
        self._handle = asyncio.get_running_loop().call_later(self._seconds, self._fire)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        assert self._handle is not None
        assert self._task is not None
        self._handle.cancel()
        ours = self._fired and self._task.uncancel() <= self._cancelling
        if ours and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _fire(self) -> None:
        self._fired = True
        if self._task is not None:
            self._task.cancel()
