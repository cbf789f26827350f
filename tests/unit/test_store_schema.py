"""Databases of older versions, brought up to date with what they hold."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from exo_node.errors import StoreError
from exo_node.store import Store
from exo_node.store_batches import BatchTable
from exo_node.store_responses import ResponseTable
from exo_node.store_schema import MIGRATIONS, migrate

# What each version's tables can hold, as that version wrote it: version -> statements.
ROWS = {
    1: (
        "INSERT INTO api_keys VALUES ('key-1', 'ci', x'AA', 1.0, 1, '[\"gpt-*\"]', 5, NULL, NULL, 9, 1.5, 'day')",
        "INSERT INTO api_keys VALUES ('key-2', 'app', x'BB', 2.0, 0, '[]', NULL, NULL, NULL, NULL, NULL, NULL)",
        "INSERT INTO spend (id, at, kind, model, served_model, backend, provider, node, key_id, user, stream, status, "
        "error_code, prompt_tokens, completion_tokens, cached_tokens, cost, estimated, cached, continued, ttft_s, "
        "total_s, attempts) VALUES ('s', strftime('%s', 'now'), 'chat', 'm', 'm', 'b', 'p', 'n', 'key-1', '', 0, 200, "
        "'', 1, 2, 0, 0.5, 0, 0, 0, NULL, 1.0, '[]')",
        "INSERT INTO spent VALUES ('all', '', strftime('%Y-%m', 'now'), 'n', 2.5)",
        "INSERT INTO profile VALUES ('n', 'x', '[1]')",
        "INSERT INTO cache VALUES ('k', x'01', 9e12, 1.0)",
    ),
    4: ("INSERT INTO files VALUES ('file-1', 'key-1', 'batch', 'f', 5, 1.0, NULL)",),
}


def of_version(path: Path, version: int) -> None:
    """A database as that version left it, with rows in it."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        for number in range(version):
            db.executescript(MIGRATIONS[number])
            for statement in ROWS.get(number + 1, ()):
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {version}")


def schema(db: sqlite3.Connection) -> list[tuple[str, str]]:
    return sorted(
        (name, " ".join((sql or "").split())) for name, sql in db.execute("SELECT name, sql FROM sqlite_master")
    )


@pytest.fixture
def newest() -> Iterator[list[tuple[str, str]]]:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        migrate(db, "new")
        yield schema(db)


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
async def test_from_every_version(tmp_path: Path, version: int, newest: list[tuple[str, str]]) -> None:
    """The tables become those of a new database; keys with their rights, spend, sums, profiles and files stay."""
    path = tmp_path / "s.db"
    of_version(path, version)
    store = Store(path)
    keys = {one["id"]: one for one in await store.keys()}
    assert {one: keys[one]["scopes"] for one in keys} == {"key-1": ["admin"], "key-2": ["use"]}
    assert (keys["key-1"]["models"], keys["key-1"]["rpm"], keys["key-1"]["budget"]) == (["gpt-*"], 5, 1.5)
    assert [one.id for one in await store.spend_rows()] == ["s"]
    assert await store.load_profile("n") == {"x": [1]}
    assert await store.cache_get("k") == b"\x01"
    assert await ResponseTable(store).get("none", "") is None
    assert len(await BatchTable(store).files("key-1", 5.0, purpose=None, after=None, limit=5, newest_first=True)) == (
        1 if version >= 4 else 0
    )
    store.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert schema(db) == newest
        assert db.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_a_step_that_fails_changes_nothing(tmp_path: Path) -> None:
    """All steps are one transaction: a database of which one cannot be done is as it was, version and all."""
    path = tmp_path / "s.db"
    of_version(path, 2)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("CREATE TABLE batches (mine INTEGER)")  # in the way of a later step
        before = schema(db)
        with pytest.raises(sqlite3.OperationalError, match="batches"):
            migrate(db, "s.db")
        assert schema(db) == before
        assert db.execute("PRAGMA user_version").fetchone()[0] == 2


def test_a_newer_one_is_refused(tmp_path: Path) -> None:
    """A database of a newer version is named with what to do, and not touched."""
    with contextlib.closing(sqlite3.connect(tmp_path / "s.db", isolation_level=None)) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
        with pytest.raises(StoreError, match=r"s\.db: written by a newer exo-node .* update this one"):
            migrate(db, "s.db")
        assert schema(db) == []
