"""The Responses API's stored answers in a node's database: each with its own input and the response before it."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from exo_node.store import Store

if TYPE_CHECKING:
    import sqlite3

KEPT_S = 30 * 86400.0  # OpenAI's
MAX_BYTES = 512 * 1024 * 1024  # of all of them, compressed; then the oldest go
TRIM_EVERY = 32  # puts between two looks at the size
_COLUMNS = "id, owner, node, created, previous, input, response, events, asker, term, mirror"
# A copy of a peer's: the ids of its API keys mean nothing here, its asker (an `AskerSigner`'s word) does.
MIRRORED = "@mirror"
_MAY_SEE = "(owner = ? OR (asker = ? AND asker != ''))"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseRow:
    """`owner` is an API key's id, `asker` that key in every node's words ("": nobody but this machine knows it), `node`
    the one that makes or made it. `input` are its own items, without those of the `previous` one. `events` are the
    frames of its stream, for those that may be fetched as one again. Of two with different `term`s the higher is right;
    `mirror` is the node that can go on with it.
    """

    id: str
    owner: str
    node: str
    created: float
    previous: str | None
    input: list[dict[str, Any]]
    response: dict[str, Any]
    events: Sequence[bytes] | None = None
    asker: str = ""
    term: int = 0
    mirror: str = ""


class ResponseTable:
    """Over the node's database. Every method may raise `StoreError`. `max_bytes` bounds what is kept."""

    def __init__(self, store: Store, max_bytes: int = MAX_BYTES) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._puts = 0

    def put(self, row: ResponseRow) -> None:
        """Keep it, in place of an older state of it. Returns at once; every later read sees it."""
        head = (row.id, row.owner, row.node, row.created, row.previous, row.asker, row.term, row.mirror)
        blobs = (_json(row.input), _json(row.response), None if row.events is None else b"".join(row.events))
        self._store.tell(partial(_insert, head, blobs))
        if self._puts % TRIM_EVERY == 0:
            now = time.time()
            self._store.tell(lambda db: _trim(db, now, self._max_bytes))
        self._puts += 1

    async def check_room(self, *, thoroughly: bool) -> None:
        """`Store.check_room`."""
        await self._store.check_room(thoroughly=thoroughly)

    async def get(self, ident: str, owner: str, asker: str = "") -> ResponseRow | None:
        """None for another owner's, too."""
        sql = f"SELECT {_COLUMNS} FROM responses WHERE id = ? AND {_MAY_SEE} AND created > ?"
        rows = await self._rows(sql, ident, owner, asker)
        return rows[0] if rows else None

    async def chain(self, ident: str, owner: str, asker: str = "") -> list[ResponseRow]:
        """The response and all before it, the oldest first; without those that are gone, and what came before them."""
        sql = (
            "WITH RECURSIVE chain(next, depth) AS (VALUES (?, 0) UNION ALL SELECT previous, depth + 1 FROM chain, "
            "responses WHERE id = next AND previous IS NOT NULL) "
            f"SELECT {_COLUMNS} FROM chain JOIN responses ON id = next AND {_MAY_SEE} AND created > ? "
            "ORDER BY depth DESC"
        )
        return await self._rows(sql, ident, owner, asker)

    async def remove(self, ident: str, owner: str, asker: str = "") -> bool:
        """False where there was none."""
        if not self._store.in_use():
            return False
        sql = f"DELETE FROM responses WHERE id = ? AND {_MAY_SEE}"
        counted = await self._store.ask(lambda db: db.execute(sql, (ident, owner, asker)).rowcount)
        return bool(counted[0])

    def bury(self, ident: str, asker: str) -> None:
        """Remember that the response was deleted, as long as another node may have it. Returns at once."""
        sql = "INSERT OR REPLACE INTO deleted_responses (id, asker, at) VALUES (?, ?, ?)"
        values = (ident, asker, time.time())
        self._store.tell(lambda db: db.execute(sql, values))

    async def buried(self) -> list[tuple[str, str]]:
        """(id, asker) of those."""
        if not self._store.in_use():
            return []
        sql, oldest = "SELECT id, asker FROM deleted_responses WHERE at > ?", time.time() - KEPT_S
        rows = await self._store.ask(lambda db: db.execute(sql, (oldest,)))
        return [(row["id"], row["asker"]) for row in rows]

    async def _rows(self, sql: str, ident: str, owner: str, asker: str) -> list[ResponseRow]:
        if not self._store.in_use():
            return []
        oldest = time.time() - KEPT_S
        return [_row(row) for row in await self._store.ask(lambda db: db.execute(sql, (ident, owner, asker, oldest)))]


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


# Every node that shares the file may write it: whose it is stays, and a lower term does not overwrite a higher one.
_WRITTEN = ("id", "owner", "node", "created", "previous", "asker", "term", "mirror", "input", "response", "events")
_PUT = (
    f"INSERT INTO responses ({', '.join(_WRITTEN)}) VALUES ({', '.join('?' * len(_WRITTEN))}) "
    "ON CONFLICT DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _WRITTEN if name not in ("id", "owner"))
    + " WHERE excluded.term >= term"
)


def _insert(head: tuple[Any, ...], blobs: tuple[bytes | None, ...], db: sqlite3.Connection) -> Any:
    """In the database's thread, which alone waits for zlib."""
    return db.execute(_PUT, (*head, *(None if blob is None else zlib.compress(blob, 1) for blob in blobs)))


def _row(row: dict[str, Any]) -> ResponseRow:
    events = row["events"]
    read = {name: json.loads(zlib.decompress(row[name])) for name in ("input", "response")}
    frames = None if events is None else [one + b"\n\n" for one in zlib.decompress(events).split(b"\n\n")[:-1]]
    return ResponseRow(**{**row, **read, "events": frames})


def _trim(db: sqlite3.Connection, now: float, max_bytes: int) -> None:
    db.execute("DELETE FROM responses WHERE created <= ?", (now - KEPT_S,))
    db.execute("DELETE FROM deleted_responses WHERE at <= ?", (now - KEPT_S,))
    size = "LENGTH(input) + LENGTH(response) + LENGTH(COALESCE(events, ''))"
    total = int(db.execute(f"SELECT COALESCE(SUM({size}), 0) FROM responses").fetchone()[0])
    if total <= max_bytes:
        return
    for ident, one in db.execute(f"SELECT id, {size} FROM responses ORDER BY created").fetchall():
        if total <= max_bytes:
            break
        db.execute("DELETE FROM responses WHERE id = ?", (ident,))
        total -= one
