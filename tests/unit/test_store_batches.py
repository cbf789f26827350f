"""Files and batches in the node's database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from exo_node.store import Store, store_path
from exo_node.store_batches import BatchRow, BatchTable, FileRow

NOW = 1000.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(store_path(tmp_path / "home"))
    yield store
    store.close()


def file(ident: str, **more: object) -> FileRow:
    row = FileRow(id=ident, owner="key-1", purpose="batch", filename="in.jsonl", bytes=10, created=NOW)
    return replace(row, **more)  # type: ignore[arg-type]


def batch(ident: str, status: str = "validating", owner: str = "key-1") -> BatchRow:
    return BatchRow(
        id=ident,
        owner=owner,
        status=status,
        created=NOW,
        expires=NOW + 86400,
        input_id="file-in",
        output_id="file-out",
        error_id="file-err",
        batch={"id": ident, "status": status, "metadata": {"a": "b"}},
    )


async def test_looking_makes_no_file(store: Store) -> None:
    """A node without files and batches has no database because of them."""
    table = BatchTable(store)
    assert await table.file("file-1", "", NOW) is None
    assert await table.unfinished() == []
    assert await table.bytes_kept() == 0
    assert await table.remove_file("file-1") is False
    assert not store.path.exists()


async def test_files_in_pages(store: Store) -> None:
    """In the order in which they came, or backwards, after the last one seen; another owner's are not there."""
    table = BatchTable(store)
    for row in (file("c"), file("a"), file("b", purpose="batch_output"), file("x", owner="key-2")):
        await table.add_file(row)

    async def ids(after: str | None, limit: int, newest_first: bool, purpose: str | None = None) -> str:
        found = await table.files("key-1", NOW, purpose=purpose, after=after, limit=limit, newest_first=newest_first)
        return "".join(row.id for row in found)

    assert await ids(None, 9, newest_first=False) == "cab"
    assert await ids("c", 1, newest_first=False) == "a"
    assert await ids("b", 9, newest_first=True) == "ac"
    assert await ids(None, 9, newest_first=True, purpose="batch") == "ac"
    assert await table.file("x", "key-1", NOW) is None
    assert await table.bytes_kept() == 40


async def test_a_file_expires(store: Store) -> None:
    """Past its time it is gone for its owner, and to be swept."""
    table = BatchTable(store)
    await table.add_file(file("a", expires=NOW + 5))
    assert await table.file("a", "key-1", NOW + 4) is not None
    assert await table.file("a", "key-1", NOW + 5) is None
    assert await table.expired_files(NOW + 4) == []
    assert await table.expired_files(NOW + 5) == ["a"]
    assert await table.remove_file("a") is True


async def test_a_batch_moves_from_the_state_it_is_in(store: Store) -> None:
    """Of two moves from one state one is made; its files come with it; counts change no state."""
    table = BatchTable(store)
    await table.add_batch(batch("b"))
    assert await table.move("b", ("validating",), "in_progress", {"in_progress_at": 5})
    assert await table.move("b", ("validating", "in_progress"), "cancelling", {"cancelling_at": 6})
    assert not await table.move("b", ("in_progress",), "finalizing", {"finalizing_at": 7}, [file("file-out")])
    assert await table.file("file-out", "key-1", NOW) is None
    table.count("b", {"total": 2, "completed": 1, "failed": 0})
    found = await table.batch("b")
    assert found is not None
    assert found.status == "cancelling"
    assert found.batch == {
        "id": "b",
        "status": "cancelling",
        "metadata": {"a": "b"},
        "in_progress_at": 5,
        "cancelling_at": 6,
        "request_counts": {"total": 2, "completed": 1, "failed": 0},
    }
    assert await table.move("b", ("cancelling",), "cancelled", {}, [file("file-out")])
    assert await table.file("file-out", "key-1", NOW) is not None


async def test_unfinished_and_listed(store: Store) -> None:
    """What has ended is not worked on; lists have their owner's only, the newest first."""
    table = BatchTable(store)
    for row in (batch("1", "completed"), batch("2"), batch("3", owner="key-2"), batch("4", "failed")):
        await table.add_batch(row)
    assert [row.id for row in await table.unfinished()] == ["2", "3"]
    assert [row.id for row in await table.batches("key-1", after=None, limit=2)] == ["4", "2"]
    assert [row.id for row in await table.batches("key-1", after="2", limit=2)] == ["1"]
    assert await table.using("file-in") == "2"
    assert await table.using("file-other") is None
