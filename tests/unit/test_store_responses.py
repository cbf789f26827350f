"""Stored responses in the node's database."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from exo_node.store import Store, store_path
from exo_node.store_responses import KEPT_S, TRIM_EVERY, ResponseRow, ResponseTable


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(store_path(tmp_path / "home"))
    yield store
    store.close()


def row(ident: str, previous: str | None = None, owner: str = "key-1") -> ResponseRow:
    return ResponseRow(
        id=ident,
        owner=owner,
        node="a",
        created=time.time(),
        previous=previous,
        input=[{"type": "message", "id": f"in-{ident}"}],
        response={"id": ident, "status": "completed", "metadata": {"half": "\ud800"}},
    )


async def test_looking_makes_no_file(store: Store) -> None:
    """A node that nobody stores a response with has no database because of them."""
    table = ResponseTable(store)
    assert await table.get("resp_1", "") is None
    assert await table.chain("resp_1", "") == []
    assert await table.remove("resp_1", "") is False
    assert not store.path.exists()


async def test_a_response_comes_back_to_its_owner_only(store: Store) -> None:
    """It comes back as it was put last, to its own key; another key neither sees nor removes it."""
    table = ResponseTable(store)
    first = row("resp_1")
    table.put(replace(first, response={"status": "queued"}))
    table.put(replace(first, events=(b"event: a\ndata: {}\n\n", b"event: b\ndata: {}\n\n")))
    found = await table.get("resp_1", "key-1")
    assert found is not None
    assert found.response == first.response
    assert found.events == [b"event: a\ndata: {}\n\n", b"event: b\ndata: {}\n\n"]
    assert await table.get("resp_1", "key-2") is None
    assert await table.get("resp_1", "") is None
    assert await table.remove("resp_1", "key-2") is False
    assert await table.remove("resp_1", "key-1") is True
    assert await table.get("resp_1", "key-1") is None


async def test_a_chain_begins_after_what_is_gone(store: Store) -> None:
    """A response with all before it, the oldest first; a removed one ends the way back."""
    table = ResponseTable(store)
    for i in range(4):
        table.put(row(f"resp_{i}", f"resp_{i - 1}" if i else None))
    assert [one.id for one in await table.chain("resp_3", "key-1")] == ["resp_0", "resp_1", "resp_2", "resp_3"]
    assert await table.chain("resp_3", "key-2") == []
    await table.remove("resp_1", "key-1")
    assert [one.id for one in await table.chain("resp_3", "key-1")] == ["resp_2", "resp_3"]


async def test_old_and_too_many_go(store: Store) -> None:
    """What is older than 30 days is not found and goes; beyond the bound on bytes the oldest go first."""
    table = ResponseTable(store, max_bytes=2000)
    table.put(replace(row("resp_old"), created=time.time() - KEPT_S - 1))
    assert await table.get("resp_old", "key-1") is None
    for i in range(TRIM_EVERY):
        table.put(row(f"resp_{i}"))
    await store.flush()
    left = [i for i in range(TRIM_EVERY) if await table.get(f"resp_{i}", "key-1")]
    assert 0 < len(left) < TRIM_EVERY
    assert left == list(range(TRIM_EVERY - len(left), TRIM_EVERY))
    assert await store.ask(lambda db: db.execute("SELECT id FROM responses WHERE id = 'resp_old'")) == []
