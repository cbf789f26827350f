"""Responses in the background: their frames, and who ends them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from exo_node.api.dialects.responses_background import MAX_JOBS, Background, Job, Source
from exo_node.api.dialects.responses_encoder import ResponsesEncoder
from exo_node.api.dialects.responses_kept import Owner
from exo_node.api.dialects.responses_request import Given, decode
from exo_node.api.mirroring.log import ResponseLog
from exo_node.errors import NoCapacity, RateLimited
from exo_node.routing.call import Said
from exo_node.routing.frames import frame
from tests.unit.api.dialects.responses_events import names, parsed
from tests.unit.api.scripted import until

OURS, THEIRS = Owner("key-1"), Owner("key-2")


async def nobody() -> set[str]:
    """No other node goes on."""
    return set()


class Made:
    """A job over scripted pieces, and what was kept of it."""

    def __init__(self, *steps: Any) -> None:
        asked = decode({"model": "m", "input": "Hi", "background": True}, Given(id="resp_" + "d" * 32, created=1))
        self.encoder = ResponsesEncoder(asked)
        self.kept: list[dict[str, Any]] = []
        self.steps = steps
        log = ResponseLog("resp_" + "d" * 32, b"{}")
        self.job = Job(self.encoder, OURS, lambda job: self.kept.append(dict(job.encoder.response())), log)
        self.job.add(self.encoder.queue())
        self.job.tell()

    async def pieces(self) -> Source:
        for step in self.steps:
            if isinstance(step, str):
                yield frame({"choices": [{"index": 0, "delta": {"content": step}}]}), Said((), (1,), "m", "m")
            elif isinstance(step, Exception):
                raise step
            else:
                await step.wait()

    async def events(self, after: int = -1) -> bytes:
        return b"".join([piece async for _, piece in self.job.follow(after)])

    @property
    def status(self) -> str:
        (kept,) = self.kept
        return str(kept["status"])


async def test_it_is_followed_from_anywhere() -> None:
    """A reader gets what was, then what comes, from the number that it names; another owner finds nothing."""
    going = asyncio.Event()
    made, background = Made("Hi", going, " you"), Background(9)
    background.start("r", made.job, made.pieces())
    assert background.get("r", THEIRS) is None
    assert background.get("r", OURS) is made.job
    follower = asyncio.create_task(made.events())
    await until(lambda: len(made.job.frames) >= 6)
    going.set()
    raw = await follower
    assert names(parsed(raw))[-1] == "completed"
    assert raw.endswith(await made.events(4))
    assert (await made.events(4)).count(b"\n\n") == raw.count(b"\n\n") - 5
    await until(lambda: background.get("r", OURS) is None)
    assert made.status == "completed"
    await background.close(nobody)


async def test_readers_see_what_the_mirror_has() -> None:
    """Frames are shown up to the version of the log that was acknowledged; one that moves sends its readers away."""
    going = asyncio.Event()
    made, background = Made("Hi", going), Background(9)
    versions: list[int] = []
    made.job.told = lambda job: versions.append(job.log.version)
    background.start("r", made.job, made.pieces())
    await until(lambda: versions == [1])
    assert (made.job.shown, len(made.job.frames)) == (2, 6)
    assert [bytes(made.job.log.said).count(b"data:"), made.job.log.ids] == [1, [1]]
    follower = asyncio.create_task(made.events())
    made.job.show(1)
    assert made.job.shown == 6
    going.set()
    await until(lambda: versions == [1, 1])  # the end is in the row that `kept` makes
    made.job.move()
    assert names(parsed(await follower))[-1] == "output_text.delta"


async def test_another_node_goes_on() -> None:
    """What is handed over ends without a word, here and when the node stops."""

    async def somebody() -> set[str]:
        return {"r"}

    for stopped in (False, True):
        made, background = Made("Hi", asyncio.Event()), Background(9)
        background.start("r", made.job, made.pieces())
        follower = asyncio.create_task(made.events())
        await until(lambda made=made: made.job.shown == 6)  # type: ignore[misc]
        await (background.close(somebody) if stopped else background.leave("r"))
        assert names(parsed(await follower))[-1] == "output_text.delta"
        assert (made.kept, made.job.moved, background.running()) == ([], True, [])


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


async def test_a_stop_waits_for_what_is_made() -> None:
    """So long as it is told to, whether anybody reads it or not; what has ended then is complete."""
    going = asyncio.Event()
    made, never, background = Made("Hi", going), Made(asyncio.Event()), Background(9)
    await background.drain(9)
    background.start("r", made.job, made.pieces())
    draining = asyncio.create_task(background.drain(9))
    await until(lambda: made.job.shown == 6)
    assert not draining.done()
    going.set()
    await draining
    assert made.status == "completed"
    background.start("n", never.job, never.pieces())
    await background.drain(0.01)
    assert never.kept == []
    await background.close(nobody)


async def test_closing_ends_all() -> None:
    """A node that stops fails what it was making, and takes so many at once only."""
    background, many = Background(9), [Made(asyncio.Event()) for _ in range(MAX_JOBS)]
    for i, made in enumerate(many):
        background.check_room()
        background.start(str(i), made.job, made.pieces())
    with pytest.raises(RateLimited):
        background.check_room()
    await background.close(nobody)
    assert {made.status for made in many} == {"failed"}
    assert parsed(b"".join(many[0].job.frames))[-2].code == "node_stopped"
    background.check_room()
