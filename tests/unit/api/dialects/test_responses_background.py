"""Responses in the background: their frames, and who ends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from exo_node.api.dialects.responses_background import MAX_JOBS, Background, Job
from exo_node.api.dialects.responses_encoder import ResponsesEncoder
from exo_node.api.dialects.responses_request import Given, decode
from exo_node.errors import NoCapacity, RateLimited
from tests.unit.api.dialects.responses_events import names, parsed
from tests.unit.api.scripted import until


class Made:
    """A job over scripted pieces, and what was kept of it."""

    def __init__(self, *steps: Any) -> None:
        asked = decode({"model": "m", "input": "Hi", "background": True}, Given(id="resp_" + "d" * 32, created=1))
        self.encoder = ResponsesEncoder(asked)
        self.kept: list[dict[str, Any]] = []
        self.steps = steps
        self.job = Job(self.encoder, "key-1", lambda job: self.kept.append(dict(job.encoder.response())))
        self.job.add(self.encoder.queue())

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        for step in self.steps:
            if isinstance(step, str):
                yield self.encoder.feed({"choices": [{"index": 0, "delta": {"content": step}}]})
            elif isinstance(step, Exception):
                raise step
            else:
                await step.wait()
        yield self.encoder.end()

    async def events(self, after: int = -1) -> bytes:
        return b"".join([piece async for piece in self.job.follow(after)])

    @property
    def status(self) -> str:
        (kept,) = self.kept
        return str(kept["status"])


async def test_it_is_followed_from_anywhere() -> None:
    """A reader gets what was, then what comes, from the number that it names; another owner finds nothing."""
    going = asyncio.Event()
    made, background = Made("Hi", going, " you"), Background(9)
    background.start("r", made.job, made.pieces())
    assert background.get("r", "key-2") is None
    assert background.get("r", "key-1") is made.job
    follower = asyncio.create_task(made.events())
    await until(lambda: len(made.job.frames) >= 6)
    going.set()
    raw = await follower
    assert names(parsed(raw))[-1] == "completed"
    assert raw.endswith(await made.events(4))
    assert (await made.events(4)).count(b"\n\n") == raw.count(b"\n\n") - 5
    await until(lambda: background.get("r", "key-1") is None)
    assert made.status == "completed"
    await background.close()


async def test_cancelled() -> None:
    """Cancelling keeps what was said so far, and ends its readers with an error."""
    made, background = Made("Hi", asyncio.Event()), Background(9)
    background.start("r", made.job, made.pieces())
    follower = asyncio.create_task(made.events())
    await until(lambda: len(made.job.frames) >= 6)
    await background.cancel("r", made.job)
    last = parsed(await follower)[-1]
    assert (last.type, last.code) == ("error", "response_cancelled")
    assert made.status == "cancelled"
    assert made.kept[0]["output"][0]["content"][0]["text"] == "Hi"
    await background.cancel("r", made.job)
    assert len(made.kept) == 1


@pytest.mark.parametrize(("failure", "code"), [(NoCapacity("full"), "no_capacity"), (ValueError(), "internal_error")])
async def test_failures(failure: Exception, code: str) -> None:
    """A failure of the answer, and a bug of ours, fail the response."""
    made, background = Made("Hi", failure), Background(9)
    background.start("r", made.job, made.pieces())
    events = parsed(await made.events())
    assert [names(events)[-2:], events[-2].code] == [["error", "failed"], code]
    assert made.status == "failed"


async def test_late() -> None:
    """A response that takes longer than any may fails."""
    made, background = Made(asyncio.Event()), Background(0.01)
    background.start("r", made.job, made.pieces())
    assert parsed(await made.events())[-2].code == "deadline_exceeded"


async def test_closing_ends_all() -> None:
    """A node that stops fails what it was making, and takes so many at once only."""
    background, many = Background(9), [Made(asyncio.Event()) for _ in range(MAX_JOBS)]
    for i, made in enumerate(many):
        background.check_room()
        background.start(str(i), made.job, made.pieces())
    with pytest.raises(RateLimited):
        background.check_room()
    await background.close()
    assert {made.status for made in many} == {"failed"}
    assert parsed(b"".join(many[0].job.frames))[-2].code == "node_stopped"
    background.check_room()
