"""The node's database."""

from __future__ import annotations

import asyncio
import functools
import logging
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exo_node import store_thread
from exo_node.errors import StoreError
from exo_node.store import SpendRow, Store, store_path
from exo_node.store_schema import MIGRATIONS
from exo_node.store_spend import SpendQuery
from exo_node.store_thread import DatabaseThread

KEY = {
    "id": "key-1", "name": "ci", "hash": b"h" * 32, "created": 1.0, "scopes": ["use", "read"], "models": ["gpt-*"],
    "rpm": 5, "tpm": None, "user_rpm": None, "user_tpm": 9, "budget": 1.5, "period": "day", "expires": 9.5,
    "concurrency": 3,
}  # fmt: skip


def row(ident: str, at: float = 100.0, **changes: object) -> SpendRow:
    values: dict[str, object] = {
        "id": ident, "at": at, "kind": "chat", "model": "gpt", "served_model": "gpt-4o", "backend": "openai/1",
        "provider": "openai", "node": "a", "key_id": "key-1", "user": "bob", "stream": True, "status": 200,
        "error_code": "", "prompt_tokens": 3, "completion_tokens": 4, "cached_tokens": 0, "cost": 0.5,
        "estimated": False, "cached": False, "continued": False, "ttft_s": None, "total_s": 1.5,
        "attempts": [{"backend": "openai/1", "cause": ""}],
    }  # fmt: skip
    return SpendRow(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(store_path(tmp_path / "home"))
    yield store
    store.close()


async def test_looking_makes_no_file(store: Store) -> None:
    """Reading from a store that nobody wrote to opens nothing, makes nothing and starts no thread."""
    assert await store.keys() == []
    assert await store.spend_rows() == []
    assert await store.spent(["2026-11"]) == []
    assert await store.cache_get("k") is None
    assert await store.remove_key("x") is False
    await store.flush()
    assert not store.path.parent.exists()
    assert store.stamp() == (0, 0, 0)


async def test_keys_come_back(store: Store) -> None:
    """A key's row comes back as it was written, is removed once, and the file is for its owner only."""
    await store.add_key(KEY)
    before = store.stamp()
    assert await store.keys() == [KEY]
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert await store.remove_key("key-1") is True
    assert await store.remove_key("key-1") is False
    assert await store.keys() == []
    assert store.stamp() != before


async def test_looking_at_the_file_costs_no_lock(store: Store) -> None:
    """What another process writes is seen however often this one looks: its log is not deleted under us, as it would be
    had our looks let go of SQLite's locks."""
    await store.add_key(KEY)
    for number in range(3):
        store.stamp()
        script = (
            "import asyncio, ast, sys; from pathlib import Path; from exo_node.store import Store; "
            "store = Store(Path(sys.argv[1])); asyncio.run(store.add_key(ast.literal_eval(sys.argv[2]))); store.close()"
        )
        added = repr({**KEY, "id": f"other-{number}", "name": f"n{number}", "hash": bytes([number]) * 32})
        await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script, str(store.path), added], check=True)
        assert len(await store.keys()) == 2 + number


async def test_keys_of_the_first_versions_stay_valid(store: Store) -> None:
    """Before there were scopes a key was an admin's or not: that is what it is then."""
    store.path.parent.mkdir()
    with sqlite3.connect(store.path) as db:
        for step in MIGRATIONS[:4]:
            db.executescript(step)
        sql = (
            "INSERT INTO api_keys (id, name, hash, created, admin, models, rpm) VALUES (?, ?, ?, 1.0, ?, '[\"m\"]', 7)"
        )
        db.executemany(sql, [("k1", "user", b"1", 0), ("k2", "boss", b"2", 1)])
        db.execute("PRAGMA user_version = 4")
    db.close()
    told = [(row["id"], row["scopes"], row["hash"], row["rpm"], row["expires"]) for row in await store.keys()]
    assert told == [("k1", ["use"], b"1", 7, None), ("k2", ["admin"], b"2", 7, None)]


