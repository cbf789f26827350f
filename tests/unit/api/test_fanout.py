"""Several sequences with one reader."""

from __future__ import annotations

import asyncio

import pytest

from exo_node.api.fanout import Fanout
from exo_node.errors import NoCapacity, RingBroken
from exo_node.types import GenerationRequest, TokenDelta
from tests.unit.api.scripted import END, ScriptedBackend, until

REQUESTS = [GenerationRequest(request_id=str(i), model="demo", prompt="x") for i in range(2)]


async def test_all_deltas_come_with_their_index() -> None:
    """Deltas keep their order within a sequence, and the fan-out runs until each has finished."""
    backend = ScriptedBackend(lambda request: [TokenDelta(request.request_id), END])
    got: list[tuple[int, str]] = []
    async with Fanout(backend, REQUESTS) as fanout:
        while fanout.running:
            got += [(index, delta.text) for index, delta in await fanout.take()]
    assert [text for index, text in got if index == 1] == ["1", ""]
    assert len(got) == 4
    assert backend.open == 0


async def test_an_error_comes_after_what_came_before_it() -> None:
    """Deltas before a failure are delivered, then the failure; the other sequence is closed."""
    event = asyncio.Event()
    backend = ScriptedBackend(
        lambda request: [TokenDelta("a"), NoCapacity("full")] if request.request_id == "0" else [event]
    )
    with pytest.raises(NoCapacity):
        async with Fanout(backend, REQUESTS) as fanout:
            await until(lambda: backend.open == 1)
            assert [delta.text for _, delta in await fanout.take()] == ["a"]
            await fanout.take()
    assert backend.open == 0


async def test_an_answer_without_an_end_is_a_failure() -> None:
    """A stream that just stops is never taken for a complete answer."""
    with pytest.raises(RingBroken, match="broke off"):
        async with Fanout(ScriptedBackend([TokenDelta("a")]), REQUESTS[:1]) as fanout:
            while fanout.running:
                await fanout.take()


async def test_leaving_closes_the_generators() -> None:
    """Leaving early ends every sequence before it returns."""
    backend = ScriptedBackend([asyncio.Event()])
    async with Fanout(backend, REQUESTS):
        await until(lambda: backend.open == 2)
    assert backend.open == 0
