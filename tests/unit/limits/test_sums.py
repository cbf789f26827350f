"""Where a node's spending goes."""

from __future__ import annotations

from collections.abc import Iterable

from exo_node.limits.sums import Sums

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
