"""What this node spends, in memory, in the store and in Redis; and what other nodes have spent, as far as they tell."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable
from typing import Protocol

from exo_node.limits import operations
from exo_node.limits.budgets import Ledger, SubjectKind, period_key
from exo_node.limits.redis import SharedRedis

SAVE_S = 0.1  # how long a sum may wait to be written
LEARN_S = 5.0  # how often the sums of the machine's other nodes are read when there is no Redis


class SpentRows(Protocol):
    """Where budgets' sums are kept (the store)."""

    async def spent(self, periods: Iterable[str]) -> list[tuple[str, str, str, str, float]]: ...

    def save_spent(self, kind: str, subject: str, period: str, node: str, usd: float) -> None: ...


class Sums:
    """One per gate. `node` names it among those that share the store or Redis."""

    def __init__(
        self,
        node: str,
        rows: SpentRows,
        redis: SharedRedis | None,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._node = f"{node}/{uuid.uuid4().hex[:8]}"  # each start counts for itself: it need not know what was before
        self._rows, self._redis, self._clock, self._wall = rows, redis, clock, wall
        self._learned: float | None = None
        self._learning = asyncio.Lock()
        self._unsaved: dict[tuple[str, str, str], tuple[str, str, str, str, float]] = {}
        self._saving: asyncio.TimerHandle | None = None
        self.ledger = Ledger(self._node)  # its own rows come back from the store: by the same name they count once

    async def learn(self) -> None:
        """Read the sums at first, and again where other nodes write theirs beside ours. Raises `StoreError`."""
        if not self._is_old():
            return
        async with self._learning:  # one reads for all that come meanwhile
            if not self._is_old():
                return
            now, wall = self._clock(), self._wall()
            self.ledger.forget(wall)
            self.ledger.learn(await self._rows.spent([period_key("day", wall), period_key("month", wall)]))
            if self._learned is None and self._redis is not None:
                self._redis.tell(operations.spent(self.ledger.sums()))
            self._learned = now

    def _is_old(self) -> bool:
        if self._learned is None:
            return True
        alone = self._redis is None or not self._redis.up
        return alone and self._clock() - self._learned > LEARN_S

    def spend(self, subjects: Iterable[tuple[SubjectKind, str]], cost: float) -> None:
        """Count `cost` USD for each of the subjects. Does not wait; call it on the event loop."""
        wall = self._wall()
        told = [
            (kind, subject, period, self._node, usd)
            for kind, subject in subjects
            for period, usd in self.ledger.spend(kind, subject, cost, wall)
        ]
        for row in told:
            self._unsaved[row[:3]] = row
        if self._saving is None:  # a sum that many requests add to is written once
            self._saving = asyncio.get_running_loop().call_later(SAVE_S, self.save)
        if self._redis is not None:
            self._redis.tell(operations.spent(told))

    def save(self) -> None:
        """Hand the store what has been spent since the last time; at the end, too. Does not wait."""
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
        rows, self._unsaved = self._unsaved, {}
        for row in rows.values():
            self._rows.save_spent(*row)
