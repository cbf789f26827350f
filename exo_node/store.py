"""What a machine's nodes remember in SQLite: API keys, spend, budgets' sums, latency profiles, cached answers; and what
has a module of its own (`store_responses.py`).

One thread owns the connection; it starts, and the file is made, with the first thing that has to be written or an
existing file that is read. Writes return at once and are committed together; reads see every write before them.
Several nodes of one machine share the file (WAL). Prompts and answers only in the cache and in stored responses, no
keys in the clear.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from exo_node.store_file import FileMark
from exo_node.store_spend import GroupBy, SpendQuery, rows_sql, sums_sql
from exo_node.store_thread import DatabaseThread, Job

if TYPE_CHECKING:
    import sqlite3

SPEND_KEPT_S = 400 * 86400.0  # a year and a month
SUMS_KEPT_S = 62 * 86400.0
CACHE_TRIM_EVERY = 32  # puts between two looks at the cache's size
ALL_SPEND = SpendQuery()
# Rows of one statement: each statement hands Python's lock over and back, which costs more than writing a row does.
SPEND_AT_ONCE = 32


@dataclass(slots=True, kw_only=True)
class SpendRow:
    """One finished request. `at` is wall-clock, times are seconds, `cost` USD; `attempts` are JSON-ready rows.

    `cost_known` False: `cost` lacks what was used without a known price.
    """

    id: str
    at: float
    kind: str
    model: str
    served_model: str
    backend: str
    provider: str
    node: str
    key_id: str
    user: str
    stream: bool
    status: int
    error_code: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cost: float
    estimated: bool
    cached: bool
    continued: bool
    ttft_s: float | None
    total_s: float
    cost_known: bool = True
    attempts: list[dict[str, Any]] = field(default_factory=list)


_SPEND = tuple(one.name for one in fields(SpendRow))
_PLAIN_SPEND = attrgetter(*_SPEND[:-1])  # `attempts`, the last, are written as JSON
_KEY = ("id", "name", "hash", "created", "scopes", "models", "rpm", "tpm", "user_rpm", "user_tpm", "budget", "period",
        "expires", "concurrency")  # fmt: skip


def store_path(home: Path) -> Path:
    """One file for all nodes that share `home`: keys and budgets are the machine's, not a node's."""
    return home / "node-shared.db"


class Store:
    """The database at `path`. Nothing is opened before it is needed. Every method may raise `StoreError`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database = DatabaseThread(path, _prepare)
        self._mark = FileMark(path)
        self._cache_puts = 0
        self._spend: deque[tuple[Any, ...]] = deque()  # values that the thread has not taken yet
        self._spend_told = False

    # -- API keys

    async def keys(self) -> list[dict[str, Any]]:
        """Every key: `id, name, hash, created, scopes (list), models (list), rpm, tpm, user_rpm, user_tpm, budget,
        period, expires`."""
        if not self.in_use():
            return []
        rows = await self.ask(lambda db: db.execute(f"SELECT {', '.join(_KEY)} FROM api_keys ORDER BY created"))
        return [{**row, "scopes": row["scopes"].split(","), "models": json.loads(row["models"])} for row in rows]

    async def add_key(self, row: Mapping[str, Any]) -> None:
        """Write one key (same fields); on disk when this returns."""
        written = {**row, "models": json.dumps(row["models"]), "scopes": ",".join(row["scopes"])}
        values = [written[name] for name in _KEY]
        await self.ask(lambda db: db.execute(f"INSERT INTO api_keys ({', '.join(_KEY)}) {_marks(_KEY)}", values))

    async def remove_key(self, key_id: str) -> bool:
        """False when there was none."""
        if not self.in_use():
            return False
        return bool(await self._count("DELETE FROM api_keys WHERE id = ?", (key_id,)))

    def stamp(self) -> tuple[int, ...]:
        """Changes when the file does (no database is opened): worth reading the keys again. The first number is the
        file's own: another one is another file, 0 none."""
        found = [self._mark.number()]
        for path in (self.path, self.path.with_name(self.path.name + "-wal")):
            try:
                status = path.stat()
            except FileNotFoundError:
                found.append(0)
            else:
                found += (status.st_ino, status.st_mtime_ns, status.st_size)
        return tuple(found)

    # -- spend

    def log_spend(self, row: SpendRow) -> None:
        """Remember one finished request. Returns at once."""
        self._spend.append(_spend_values(row))  # here: two threads that run Python wait for each other
        if (
            not self._spend_told
        ):  # one job takes all that has come when it runs: waking the thread costs more than a row
            self._spend_told = True
            self._database.tell(self._write_spend, self._lose_spend)

    def _write_spend(self, db: sqlite3.Connection) -> Any:
        """In the thread. What comes from here on tells anew."""
        self._spend_told = False
        import sqlite3

        while self._spend:
            rows = [self._spend.popleft() for _ in range(min(SPEND_AT_ONCE, len(self._spend)))]
            if len(rows) < SPEND_AT_ONCE:
                self._write_alone(db, rows)
                continue
            try:
                db.execute(_INSERT_MANY, list(chain.from_iterable(rows)))
            except sqlite3.OperationalError:
                raise
            except (sqlite3.Error, ValueError, TypeError, OverflowError):  # one of them is wrong
                self._write_alone(db, rows)
        return None

    def _lose_spend(self) -> None:
        """In the thread: the job did not run. What comes from here on tells anew."""
        self._spend_told = False
        self._spend.clear()

    def _write_alone(self, db: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> None:
        import sqlite3

        for values in rows:
            try:
                db.execute(_INSERT_SPEND, values)
            except sqlite3.OperationalError:
                raise
            except (sqlite3.Error, ValueError, TypeError, OverflowError):  # alone, so that it takes no other with it
                self.tell(partial(_again, _INSERT_SPEND, values))

    async def spend_rows(self, query: SpendQuery = ALL_SPEND) -> list[SpendRow]:
        """The newest rows first."""
        if not self.in_use():
            return []
        sql, values = rows_sql(query, _SPEND)
        rows = await self.ask(lambda db: db.execute(sql, values))
        flags = ("stream", "estimated", "cached", "continued", "cost_known")
        return [
            SpendRow(**{**row, "attempts": json.loads(row["attempts"]), **{name: bool(row[name]) for name in flags}})
            for row in rows
        ]

    async def spend_sums(self, query: SpendQuery, by: GroupBy | None) -> list[dict[str, Any]]:
        """`store_spend.sums_sql`'s rows."""
        if not self.in_use():
            return []
        sql, values = sums_sql(query, by)
        return [dict(row) for row in await self.ask(lambda db: db.execute(sql, values))]

    # -- budgets' running sums; every node writes its own, so that none overwrites another's

    async def spent(self, periods: Iterable[str]) -> list[tuple[str, str, str, str, float]]:
        """(kind, subject, period, node, USD) of these periods ("2026-11", "2026-11-21")."""
        if not self.in_use():
            return []
        chosen = list(periods)
        sql = f"SELECT * FROM spent WHERE period IN ({', '.join('?' * len(chosen))})"
        rows = await self.ask(lambda db: db.execute(sql, chosen))
        return [(row["kind"], row["subject"], row["period"], row["node"], row["usd"]) for row in rows]

    def save_spent(self, kind: str, subject: str, period: str, node: str, usd: float) -> None:
        """What `node` has spent in all in that period; sums never shrink. Returns at once."""
        sql = (
            "INSERT INTO spent (kind, subject, period, node, usd) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET usd = MAX(usd, excluded.usd)"
        )
        self.tell(lambda db: db.execute(sql, (kind, subject, period, node, usd)))

    # -- latency profile

    async def load_profile(self, node: str) -> dict[str, Any]:
        """What `save_profile` was given last, by name."""
        if not self.in_use():
            return {}
        rows = await self.ask(lambda db: db.execute("SELECT name, data FROM profile WHERE node = ?", (node,)))
        return {row["name"]: json.loads(row["data"]) for row in rows}

    def save_profile(self, node: str, rows: Mapping[str, Any]) -> None:
        """Write JSON-ready rows by name, in place of older ones of the same names. Returns at once."""
        values = [(node, name, json.dumps(data)) for name, data in rows.items()]
        self.tell(
            lambda db: db.executemany("INSERT OR REPLACE INTO profile (node, name, data) VALUES (?, ?, ?)", values)
        )

    def forget_profile(self, node: str, names: Iterable[str]) -> None:
        """Drop rows. Returns at once."""
        values = [(node, name) for name in names]
        self.tell(lambda db: db.executemany("DELETE FROM profile WHERE node = ? AND name = ?", values))

    # -- cached answers

    async def cache_get(self, key: str) -> bytes | None:
        """An entry that has not expired."""
        if not self.in_use():
            return None
        now = time.time()
        rows = await self.ask(
            lambda db: db.execute("SELECT value FROM cache WHERE key = ? AND expires > ?", (key, now))
        )
        if not rows:
            return None
        self.tell(lambda db: db.execute("UPDATE cache SET used = ? WHERE key = ?", (now, key)))
        return bytes(rows[0]["value"])

    def cache_put(self, key: str, value: bytes, ttl_s: float, max_bytes: int) -> None:
        """Keep an entry; those not used for longest go when all together are larger than `max_bytes`."""
        now = time.time()
        sql = "INSERT OR REPLACE INTO cache (key, value, expires, used) VALUES (?, ?, ?, ?)"
        self.tell(lambda db: db.execute(sql, (key, value, now + ttl_s, now)))
        if self._cache_puts % CACHE_TRIM_EVERY == 0:
            self.tell(lambda db: _trim_cache(db, now, max_bytes))
        self._cache_puts += 1

    # -- running

    async def flush(self) -> None:
        """Everything told before is on disk (or was complained about) when this returns."""
        if self._database.started:
            await self.ask(lambda db: None)

    def close(self) -> None:
        """Write what is left and end the thread. Blocks for that long; nothing may be called after it."""
        self._database.close()
        self._mark.close()

    def in_use(self) -> bool:
        """Whether there is anything to read: nobody's file is made by looking into it."""
        return self.path.exists() or (self._database.started and self._database.problem is None)

    async def check_room(self, *, thoroughly: bool = False) -> None:
        """Raises `StoreError` where nothing could be written lately and still cannot; `thoroughly`: where it cannot."""
        if thoroughly or self._database.problem is not None:
            sql = "INSERT OR REPLACE INTO profile (node, name, data) VALUES ('', 'room', 'null')"  # no node's row
            await self.ask(lambda db: db.execute(sql))

    async def _count(self, sql: str, values: tuple[Any, ...]) -> int:
        counted: list[int] = await self.ask(lambda db: db.execute(sql, values).rowcount)
        return counted[0]

    async def ask(self, job: Job) -> list[Any]:
        """What a statement gives, after every write before it. For tables with a module of their own."""
        return await asyncio.wrap_future(self._database.ask(job))

    def tell(self, job: Job) -> None:
        """Have a statement run. Returns at once."""
        self._database.tell(job)


def _prepare(db: sqlite3.Connection, where: str) -> None:
    import sqlite3

    from exo_node.store_schema import migrate

    migrate(db, where)
    old = time.strftime("%Y-%m", time.gmtime(time.time() - SUMS_KEPT_S))
    with contextlib.suppress(sqlite3.OperationalError):  # it can wait for a disk that takes it
        db.execute("DELETE FROM spend WHERE at < ?", (time.time() - SPEND_KEPT_S,))
        db.execute("DELETE FROM spent WHERE period < ?", (old,))


def _trim_cache(db: sqlite3.Connection, now: float, max_bytes: int) -> None:
    db.execute("DELETE FROM cache WHERE expires <= ?", (now,))
    total = int(db.execute("SELECT COALESCE(SUM(LENGTH(value)), 0) FROM cache").fetchone()[0])
    for key, size in db.execute("SELECT key, LENGTH(value) FROM cache ORDER BY used").fetchall():
        if total <= max_bytes:
            break
        db.execute("DELETE FROM cache WHERE key = ?", (key,))
        total -= size


def _marks(names: tuple[str, ...]) -> str:
    return f"VALUES ({', '.join('?' * len(names))})"


def _spend_values(row: SpendRow) -> tuple[Any, ...]:
    try:
        attempts = orjson.dumps(row.attempts).decode()  # 10 times faster
    except TypeError:  # half a surrogate pair in a name
        attempts = json.dumps(row.attempts)
    return (*_PLAIN_SPEND(row), attempts)


def _again(sql: str, values: tuple[Any, ...], db: sqlite3.Connection) -> Any:
    return db.execute(sql, values)


_INSERT_SPEND = f"INSERT INTO spend ({', '.join(_SPEND)}) {_marks(_SPEND)}"
_INSERT_MANY = _INSERT_SPEND + f", ({', '.join('?' * len(_SPEND))})" * (SPEND_AT_ONCE - 1)
