"""Opening database files: new, damaged, and on disks that take nothing."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest

from exo_node.errors import StoreError
from exo_node.store_file import FileMark, explained, open_readable, open_writable
from tests.unit.store_samples import tables


def test_a_new_file_comes_whole(tmp_path: Path) -> None:
    """It has its tables, is for its owner only, is in WAL, and nothing else stays in the folder."""
    path = tmp_path / "home" / "s.db"
    db = open_writable(path, tables)
    assert db.execute("SELECT COUNT(*) FROM t").fetchone()[0] == 0
    assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    db.close()
    assert [one.name for one in path.parent.iterdir()] == ["s.db"]
    assert path.stat().st_mode & 0o077 == 0


def test_files_are_told_apart(tmp_path: Path) -> None:
    """By their inode, which nobody else gets meanwhile, and by more, as a copy over a file keeps it."""
    one, other = tmp_path / "one.db", tmp_path / "other.db"
    mark = FileMark(one)
    assert mark.number() == 0
    for path in (one, other):
        open_writable(path, tables).close()
    before, inode = mark.number(), one.stat().st_ino
    assert mark.number() == before != 0
    one.write_bytes(other.read_bytes())
    assert (one.stat().st_ino, mark.number() in (0, before)) == (inode, False)
    one.unlink()
    assert mark.number() == 0
    one.write_bytes(b"")
    assert (one.stat().st_ino == inode, mark.number() in (0, before)) == (False, False)
    mark.close()


def test_what_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    """Where its tables cannot be made there is no file afterwards, so none that is empty."""

    def fails(db: sqlite3.Connection, where: str) -> None:
        raise StoreError(f"{where}: no")

    with pytest.raises(StoreError, match=r"s\.db: no"):
        open_writable(tmp_path / "s.db", fails)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["empty", "random", "cut", "middle"])
def test_damaged_files_are_refused_and_left(tmp_path: Path, how: str) -> None:
    """Empty, cut short, overwritten: the error says so and what to do, and the file stays as it was found."""
    path = tmp_path / "s.db"
    db = open_writable(path, tables)
    db.executemany("INSERT INTO t VALUES (?)", [(number,) for number in range(5000)])
    db.close()
    sound = path.read_bytes()
    made = {"empty": b"", "random": bytes(range(256)) * 40, "cut": sound[:5000], "middle": sound[:100] + bytes(9000)}[
        how
    ]
    path.write_bytes(made)
    with pytest.raises((StoreError, sqlite3.DatabaseError)) as caught:
        open_writable(path, tables).execute("SELECT SUM(n) FROM t").fetchall()
    said = explained(path, caught.value)
    assert said.code == "storage_damaged"
    assert said.status == 500
    assert "exo apikey add" in said.message
    assert path.read_bytes()[:5000] == made[:5000]


def test_reading_without_writing(tmp_path: Path) -> None:
    """Where nothing can be written a sound file is read all the same; a damaged one, or none, is not."""
    path = tmp_path / "s.db"
    open_writable(path, tables).close()
    why = StoreError("full", code="storage_full", status=507)
    db = open_readable(path, tables, why)
    assert db.execute("SELECT COUNT(*) FROM t").fetchone()[0] == 0
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        db.execute("INSERT INTO t VALUES (1)")
    db.close()
    with pytest.raises(StoreError, match="full"):
        open_readable(tmp_path / "none.db", tables, why)
    with pytest.raises(StoreError, match="damaged"):
        open_readable(path, tables, StoreError("damaged", code="storage_damaged"))


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (OSError(errno.ENOSPC, "no space"), 507, "storage_full"),
        (OSError(errno.EROFS, "read-only"), 507, "storage_read_only"),
        (OSError(errno.EACCES, "denied"), 507, "storage_failed"),
        (ValueError("x"), 500, "store_error"),
        (StoreError("as it is", code="mine"), 500, "mine"),
    ],
)
def test_whose_fault_it_is(tmp_path: Path, error: Exception, status: int, code: str) -> None:
    """The disk's faults are 507, others 500; every message names the file."""
    said = explained(tmp_path / "s.db", error)
    assert (said.status, said.code) == (status, code)


def test_a_lock_that_stays(tmp_path: Path) -> None:
    """Another process that writes and does not end is a 503."""
    path = tmp_path / "s.db"
    one, other = open_writable(path, tables), open_writable(path, tables)
    one.execute("BEGIN IMMEDIATE")
    other.execute("PRAGMA busy_timeout = 1")
    with pytest.raises(sqlite3.OperationalError) as caught:
        other.execute("BEGIN IMMEDIATE")
    assert explained(path, caught.value).status == 503
    one.close()
    other.close()
