"""api/ring_upstream.py: the ring as a backend of the adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from exo_node import errors
from exo_node.api.ring_upstream import RingUpstream, cause_of
from exo_node.config import Settings
from exo_node.errors import ExoError, InvalidRequest
from exo_node.routing.call import Attempt, Call, Caller, Partial, UpstreamError
from exo_node.types import TokenDelta
from tests.unit.api.scripted import END, ScriptedBackend

SCRIPT = (TokenDelta("Hel", (1,)), TokenDelta("lo", (2, 3)), END)


def attempt(partial: Partial | None = None, kind: Any = "chat", **body: Any) -> Attempt:
    given = {"messages": [{"role": "user", "content": "Hi"}]} if kind == "chat" else {"prompt": "Hi"}
    call = Call(
        id="c", kind=kind, model="demo", body={"model": "demo", **given, **body}, stream=bool(body.get("stream")),
        deadline=1e9, prompt_tokens=1,
    )  # fmt: skip
    return Attempt(call=call, timeout_s=7, partial=partial)


async def test_a_stream_has_events_ids_and_usage(tmp_path: Path) -> None:
    """Raw frames are the events; ids belong to their text; the usage comes last, asked for or not."""
    backend = ScriptedBackend(SCRIPT)
    batches = [b async for b in RingUpstream(backend, Settings(home=tmp_path)).stream(attempt(stream=True))]
    events = [event for batch in batches for event in batch.events]
    raw = b"".join(batch.raw for batch in batches)
    assert [json.loads(block[6:]) for block in raw.split(b"\n\n")[:-1]] == events
    assert "".join(c["delta"].get("content", "") for e in events for c in e["choices"]) == "Hello"
    assert [token for batch in batches for token in batch.token_ids] == [1, 2, 3]
    assert events[-1]["usage"]["completion_tokens"] == 2
    assert backend.requests[0].timeout_s == 7


@pytest.mark.parametrize(("kind", "field"), [("chat", "message"), ("completion", "text")])
async def test_a_whole_answer(kind: str, field: str, tmp_path: Path) -> None:
    """The object that the API gives, and its bytes."""
    whole = await RingUpstream(ScriptedBackend(SCRIPT), Settings(home=tmp_path)).whole(attempt(kind=kind))
    assert whole.data == json.loads(whole.raw)
    assert whole.data is not None
    assert "Hello" in str(whole.data["choices"][0][field])


async def test_a_partial_answer_becomes_the_prefix(tmp_path: Path) -> None:
    """Text and exact ids reach the ring."""
    backend = ScriptedBackend(SCRIPT)
    await RingUpstream(backend, Settings(home=tmp_path)).whole(attempt(Partial("Oh, ", (8, 9), 2)))
    assert (backend.requests[0].prefix, backend.requests[0].prefix_ids) == ("Oh, ", (8, 9))


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (errors.RingBroken("x"), "reset"),
        (errors.PeerUnavailable("x"), "refused"),
        (errors.NoCapacity("x"), "unavailable"),
        (errors.DeadlineExceeded("x"), "timeout"),
        (errors.DownloadError("x"), "unavailable"),
        (errors.ModelNotFound("x"), "not_found"),
        (errors.ContextLengthExceeded("x"), "context"),
        (InvalidRequest("x", code="unsupported_parameter"), "unavailable"),
    ],
)
async def test_what_is_the_rings_fault_fails_over(error: ExoError, cause: str, tmp_path: Path) -> None:
    """An `UpstreamError` that carries the ring's own error, status and field."""
    upstream = RingUpstream(ScriptedBackend((error,)), Settings(home=tmp_path))
    with pytest.raises(UpstreamError) as caught:
        await upstream.whole(attempt())
    assert (caught.value.cause, caught.value.status, caught.value.code) == (cause, error.status, error.code)
    assert caught.value.__cause__ is error
    assert caught.value.fails_over
    with pytest.raises(UpstreamError):
        _ = [batch async for batch in upstream.stream(attempt(stream=True))]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_choice_for_which_the_queue_is_full(stream: bool, tmp_path: Path) -> None:
    """Others of the same request may have begun: still the ring is busy, not broken, and nothing is lost."""
    backend = ScriptedBackend(lambda _: (0.01, full) if len(backend.requests) > 1 else (TokenDelta("a", (1,)), 60.0))
    full = errors.Overloaded("1 requests wait for this model already", code="queue_full", retry_after=2.0)
    upstream = RingUpstream(backend, Settings(home=tmp_path))
    asked = attempt(n=2, stream=stream)
    with pytest.raises(UpstreamError) as caught:
        if stream:
            async for _ in upstream.stream(asked):
                pass
        else:
            await upstream.whole(asked)
    error = caught.value
    assert (error.cause, error.status, error.code, error.retry_after) == ("rate_limited", 429, "queue_full", 2.0)
    assert backend.open == 0


