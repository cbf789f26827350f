"""Questions to the spend log, put to a real database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exo_node.store import SpendRow, Store
from exo_node.store_schema import MIGRATIONS
from exo_node.store_spend import NOTHING, GroupBy, SpendQuery

DAY = 86400.0
NOON = 1795262400.0  # 2026-11-21 12:00 UTC


def row(ident: str, at: float, **changes: object) -> SpendRow:
    values: dict[str, Any] = {
        "id": ident, "at": at, "kind": "chat", "model": "fast", "served_model": "gpt-4o", "backend": "openai/1",
        "provider": "openai", "node": "a", "key_id": "key-1", "user": "bob", "stream": True, "status": 200,
        "error_code": "", "prompt_tokens": 3, "completion_tokens": 4, "cached_tokens": 1, "cost": 0.5,
        "estimated": False, "cached": False, "continued": False, "ttft_s": None, "total_s": 1.5,
    }  # fmt: skip
    return SpendRow(**{**values, **changes})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "log.db")
    made.log_spend(row("one", NOON))
    made.log_spend(row("two", NOON + DAY, cost=0.25, estimated=True))
    made.log_spend(row("three", NOON + DAY, provider="exo", served_model="demo", key_id="", user="", cost=0.0))
    unpriced: dict[str, Any] = {"cost": 0.0, "cost_known": False, "user": "eve"}
    made.log_spend(row("four", NOON + 2 * DAY, **unpriced, status=504, provider="", served_model="", backend=""))
    yield made
    made.close()


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("day", [("2026-11-23", 1, 0.0), ("2026-11-22", 2, 0.25), ("2026-11-21", 1, 0.5)]),
        ("key", [("key-1", 3, 0.75), ("", 1, 0.0)]),
        ("model", [("gpt-4o", 2, 0.75), ("demo", 1, 0.0), ("fast", 1, 0.0)]),
        ("provider", [("openai", 2, 0.75), ("", 1, 0.0), ("exo", 1, 0.0)]),
        ("user", [("bob", 2, 0.75), ("", 1, 0.0), ("eve", 1, 0.0)]),
    ],
)
async def test_sums(store: Store, by: GroupBy, groups: list[tuple[str, int, float]]) -> None:
    """By day the newest first, else the dearest; a call that nobody answered counts for the asked model."""
    found = await store.spend_sums(SpendQuery(), by)
    assert [(one[by], one["requests"], one["cost"]) for one in found] == groups
    assert len(await store.spend_sums(SpendQuery(limit=1), by)) == 1


async def test_what_is_counted(store: Store) -> None:
    """Tokens, failures, estimates and calls without a known price; nothing found is all zeros, whatever the limit."""
    (total,) = await store.spend_sums(SpendQuery(limit=1), None)
    assert total == {
        "requests": 4, "failed": 1, "cached": 0, "prompt_tokens": 12, "completion_tokens": 16, "cached_tokens": 4,
        "cost": 0.75, "estimated": 1, "unpriced": 1,
    }  # fmt: skip
    assert await store.spend_sums(SpendQuery(model="nobody's"), None) == [NOTHING]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        (SpendQuery(), ["four", "three", "two", "one"]),
        (SpendQuery(limit=2), ["four", "three"]),
        (SpendQuery(since=NOON + DAY, until=NOON + 2 * DAY), ["three", "two"]),
        (SpendQuery(key_id="key-1"), ["four", "two", "one"]),
        (SpendQuery(key_id=""), ["three"]),
        (SpendQuery(model="fast"), ["four", "three", "two", "one"]),
        (SpendQuery(model="gpt-4o", key_id="key-1"), ["two", "one"]),
    ],
)
async def test_which_calls(store: Store, query: SpendQuery, ids: list[str]) -> None:
    """By time, key, and model as asked or as served; the newest first."""
    assert [one.id for one in await store.spend_rows(query)] == ids


async def test_a_log_of_the_version_before(tmp_path: Path) -> None:
    """Rows of a file that knew nothing of unknown prices are kept, as known."""
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as db:
        db.executescript(MIGRATIONS[0])
        db.execute("INSERT INTO spend VALUES ('old', ?, 'chat', 'm', 'm', 'b', 'p', 'n', '', '', 0, 200, '', 1, 2, 0, "
                   "0.5, 0, 0, 0, NULL, 1.0, '[]')", (NOON,))  # fmt: skip
        db.execute("PRAGMA user_version = 1")
    db.close()
    made = Store(path)
    made.log_spend(row("new", NOON, cost=0.0, cost_known=False))
    found = await made.spend_rows()
    made.close()
    assert [(one.id, one.cost, one.cost_known) for one in found] == [("new", 0.0, False), ("old", 0.5, True)]
