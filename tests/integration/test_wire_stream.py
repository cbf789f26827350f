"""A provider's stream given away as it comes: nothing is lost, and every end is found by the next pull."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from exo_node.routing.call import Attempt, Batch, Call, UpstreamError
from exo_node.routing.deployment import Deployment
from exo_node.routing.upstream.connections import Connections
from exo_node.routing.upstream.passthrough import PassThrough
from exo_node.routing.upstream.wire_stream import WireStream
from tests.standins import Script, standin

LONG = " ".join(map(str, range(60)))


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    made = Connections()
    yield made
    await made.close()


def ask(connections: Connections, url: str) -> WireStream:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    call = Call(id="c", kind="chat", model="m", body=body, stream=True, deadline=time.monotonic() + 60, prompt_tokens=1)
    one = Deployment(id="cloud", model_name="m", litellm_model="openai/gpt", provider="openai", upstream_model="gpt",
                     params={"api_key": "k"}, api_base=url + "/v1")  # fmt: skip
    return PassThrough(connections, one).stream(Attempt(call=call, timeout_s=30))


async def follow(stream: WireStream, at_most: int = 10**6) -> tuple[str, int]:
    """(the whole text, how many batches were pulled). `at_most`: then what flows is refused once, and pulled from."""
    batches: list[Batch] = []
    pulled = 0

    def each(batch: Batch) -> bool:
        batches.append(batch)
        return len(batches) % at_most != 0

    try:
        async for batch in stream:
            pulled += 1
            batches.append(batch)
            stopped = asyncio.Event()
            if stream.flow(each, stopped.set):
                await stopped.wait()
    finally:
        await stream.aclose()
    events = [event for batch in batches for event in batch.events]
    return "".join(c["delta"].get("content") or "" for event in events for c in event["choices"]), pulled


@pytest.mark.parametrize("at_most", [1, 3, 10**6])
@pytest.mark.parametrize("join", [1, 7])
async def test_all_of_it_in_order(connections: Connections, at_most: int, join: int) -> None:
    """Whether its taker stops often or never, and the connection serves the next request."""
    async with standin("openai") as one:
        one.script = Script(text=LONG, gap_s=0.001, join=join)
        for _ in range(2):
            text, pulled = await follow(ask(connections, one.url), at_most)
            assert text == one.script.text
            if at_most > 60:
                assert pulled <= 2
        assert one.accepted == 1


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        (Script(reset_after=20, text=LONG, gap_s=0.001), "reset"),
        (Script(cut_after=20, text=LONG, gap_s=0.001), "eof"),
        (Script(malformed_after=20, text=LONG, gap_s=0.001), "malformed"),
        (Script(error_after=20, text=LONG, gap_s=0.001), "server"),
    ],
)
async def test_a_failure_while_it_flows(connections: Connections, script: Script, cause: str) -> None:
    """The next pull raises it."""
    async with standin("openai") as one:
        one.script = script
        with pytest.raises(UpstreamError) as caught:
            await follow(ask(connections, one.url))
        assert caught.value.cause == cause


async def test_closing_while_it_flows_ends_the_connection(connections: Connections) -> None:
    """Nothing is given to anybody afterwards."""
    async with standin("openai") as one:
        one.script = Script(stall_after=5)
        stream = ask(connections, one.url)
        seen: list[Batch] = [await anext(stream)]

        def each(batch: Batch) -> bool:
            seen.append(batch)
            return True

        assert stream.flow(each, lambda: None)
        await stream.aclose()
        count = len(seen)
        stream.flow(each, lambda: None)
        assert len(seen) == count