async def test_what_is_the_requests_fault_stays(tmp_path: Path) -> None:
    """A wrong value is wrong everywhere; a field that only the ring lacks is for others to try."""
    upstream = RingUpstream(ScriptedBackend(SCRIPT), Settings(home=tmp_path))
    with pytest.raises(InvalidRequest) as caught:
        await upstream.whole(attempt(temperature=9))
    assert caught.value.param == "temperature"
    with pytest.raises(UpstreamError) as lacking:
        await upstream.whole(attempt(tools=[{"type": "custom"}]))
    assert (lacking.value.cause, lacking.value.status, lacking.value.param) == ("unavailable", 400, "tools[0].type")
    assert cause_of(InvalidRequest("x")) is None
    assert cause_of(ExoError("a bug")) is None


async def test_closing_the_stream_frees_the_sequence(tmp_path: Path) -> None:
    """The client left: the ring's generator is closed."""
    backend = ScriptedBackend((TokenDelta("a", (1,)), 60.0))
    stream = RingUpstream(backend, Settings(home=tmp_path)).stream(attempt(stream=True))
    await anext(stream)
    await stream.aclose()
    assert backend.open == 0


async def test_an_answer_that_the_client_began(tmp_path: Path) -> None:
    """The ring goes on with the last message; where another backend went on already, with both texts."""
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well,"}]
    backend = ScriptedBackend(SCRIPT)
    upstream = RingUpstream(backend, Settings(home=tmp_path))
    await upstream.whole(attempt(messages=said, exo_anthropic={"prefill": True}))
    await upstream.whole(attempt(Partial(" you", (7,)), messages=said, continue_final_message=True))
    assert [(r.prefix, r.prefix_ids, len(r.messages or ())) for r in backend.requests] == [
        ("Well,", (), 1),
        ("Well, you", (), 1),
    ]


def call_of(kind: Any, body: Any, **more: Any) -> Attempt:
    return Attempt(
        call=Call(
            id="c",
            kind=kind,
            model="demo",
            body={"model": "demo", **body},
            stream=False,
            deadline=1e9,
            prompt_tokens=1,
            **more,
        ),
        timeout_s=7,
    )


CHAT: Any = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(("reuse", "client"), [(True, "key-1"), (False, "c")])
async def test_who_asks_and_how_urgent_it_is(reuse: bool, client: str, tmp_path: Path) -> None:
    """The ring is told the API key's id; who wants no earlier prompts used is a client of its own."""
    backend = ScriptedBackend(SCRIPT)
    upstream = RingUpstream(backend, Settings(home=tmp_path))
    said: Any = {"caller": Caller("key-1"), "priority": "low", "reuse_prompts": reuse}
    await upstream.whole(call_of("chat", CHAT, **said))
    await upstream.whole(call_of("embedding", {"input": "x"}, **said))
    (chat,), (embedding,) = backend.requests, backend.embedded
    assert (chat.client, chat.priority, embedding.client, embedding.priority) == (client, "low") * 2


@pytest.mark.parametrize(
    ("asked", "priority", "told"),
    [("priority", "high", "priority"), ("priority", "normal", "default"), ("flex", "low", "flex"), (None, "low", None)],
)
async def test_an_answer_tells_its_tier(asked: str | None, priority: Any, told: str | None, tmp_path: Path) -> None:
    """Where one was asked for, the one that it really had; in each event of a stream too."""
    upstream = RingUpstream(ScriptedBackend(SCRIPT), Settings(home=tmp_path))
    one = call_of("chat", {**CHAT, **({"service_tier": asked} if asked else {})}, priority=priority)
    whole = await upstream.whole(one)
    events = [event async for batch in upstream.stream(one) for event in batch.events]
    assert whole.data is not None
    assert {said.get("service_tier") for said in (whole.data, *events)} == {told}


async def test_clients_headers_are_left_out(tmp_path: Path) -> None:
    """What Claude Code tells its maker in the system prompt is nothing for a local model."""
    backend = ScriptedBackend(SCRIPT)
    header = {"role": "system", "content": "x-anthropic-billing-header: cch=fa690;\nBe nice"}
    one = call_of("chat", {"messages": [header, *CHAT["messages"]]})
    await RingUpstream(backend, Settings(home=tmp_path)).whole(one)
    assert [one["content"] for one in backend.requests[0].messages or ()] == ["Be nice", "Hi"]
