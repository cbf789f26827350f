"""The audit log's rows."""

from __future__ import annotations

from pathlib import Path

from exo_node.store import Store, store_path
from exo_node.store_audit import AuditRow, AuditTable


def row(at: float, what: str = "x") -> AuditRow:
    return AuditRow(at=at, node="n", key_id="k", key_name="ci", address="::1", act="POST /quit", what=what, status=200)


async def test_rows_come_newest_first_and_the_oldest_go(tmp_path: Path) -> None:
    """What was noted comes back, cut to a bounded length; no more rows are kept than may be, whoever writes them."""
    store, other = (Store(store_path(tmp_path)) for _ in range(2))
    table, theirs = AuditTable(store, max_rows=100), AuditTable(other, max_rows=100)
    assert await table.rows() == []
    assert not store.path.exists()
    for i in range(300):
        (table if i % 2 else theirs).note(row(float(i)))
    await other.flush()
    await store.flush()
    rows = await table.rows(limit=1000)
    assert 100 <= len(rows) <= 164
    table.note(row(1000.0, "\ud800" + "y" * 1000))
    (last,) = await table.rows(since=999.0, limit=5)
    assert last == row(1000.0, "?" + "y" * 299)
    assert await table.rows(since=1000.0, until=1000.0) == []
    store.close()
    other.close()
