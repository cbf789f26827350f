"""A peer's deployment, asked through the peer: `PeerUpstream` against `RelayHost`, with real messages."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import pytest

from exo_node.errors import DeadlineExceeded, ExoError, InvalidRequest, PeerUnavailable
from exo_node.routing.call import Attempt, Batch, Call, FormFile, Partial, Upstream, UpstreamError, Whole
from exo_node.routing.upstream.peer_upstream import PeerUpstream
from exo_node.routing.upstream.relay_host import PIECE, RelayHost, attempt_of
from exo_node.transport.generated.exo.v1 import node_pb2 as pb

EVENTS: list[dict[str, Any]] = [
    {"choices": [{"index": 0, "delta": {"content": "Hé"}}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}},
]


def frame(event: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


@dataclass
class Scripted:
    """An upstream that gives `events` or `answer`, then raises `error`."""

    events: list[dict[str, Any]] = field(default_factory=list)
    answer: Whole | None = None
    error: ExoError | None = None
    asked: list[Attempt] = field(default_factory=list)
    closed: int = 0

    async def stream(self, attempt: Attempt) -> AsyncGenerator[Batch, None]:
        self.asked.append(attempt)
        try:
            for event in self.events:
                yield Batch(frame(event), [event])
            if self.error is not None:
                raise self.error
        finally:
            self.closed += 1

    async def whole(self, attempt: Attempt) -> Whole:
        self.asked.append(attempt)
        if self.error is not None:
            raise self.error
        assert self.answer is not None
        return self.answer


@dataclass
class Lent:
    upstream: Upstream
    settled: list[tuple[int, int]]

    def settle(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> None:
        self.settled.append((prompt_tokens, completion_tokens))

    def unused(self) -> None:
        self.settled.append((0, 0))


class Wire:
    """A peer whose daemon is this `RelayHost`; messages are really encoded."""

    def __init__(self, upstream: Scripted) -> None:
        self.settled: list[tuple[int, int]] = []
        self.upstream = upstream
        self.error: ExoError | None = None
        self.host = RelayHost(self.lend, lambda: [{"backend": "b"}])

    async def lend(self, deployment_id: str, call: Call) -> Lent:
        if deployment_id != "openai/m":
            raise UpstreamError(f"no deployment {deployment_id!r} here any more", "unavailable")
        return Lent(self.upstream, self.settled)

    async def stream(self, method: str, request: Any, timeout: float | None) -> AsyncGenerator[Any, None]:
        assert method == "Relay"
        message = pb.RelayRequest.FromString(request.SerializeToString())
        chunks = self.host.relay(message, timeout)
        try:
            async for chunk in chunks:
                yield pb.RelayChunk.FromString(chunk.SerializeToString())
                if self.error is not None:
                    raise self.error
        finally:
            await chunks.aclose()


def attempt(**changes: Any) -> Attempt:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    call = Call(
        id="c1", kind="chat", model="m", body=body, stream=True, deadline=time.monotonic() + 60, prompt_tokens=5,
        max_tokens=9, files=changes.pop("files", ()),
    )  # fmt: skip
    return Attempt(call=call, timeout_s=30.0, **changes)


def peer(wire: Wire, deployment_id: str = "openai/m") -> PeerUpstream:
    return PeerUpstream(wire, deployment_id, "openai/m@node-b")


async def test_a_stream_comes_through_unchanged_and_is_settled() -> None:
    """Frames arrive byte for byte with their events; the lender settles what the provider reported."""
    wire = Wire(Scripted(EVENTS))
    batches = [batch async for batch in peer(wire).stream(attempt(partial=Partial("so far"), first_s=1.5))]
    assert b"".join(batch.raw for batch in batches) == b"".join(map(frame, EVENTS))
    assert [event for batch in batches for event in batch.events] == EVENTS
    assert wire.settled == [(7, 2)]
    (asked,) = wire.upstream.asked
    assert (asked.call.body["messages"][0]["content"], asked.call.max_tokens, asked.first_s) == ("hi", 9, 1.5)
    assert asked.partial == Partial("so far")


async def test_closing_the_stream_ends_the_work_at_the_peer() -> None:
    """A client that goes away closes the provider's stream two nodes on; what was used is settled."""
    wire = Wire(Scripted(EVENTS))
    stream = peer(wire).stream(attempt())
    await anext(stream)
    await stream.aclose()
    assert wire.upstream.closed == 1
    assert wire.settled == [(5, 1)]


