"""Where a node's spending goes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from exo_node.limits.sums import LEARN_S, Sums

NOON = 1795262400.0


class Rows:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.saved: list[tuple[str, str, str, str, float]] = []

    async def spent(self, periods: Iterable[str]) -> list[tuple[str, str, str, str, float]]:
        return self.saved

    def save_spent(self, kind: str, subject: str, period: str, node: str, usd: float) -> None:
        self.saved.append((kind, subject, period, node, usd))


async def test_a_sum_is_written_once_for_many_requests() -> None:
    """Day and month of each subject, with all that came meanwhile; nothing a second time."""
    rows = Rows()
    sums = Sums("a", rows, None, lambda: 0.0, lambda: NOON)
    for _ in range(3):
        sums.spend((("all", ""), ("key", "k")), 0.5)
    assert rows.saved == []
    sums.save()
    sums.save()
    assert sorted((kind, period, usd) for kind, _, period, _, usd in rows.saved) == [
        ("all", "2026-11", 1.5), ("all", "2026-11-21", 1.5), ("key", "2026-11", 1.5), ("key", "2026-11-21", 1.5),
    ]  # fmt: skip


async def test_one_reads_for_all_that_come_at_once() -> None:
    """The sums of other nodes are read once for a burst of requests, and again when they are old."""
    now, reads = [0.0], 0

    class Slow(Rows):
        async def spent(self, periods: Iterable[str]) -> list[tuple[str, str, str, str, float]]:
            nonlocal reads
            reads += 1
            await asyncio.sleep(0)
            return []

    sums = Sums("a", Slow(), None, lambda: now[0], lambda: NOON)
    for at, expected in ((0.0, 1), (LEARN_S - 1, 1), (LEARN_S + 1, 2)):
        now[0] = at
        await asyncio.gather(*(sums.learn() for _ in range(20)))
        assert reads == expected
