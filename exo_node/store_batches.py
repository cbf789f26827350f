"""Uploaded files and batches in a node's database. The files' bytes are beside it (`api/batching/area.py`).

A batch is moved from state to state by whoever finds it in the state that the move starts from: a cancel and the node
that works on it, perhaps two processes, never overwrite each other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING, Any

from exo_node.store import Store

if TYPE_CHECKING:
    import sqlite3

UNFINISHED = ("validating", "in_progress", "finalizing", "cancelling")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRow:
    """`owner` is an API key's id; `created` and `expires` are seconds since 1970."""

    id: str
    owner: str
    purpose: str
    filename: str
    bytes: int
    created: float
    expires: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRow:
    """`batch` is the object that its owner sees, without what is null. The output and error files get their ids at
    once, and become files of the owner's when the batch has ended."""

    id: str
    owner: str
    status: str
    created: float
    expires: float
    input_id: str
    output_id: str
    error_id: str
    batch: Mapping[str, Any]


_FILE = tuple(one.name for one in fields(FileRow))
_BATCH = tuple(one.name for one in fields(BatchRow))
_ADD_FILE = f"INSERT OR REPLACE INTO files ({', '.join(_FILE)}) VALUES ({', '.join('?' * len(_FILE))})"


class BatchTable:
    """Over the node's database. Every method may raise `StoreError`. Another owner's rows are as if they were not."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # -- files

    async def add_file(self, row: FileRow) -> None:
        await self._store.ask(lambda db: db.execute(_ADD_FILE, astuple(row)))

    async def file(self, ident: str, owner: str, now: float) -> FileRow | None:
        sql = "SELECT * FROM files WHERE id = ? AND owner = ? AND (expires IS NULL OR expires > ?)"
        rows = await self._rows(sql, (ident, owner, now))
        return FileRow(**rows[0]) if rows else None

    async def files(
        self, owner: str, now: float, *, purpose: str | None, after: str | None, limit: int, newest_first: bool
    ) -> list[FileRow]:
        """A page, in the order in which they came."""
        where, values = "owner = ? AND (expires IS NULL OR expires > ?)", [owner, now]
        if purpose is not None:
            where, values = f"{where} AND purpose = ?", [*values, purpose]
        sql, values = _page("files", where, values, after, limit, newest_first)
        return [FileRow(**row) for row in await self._rows(sql, values)]

    async def remove_file(self, ident: str) -> bool:
        """False where there was none."""
        if not self._store.in_use():
            return False
        counted = await self._store.ask(lambda db: db.execute("DELETE FROM files WHERE id = ?", (ident,)).rowcount)
        return bool(counted[0])

    async def expired_files(self, now: float) -> list[str]:
        return [row["id"] for row in await self._rows("SELECT id FROM files WHERE expires <= ?", (now,))]

    async def bytes_kept(self) -> int:
        """Of all owners' files."""
        rows = await self._rows("SELECT COALESCE(SUM(bytes), 0) AS total FROM files", ())
        return int(rows[0]["total"]) if rows else 0

    # -- batches

    async def add_batch(self, row: BatchRow) -> None:
        values = [*(getattr(row, name) for name in _BATCH[:-1]), json.dumps(row.batch)]
        sql = f"INSERT INTO batches ({', '.join(_BATCH)}) VALUES ({', '.join('?' * len(_BATCH))})"
        await self._store.ask(lambda db: db.execute(sql, values))

    async def batch(self, ident: str) -> BatchRow | None:
        """Whoever's it is."""
        rows = await self._rows("SELECT * FROM batches WHERE id = ?", (ident,))
        return _batch(rows[0]) if rows else None

    async def batches(self, owner: str, *, after: str | None, limit: int) -> list[BatchRow]:
        """A page, the newest first."""
        sql, values = _page("batches", "owner = ?", [owner], after, limit, newest_first=True)
        return [_batch(row) for row in await self._rows(sql, values)]

    async def unfinished(self) -> list[BatchRow]:
        """Everybody's, the oldest first."""
        marks = ", ".join("?" * len(UNFINISHED))
        rows = await self._rows(f"SELECT * FROM batches WHERE status IN ({marks}) ORDER BY rowid", UNFINISHED)
        return [_batch(row) for row in rows]

    async def using(self, file_id: str) -> str | None:
        """An unfinished batch that reads the file."""
        found = (one for one in await self.unfinished() if one.input_id == file_id)
        return next((one.id for one in found), None)

    async def move(
        self, ident: str, before: Sequence[str], status: str, changes: Mapping[str, Any], files: Sequence[FileRow] = ()
    ) -> bool:
        """Bring a batch from a state of `before` to `status`, with `changes` to its object (no nulls) and its result
        `files`, all at once. False where it is in another state."""
        patch = json.dumps({**changes, "status": status})
        values = (status, patch, ident, *before)
        sql = (
            f"UPDATE batches SET status = ?, batch = json_patch(batch, ?) WHERE id = ? AND status IN "
            f"({', '.join('?' * len(before))})"
        )

        def job(db: sqlite3.Connection) -> int:
            moved = db.execute(sql, values).rowcount
            for row in files if moved else ():
                db.execute(_ADD_FILE, astuple(row))
            return moved

        counted = await self._store.ask(job)
        return bool(counted[0])

    def count(self, ident: str, counts: Mapping[str, int]) -> None:
        """Tell how far it is. Returns at once; every later read sees it."""
        patch = json.dumps({"request_counts": dict(counts)})
        sql = "UPDATE batches SET batch = json_patch(batch, ?) WHERE id = ?"
        self._store.tell(lambda db: db.execute(sql, (patch, ident)))

    async def _rows(self, sql: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        if not self._store.in_use():
            return []
        return await self._store.ask(lambda db: db.execute(sql, values))


def _batch(row: Mapping[str, Any]) -> BatchRow:
    return BatchRow(**{**row, "batch": json.loads(row["batch"])})


def _page(
    table: str, where: str, values: Sequence[Any], after: str | None, limit: int, newest_first: bool
) -> tuple[str, list[Any]]:
    found = list(values)
    if after is not None:
        sign = "<" if newest_first else ">"
        where, found = f"{where} AND rowid {sign} (SELECT rowid FROM {table} WHERE id = ?)", [*found, after]
    order = "DESC" if newest_first else "ASC"
    return f"SELECT * FROM {table} WHERE {where} ORDER BY rowid {order} LIMIT ?", [*found, limit]
