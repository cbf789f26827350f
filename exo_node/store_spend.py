"""Questions to the spend log as SQL. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

GroupBy = Literal["day", "key", "model", "provider", "user"]
# Days are UTC's, as budgets' are. A call that nobody answered counts for the model that was asked.
GROUPS: Mapping[GroupBy, str] = {
    "day": "strftime('%Y-%m-%d', at, 'unixepoch')",
    "key": "key_id",
    "model": "CASE served_model WHEN '' THEN model ELSE served_model END",
    "provider": "provider",
    "user": "user",
}
_SUMS = {
    "requests": "COUNT(*)",
    "failed": "SUM(status >= 400)",
    "cached": "SUM(cached)",
    "prompt_tokens": "SUM(prompt_tokens)",
    "completion_tokens": "SUM(completion_tokens)",
    "cached_tokens": "SUM(cached_tokens)",
    "cost": "TOTAL(cost)",
    "estimated": "SUM(estimated)",
    "unpriced": "SUM(NOT cost_known)",
}
NOTHING: Mapping[str, float] = dict.fromkeys(_SUMS, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendQuery:
    """Which calls: from `since` to before `until` (wall-clock seconds), of a key (its id; "": calls without one), of a
    model (as asked or as served). `limit`: rows of the answer."""

    since: float = 0.0
    until: float | None = None
    key_id: str | None = None
    model: str | None = None
    limit: int = 100


def rows_sql(query: SpendQuery, columns: tuple[str, ...]) -> tuple[str, list[object]]:
    """The newest first."""
    where, values = _where(query)
    sql = f"SELECT {', '.join(columns)} FROM spend WHERE {where} ORDER BY at DESC, rowid DESC LIMIT ?"
    return sql, [*values, query.limit]


def sums_sql(query: SpendQuery, by: GroupBy | None) -> tuple[str, list[object]]:
    """One row a group, the newest day or the dearest first; `by` None: one row for all, which `limit` does not touch.

    `estimated`: calls of which some tokens are estimates; `unpriced`: calls whose `cost` lacks something.
    """
    where, values = _where(query)
    sums = ", ".join(f"COALESCE({sql}, 0) AS {name}" for name, sql in _SUMS.items())
    if by is None:
        return f"SELECT {sums} FROM spend WHERE {where}", values
    order = "1 DESC" if by == "day" else "cost DESC, requests DESC, 1"
    sql = f"SELECT {GROUPS[by]} AS {by}, {sums} FROM spend WHERE {where} GROUP BY 1 ORDER BY {order} LIMIT ?"
    return sql, [*values, query.limit]


def _where(query: SpendQuery) -> tuple[str, list[object]]:
    where: list[str] = ["at >= ?"]
    values: list[object] = [query.since]
    if query.until is not None:
        where.append("at < ?")
        values.append(query.until)
    if query.key_id is not None:
        where.append("key_id = ?")
        values.append(query.key_id)
    if query.model is not None:
        where.append("(model = ? OR served_model = ?)")
        values += [query.model, query.model]
    return " AND ".join(where), values
