"""What requests take from stored responses, and whose they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exo_node.api.dialects.responses_encoder import ResponsesEncoder
from exo_node.api.dialects.responses_kept import KeepingEncoder, KeptResponses, Owner
from exo_node.api.dialects.responses_request import Given, decode
from exo_node.errors import ExoError, InvalidRequest, StoreError
from exo_node.store import Store, store_path
from exo_node.store_responses import ResponseRow, ResponseTable

OURS, THEIRS = Owner("key-1"), Owner("key-2")
ANSWER = {"model": "m", "choices": [{"index": 0, "message": {"content": "Yes"}, "finish_reason": "stop"}]}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(store_path(tmp_path / "home"))
    yield store
    store.close()


def name(digit: int) -> str:
    return f"resp_{digit:032x}"


async def keep(
    kept: KeptResponses, number: int, status: str = "completed", created: float = 0, owner: Owner = OURS, **body: Any
) -> None:
    """Store the response of that number, made from `body`."""
    given = await kept.given(body, name(number), owner)
    asked = decode({"input": f"q{number}", **body}, given)
    response = ResponsesEncoder(asked).whole(ANSWER)
    given = Given(id=given.id, created=int(created or time.time()))
    kept.put(given, asked.items, owner, {**response, "status": status})


async def test_a_conversation(store: Store) -> None:
    """The earlier inputs and answers are the history; every item of theirs can be referred to; others see nothing."""
    kept = KeptResponses(ResponseTable(store), "a", 9)
    await keep(kept, 1)
    await keep(kept, 2, previous_response_id=name(1))
    items = [{"id": f"msg_{1:032x}o0"}, {"id": f"msg_{2:032x}i0"}, {"id": "msg_unknown"}]
    given = await kept.given({"previous_response_id": name(2), "input": items}, name(3), OURS)
    assert [item["content"][0]["text"] for item in given.history] == ["q1", "Yes", "q2", "Yes"]
    assert [given.stored[item["id"]]["content"][0]["text"] for item in items[:2]] == ["Yes", "q2"]
    assert "msg_unknown" not in given.stored
    row = await kept.stored(name(2), OURS)
    assert row is not None
    context = await kept.context(row, OURS)
    assert [item["content"][0]["text"] for item in context] == ["q1", "Yes", "q2"]
    with pytest.raises(InvalidRequest) as caught:
        await kept.given({"previous_response_id": name(2)}, name(3), THEIRS)
    assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")
    assert (await kept.given({"input": items}, name(3), THEIRS)).stored == {}
    assert await kept.stored(name(2), THEIRS) is None
    assert not await kept.remove(name(2), THEIRS)


async def test_what_other_nodes_keep(store: Store, tmp_path: Path) -> None:
    """The beginning of a conversation, and items, may be at another node; who made them is known there by the asker."""
    other = Store(store_path(tmp_path / "other"))
    there, asked = KeptResponses(ResponseTable(other), "b", 9), []

    async def fetch(ident: str, owner: Owner) -> list[ResponseRow]:
        asked.append(ident)
        return await there.own_chain(ident, owner)

    kept = KeptResponses(ResponseTable(store), "a", 9, fetch)
    mine = Owner("key-7", "asker")
    await keep(there, 1, owner=Owner("key-3", "asker"))
    await keep(kept, 2, owner=mine, previous_response_id=name(1))
    items = [{"id": f"msg_{1:032x}o0"}]
    given = await kept.given({"previous_response_id": name(2), "input": items}, name(3), mine)
    assert [item["content"][0]["text"] for item in given.history] == ["q1", "Yes", "q2", "Yes"]
    assert list(given.stored) == [f"msg_{1:032x}i0", f"msg_{1:032x}o0"]
    assert set(asked) == {name(1)}
    with pytest.raises(InvalidRequest):
        await kept.given({"previous_response_id": name(1)}, name(3), Owner("key-9", "another"))
    other.close()


async def test_what_cannot_be_gone_on_from(store: Store) -> None:
    """A conversation whose beginning is gone, and a response that is not complete, are named."""
    kept = KeptResponses(ResponseTable(store), "a", 9)
    await keep(kept, 1)
    await keep(kept, 2, previous_response_id=name(1))
    await kept.remove(name(1), OURS)
    with pytest.raises(InvalidRequest, match=f"earlier response '{name(1)}' is no longer stored"):
        await kept.given({"previous_response_id": name(2)}, name(3), OURS)
    await keep(kept, 4, status="in_progress")
    with pytest.raises(InvalidRequest, match="not complete yet"):
        await kept.given({"previous_response_id": name(4)}, name(5), OURS)


async def test_one_whose_node_is_gone_has_failed(store: Store) -> None:
    """What this node does not make any more, and what another cannot be making any more, has failed."""
    here, there = (KeptResponses(ResponseTable(store), node, 9) for node in ("a", "b"))

    async def now(kept: KeptResponses, number: int) -> dict[str, Any]:
        row = await kept.stored(name(number), OURS)
        assert row is not None
        return kept.judged(row).response

    await keep(here, 1, status="queued")
    assert (await now(there, 1))["status"] == "queued"
    failed = await now(here, 1)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
    await keep(here, 2, status="in_progress", created=time.time() - 100)
    assert (await now(there, 2))["status"] == "failed"
    row = await here.stored(name(1), OURS)
    assert row is not None
    assert here.judged(replace(row, mirror="b")).response["status"] == "queued"  # it may go on there


def test_it_is_kept_when_it_has_ended() -> None:
    """A whole answer, a stream's end and its failure are kept, each once."""
    kept: list[str] = []
    for end in ("whole", "end", "fail"):
        asked = decode({"input": "x"}, Given(id=name(1), created=1))
        one = KeepingEncoder(ResponsesEncoder(asked), lambda response: kept.append(response["status"]))
        if end == "whole":
            assert one.whole(ANSWER)["status"] == "completed"
        else:
            assert one.feed({"choices": [{"index": 0, "delta": {"content": "Hi"}}]})
            assert one.end() if end == "end" else one.fail(ExoError("broken"))
    assert kept == ["completed", "completed", "failed"]


async def test_where_nothing_can_be_stored(tmp_path: Path) -> None:
    """A client that asks to have its response stored hears that the disk takes none; one that does not say gets its
    response, which says that it is not stored; both as before once there is room."""
    (tmp_path / "file").write_text("")
    store = Store(store_path(tmp_path / "file"))
    kept = KeptResponses(ResponseTable(store), "a", 9)
    for asks in ({"store": True}, {"background": True}):
        with pytest.raises(StoreError, match="cannot be written") as caught:
            await kept.as_it_can_be({"input": "q", **asks})
        assert caught.value.status == 507
    assert await kept.as_it_can_be({"input": "q"}) == {"input": "q", "store": False}
    assert await kept.as_it_can_be({"input": "q", "store": False}) == {"input": "q", "store": False}
    (tmp_path / "file").unlink()
    async with asyncio.timeout(30):
        while "store" in await kept.as_it_can_be({"input": "q"}):  # noqa: ASYNC110 - bounded, a disk tells nobody
            await asyncio.sleep(0.02)
    for body in ({"input": "q"}, {"input": "q", "store": True}):
        assert await kept.as_it_can_be(body) == body
    store.close()