async def test_a_large_whole_answer_comes_in_pieces() -> None:
    """An answer over gRPC's message size arrives whole, with its content type and files sent along."""
    sound = bytes(range(256)) * (PIECE // 100)
    wire = Wire(Scripted(answer=Whole(sound, None, "audio/mpeg")))
    files = (FormFile("file", "a.wav", "audio/wav", b"RIFF"),)
    whole = await peer(wire).whole(attempt(files=files))
    assert (whole.raw, whole.content_type, whole.data) == (sound, "audio/mpeg", None)
    assert wire.upstream.asked[0].call.files == files


async def test_json_answers_are_parsed() -> None:
    """A plain JSON answer has its data."""
    raw = b'{"usage": {"prompt_tokens": 3, "completion_tokens": 1}}'
    wire = Wire(Scripted(answer=Whole(raw, {"usage": {"prompt_tokens": 3, "completion_tokens": 1}})))
    whole = await peer(wire).whole(attempt())
    assert whole.data == {"usage": {"prompt_tokens": 3, "completion_tokens": 1}}
    assert wire.settled == [(3, 1)]


@pytest.mark.parametrize(
    ("error", "cause", "status"),
    [
        (UpstreamError("slow down", "rate_limited", retry_after=7.0, upstream_status=429), "rate_limited", 429),
        (UpstreamError("no", "auth", upstream_status=401), "auth", 502),
    ],
)
async def test_the_providers_failure_keeps_its_cause(error: UpstreamError, cause: str, status: int) -> None:
    """Cause, status, Retry-After and the message cross the nodes."""
    with pytest.raises(UpstreamError) as caught:
        await peer(Wire(Scripted(error=error))).whole(attempt())
    got = caught.value
    assert (got.cause, got.status, got.message, got.retry_after) == (cause, status, error.message, error.retry_after)
    assert got.upstream_status == error.upstream_status


@pytest.mark.parametrize(
    ("error", "events", "settled"),
    [
        (UpstreamError("no", "auth", upstream_status=401), [], (0, 0)),
        (UpstreamError("down", "refused"), [], (0, 0)),
        (InvalidRequest("wrong"), [], (0, 0)),
        (UpstreamError("late", "timeout"), [], (5, 0)),
        (UpstreamError("broke", "reset"), EVENTS[:1], (5, 1)),
        (UpstreamError("overloaded", "server"), EVENTS[:1], (5, 1)),
    ],
)
async def test_only_what_may_be_billed_is_settled(
    error: ExoError, events: list[dict[str, Any]], settled: tuple[int, int]
) -> None:
    """A call that the provider never accepted takes nothing from the lender's budget; one that broke takes its
    prompt."""
    wire = Wire(Scripted(events, error=error))
    with pytest.raises(type(error)):
        async for _ in peer(wire).stream(attempt()):
            pass
    assert wire.settled == [settled]


async def test_a_request_that_is_wrong_stays_the_requests_fault() -> None:
    """An `InvalidRequest` at the lender is one here, and fails over nowhere."""
    error = InvalidRequest("temperature must be a number", param="temperature")
    with pytest.raises(InvalidRequest) as caught:
        await peer(Wire(Scripted(error=error))).whole(attempt())
    assert caught.value.param == "temperature"


@pytest.mark.parametrize(
    ("error", "cause"), [(PeerUnavailable("gone"), "reset"), (DeadlineExceeded("late"), "timeout")]
)
async def test_a_peer_that_dies_is_a_failure_that_fails_over(error: ExoError, cause: str) -> None:
    """The node in between going away in mid-answer is a reset; no answer in time a timeout."""
    wire = Wire(Scripted(EVENTS))
    wire.error = error
    with pytest.raises(UpstreamError) as caught:
        async for _ in peer(wire).stream(attempt()):
            pass
    assert (caught.value.cause, caught.value.fails_over) == (cause, True)


async def test_a_deployment_that_is_gone_is_unavailable() -> None:
    """What the peer no longer has fails over."""
    with pytest.raises(UpstreamError, match="any more"):
        await peer(Wire(Scripted()), "openai/other").whole(attempt())


@pytest.mark.parametrize("message", [pb.RelayRequest(kind="x"), pb.RelayRequest(kind="chat", body_json=b"{")])
def test_malformed_relay_messages_are_refused(message: pb.RelayRequest) -> None:
    """A kind or a body that no node of ours sends is an invalid request."""
    with pytest.raises(InvalidRequest):
        attempt_of(message, 1.0)


def test_the_profile_is_json() -> None:
    """Peers get the rows as JSON."""
    assert Wire(Scripted()).host.profile() == b'[{"backend": "b"}]'


async def test_a_node_that_leaves_takes_no_new_calls_and_ends_those_it_has() -> None:
    """Draining waits for the streams of peers that run; a new call is refused so that it fails over."""
    wire = Wire(Scripted(EVENTS))
    running = peer(wire).stream(attempt())
    got = [await anext(running)]
    drained = asyncio.create_task(wire.host.drain(60))
    await asyncio.sleep(0)
    with pytest.raises(UpstreamError) as refused:
        await anext(peer(wire).stream(attempt()))
    assert (refused.value.cause, refused.value.fails_over) == ("unavailable", True)
    assert not drained.done()
    got += [batch async for batch in running]
    assert [event for batch in got for event in batch.events] == EVENTS
    await drained
    assert len(wire.upstream.asked) == 1


async def test_draining_ends_when_its_time_is_over() -> None:
    """A peer's stream that goes on for longer does not hold the node's end up."""
    wire = Wire(Scripted(EVENTS))
    running = peer(wire).stream(attempt())
    await anext(running)
    await wire.host.drain(0.01)
    await running.aclose()
    await wire.host.drain(60)