async def test_the_same_key_twice_is_an_error(store: Store) -> None:
    """What the database refuses reaches the one who asked, and the store goes on."""
    await store.add_key(KEY)
    with pytest.raises(StoreError, match="node-shared"):
        await store.add_key(KEY)
    assert len(await store.keys()) == 1


async def test_spend_is_read_after_it_was_told(store: Store) -> None:
    """A read sees every write before it; rows come newest first and whole."""
    store.log_spend(row("one", 100.0))
    store.log_spend(row("two", 200.0, provider="groq", cost=0.25, key_id="key-2"))
    assert await store.spend_rows() == [row("two", 200.0, provider="groq", cost=0.25, key_id="key-2"), row("one")]
    assert [one.id for one in await store.spend_rows(SpendQuery(key_id="key-1"))] == ["one"]
    assert [one.id for one in await store.spend_rows(SpendQuery(since=150.0))] == ["two"]


async def test_one_bad_row_spoils_no_other(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A row that SQLite cannot hold is complained about once; the rows beside it are kept."""
    for number in range(4):
        store.log_spend(row(f"good-{number}", float(number)))
        store.log_spend(row("bad", user="\ud800"))
    await store.flush()
    assert [one.id for one in await store.spend_rows()] == ["good-3", "good-2", "good-1", "good-0"]
    many = [row(f"many-{number}", 100.0 + number) for number in range(70)]
    many[40] = row("bad", user="\ud800")
    for one in many:
        store.log_spend(one)
    kept = await store.spend_rows(SpendQuery(since=100.0))
    assert sorted(one.id for one in kept) == sorted(one.id for one in many if one.id != "bad")
    assert len([one for one in caplog.records if one.levelno == logging.WARNING]) == 1


async def test_sums_never_shrink(store: Store) -> None:
    """Each node's sum of a period is its own, and a late smaller one changes nothing."""
    store.save_spent("all", "", "2026-11", "a", 2.0)
    store.save_spent("all", "", "2026-11", "a", 1.0)
    store.save_spent("all", "", "2026-11", "b", 0.5)
    store.save_spent("all", "", "2026-10", "b", 7.0)
    assert sorted(await store.spent(["2026-11", "2026-11-21"])) == [
        ("all", "", "2026-11", "a", 2.0),
        ("all", "", "2026-11", "b", 0.5),
    ]


async def test_profiles_are_kept_by_node(store: Store) -> None:
    """Rows come back by name, the newest of a name wins, another node's stay apart."""
    store.save_profile("a", {"x": {"ttft": 1}, "y": [1, 2]})
    store.save_profile("a", {"x": {"ttft": 2}})
    store.save_profile("b", {"x": 0})
    assert await store.load_profile("a") == {"x": {"ttft": 2}, "y": [1, 2]}
    store.forget_profile("a", ["y"])
    assert await store.load_profile("a") == {"x": {"ttft": 2}}


async def test_cached_answers_expire_and_make_room(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry is there until its time is over; above the size limit the least lately used go."""
    monkeypatch.setattr("exo_node.store.CACHE_TRIM_EVERY", 1)
    store.cache_put("old", b"x" * 100, 0.0, 10_000)
    assert await store.cache_get("old") is None
    for number in range(4):
        store.cache_put(str(number), bytes(100), 60.0, 250)
    assert await store.cache_get("3") == bytes(100)
    assert await store.cache_get("0") is None


async def test_what_was_told_is_written_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Closing writes what is still waiting; the next start reads it, but for rows too old; a closed store says so."""
    path = tmp_path / "s.db"
    first = Store(path)
    for number in range(2500):
        first.log_spend(row(str(number), time.time()))
    first.log_spend(row("two years old", time.time() - 2 * 366 * 86400))
    first.close()
    second = Store(path)
    assert len(await second.spend_rows(SpendQuery(limit=5000))) == 2500
    second.close()
    first.log_spend(row("late"))  # said in the log: whoever tells must not have to care
    assert "shutting down" in caplog.text
    with pytest.raises(StoreError, match="shutting down"):
        await first.keys()


async def test_several_processes_write_at_once(tmp_path: Path) -> None:
    """Three processes that open a new file together and write into it lose nothing."""
    path = tmp_path / "s.db"
    code = (
        "import sys, pathlib; from exo_node.store import Store\n"
        "s = Store(pathlib.Path(sys.argv[1]))\n"
        "for n in range(200): s.save_spent('key', str(n), '2026-11', sys.argv[2], 1.0)\n"
        "s.close()"
    )
    running = [await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(path), node) for node in "abc"]
    assert [await one.wait() for one in running] == [0, 0, 0]
    store = Store(path)
    assert len(await store.spent(["2026-11"])) == 600
    store.close()


async def test_a_newer_or_a_damaged_file_is_named(tmp_path: Path) -> None:
    """A file of a newer version, and one that is no database, are refused with their name; neither is changed."""
    newer = tmp_path / "newer.db"
    with sqlite3.connect(newer) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"no database" * 100)
    for path, words in ((newer, "newer exo-node"), (damaged, "damaged.db")):
        store = Store(path)
        with pytest.raises(StoreError, match=words):
            await store.keys()
        store.close()
    assert damaged.read_bytes() == b"no database" * 100


