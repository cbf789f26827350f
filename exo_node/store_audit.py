"""The audit log in a node's database: who changed what the nodes of this machine do, and with what result.

No bodies and no secrets: names only. It is bounded by rows; the oldest go.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any

from exo_node.store import Store

if TYPE_CHECKING:
    import sqlite3

MAX_ROWS = 100_000
TRIM_EVERY = 64  # rows between two looks at how many there are
MAX_TEXT = 300  # characters of `what`


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One act. `at` is wall-clock. `key_id`, `key_name` and `address` say who: "" where no key was needed, and for the
    command line. `act` is a route or a verb, `what` names what it was done to, `status` is HTTP's.
    """

    at: float
    node: str
    key_id: str
    key_name: str
    address: str
    act: str
    what: str
    status: int
    error_code: str = ""


_COLUMNS = tuple(one.name for one in fields(AuditRow))
_INSERT = f"INSERT INTO audit ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"


class AuditTable:
    """Over the node's database. Reading may raise `StoreError`."""

    def __init__(self, store: Store, max_rows: int = MAX_ROWS) -> None:
        self._store = store
        self._max_rows = max_rows

    def note(self, row: AuditRow) -> None:
        """Keep it. Returns at once; every later read sees it."""
        self._store.tell(partial(_insert, _values(row), self._max_rows))

    async def rows(self, *, since: float = 0.0, until: float | None = None, limit: int = 100) -> list[AuditRow]:
        """The newest first."""
        if not self._store.in_use():
            return []
        end = float("inf") if until is None else until
        sql = f"SELECT {', '.join(_COLUMNS)} FROM audit WHERE at >= ? AND at < ? ORDER BY id DESC LIMIT ?"
        found = await self._store.ask(lambda db: db.execute(sql, (since, end, limit)))
        return [AuditRow(**dict(row)) for row in found]


def _values(row: AuditRow) -> tuple[Any, ...]:
    """What the database takes: halves of surrogate pairs, which a client can send, are none of it."""
    texts = (one.encode(errors="replace").decode()[:MAX_TEXT] if isinstance(one, str) else one for one in astuple(row))
    return tuple(texts)


def _insert(values: tuple[Any, ...], max_rows: int, db: sqlite3.Connection) -> Any:
    number = db.execute(_INSERT, values).lastrowid or 0
    if number % TRIM_EVERY == 0:
        db.execute("DELETE FROM audit WHERE id <= ?", (number - max_rows,))
    return None