async def test_writes_that_fail_are_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the folder cannot be made, writing goes on without, and one warning says so."""
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "s.db")
    store.save_spent("all", "", "2026-11", "a", 1.0)
    store.save_spent("all", "", "2026-11", "a", 2.0)
    with pytest.raises(StoreError, match=r"s\.db"):
        await store.flush()
    assert len(caplog.records) == 1
    store.close()


async def test_spend_is_written_again_after_a_failure(tmp_path: Path) -> None:
    """Rows that could not be written are lost, and do not pile up; those of later requests are written."""
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "s.db")
    store.log_spend(row("lost"))
    with pytest.raises(StoreError):
        await store.flush()
    (tmp_path / "file").unlink()
    store.log_spend(row("later"))
    await store.flush()
    assert [one.id for one in await store.spend_rows()] == ["later"]
    store.close()


def numbers_thread(folder: Path) -> DatabaseThread:
    def prepare(db: sqlite3.Connection, where: str) -> None:
        db.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER)")

    return DatabaseThread(folder / "t.db", prepare)


def insert(number: int, db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO t VALUES (?)", (number,))


async def test_jobs_run_in_order_and_a_cancelled_question_harms_none(tmp_path: Path) -> None:
    """A question sees the writes told before it; one that nobody waits for any more leaves the thread running."""

    thread = numbers_thread(tmp_path)
    for number in range(5):
        thread.tell(functools.partial(insert, number))
    thread.ask(lambda db: db.execute("SELECT 1")).cancel()
    rows = await asyncio.wrap_future(thread.ask(lambda db: db.execute("SELECT n FROM t")))
    assert rows == [{"n": number} for number in range(5)]
    assert await asyncio.wrap_future(thread.ask(lambda db: 7)) == [7]
    thread.close()


def test_writes_gather_until_somebody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is only told waits to be committed together; a question and the end wait for nothing, nor does what was told
    before them."""
    monkeypatch.setattr(store_thread, "BATCH_S", 3600.0)
    thread = numbers_thread(tmp_path)
    for turn in range(3):
        for number in range(5):
            thread.tell(functools.partial(insert, turn * 5 + number))
        assert thread.ask(lambda c: c.execute("SELECT count(*) AS n FROM t")).result(60) == [{"n": (turn + 1) * 5}]
    thread.tell(functools.partial(insert, 15))
    with sqlite3.connect(tmp_path / "t.db") as look:
        assert look.execute("SELECT count(*) FROM t").fetchone() == (15,)
        thread.close()
        assert look.execute("SELECT count(*) FROM t").fetchone() == (16,)
