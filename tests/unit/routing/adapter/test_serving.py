"""routing/adapter/serving.py: how long a backend is waited for, and what it is sent (whole calls: test_adapter.py)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from exo_node.routing.adapter.serving import FIRST_S, IDLE_S
from exo_node.routing.call import Attempt, UpstreamError, Whole
from tests.unit.routing.adapter_parts import ROLE, STOP, call, candidate, failure, hear, world

GOOD = (ROLE, "x", STOP)


@pytest.mark.parametrize(
    ("fields", "first", "idle"),
    [
        ({}, FIRST_S, IDLE_S),
        ({"stream_timeout_s": 3.0}, 3.0, 3.0),
        ({"timeout_s": 4.0}, 4.0, 4.0),
        ({"timeout_s": 4.0, "stream_timeout_s": 2.0}, 2.0, 2.0),
    ],
)
async def test_patience(fields: dict[str, float], first: float, idle: float) -> None:
    """What is configured for the deployment, else a minute while there is another one to ask."""
    one = world((candidate("a", **fields), (failure("auth"),)), (candidate("b", **fields), GOOD))
    await hear(await one.adapter.serve(call(deadline_s=900)))
    (asked,) = one.backends["a"].attempts
    assert (asked.first_s, asked.idle_s) == (first, idle)
    assert asked.timeout_s == pytest.approx(900, abs=5)
    (last,) = one.backends["b"].attempts
    assert last.first_s == (first if fields else None), "the last one gets all the time there is"


async def test_a_ring_may_be_silent_within_an_answer() -> None:
    """While others go first, or it is brought back: it tells by itself when it hangs, and the call's time holds."""
    one = world(("ring:demo", GOOD))
    await hear(await one.adapter.serve(call(deadline_s=900)))
    (asked,) = one.backends["ring:demo"].attempts
    assert asked.idle_s is None
    assert asked.timeout_s == pytest.approx(900, abs=5)


async def test_each_attempt_gets_the_smaller_of_its_cap_and_what_is_left() -> None:
    """The deadline is the call's, whatever a deployment allows itself."""
    one = world((candidate("a", timeout_s=100.0), GOOD))
    await one.adapter.serve(call(False, deadline_s=5))
    await one.adapter.serve(call(False, deadline_s=500))
    short, long = one.backends["a"].attempts
    assert short.timeout_s <= 5
    assert long.timeout_s == 100


async def test_a_ring_is_asked_by_its_own_name() -> None:
    """An alias or an equivalent is the adapter's word for it, not the ring's."""
    one = world((candidate("ring:demo", equivalent=True), GOOD))
    await hear(await one.adapter.serve(call(model="gpt-4")))
    (asked,) = one.backends["ring:demo"].attempts
    assert (asked.call.model, asked.call.body["model"]) == ("demo", "demo")


async def test_the_first_of_several_leaves_time_for_the_next() -> None:
    """Half of a short deadline at most, plain and streamed; a plain answer gets minutes of a long one."""
    for stream, deadline_s, given in ((True, 20, 10), (False, 20, 10), (False, 900, 300)):
        one = world(("a", (failure("auth"),)), ("b", GOOD))
        reply = await one.adapter.serve(call(stream, deadline_s=deadline_s))
        assert (reply.whole is None) == stream
        (asked,) = one.backends["a"].attempts
        assert (asked.first_s if stream else asked.timeout_s) == pytest.approx(given, abs=1)


@pytest.mark.parametrize("stream", [True, False])
async def test_the_start_of_our_helper_is_not_the_backends_time(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployment's short patience begins when it can be asked; its first token's time does not hold the wait."""
    one = world((candidate("a", timeout_s=0.3), GOOD))

    async def ready(asked: Any) -> None:
        await asyncio.sleep(0.4)

    monkeypatch.setattr(one.backends["a"], "ready", ready, raising=False)
    reply = await one.adapter.serve(call(stream))
    if stream:
        await hear(reply)
    (record,) = one.records
    assert (record.status, len(record.attempts)) == (200, 1)
    assert record.attempts[0].total_s < 0.4


@pytest.mark.parametrize("choices", ["abc", [None], [], 5])
async def test_a_plain_answer_of_another_shape_fails_over(choices: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON that is no answer is the backend's fault."""
    one = world(("a", ()), ("b", GOOD))

    async def odd(attempt: Attempt) -> Whole:
        return Whole(b"{}", {"choices": choices})

    monkeypatch.setattr(one.backends["a"], "whole", odd)
    reply = await one.adapter.serve(call(False))
    assert reply.headers["x-exo-attempts"] == "a:malformed, b:ok"


@pytest.mark.parametrize("kind", ["embedding", "rerank", "image", "moderation"])
async def test_an_answer_without_what_was_asked_for_fails_over(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors, rankings, pictures and verdicts that are not there are the backend's fault, before the client hears."""
    one = world(("a", ()), ("b", ()))

    async def nothing(attempt: Attempt) -> Whole:
        return Whole(b"{}", {"object": "list"})

    async def good(attempt: Attempt) -> Whole:
        return Whole(b"{}", {"data": [{"embedding": [0.5]}], "results": [{}]})

    monkeypatch.setattr(one.backends["a"], "whole", nothing)
    monkeypatch.setattr(one.backends["b"], "whole", good)
    reply = await one.adapter.serve(call(False, kind=kind))
    assert reply.headers["x-exo-attempts"] == "a:malformed, b:ok"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_backend_that_takes_all_the_time_there_is_is_blamed(stream: bool) -> None:
    """The call's deadline ends the attempt as a timeout, with the code that the call's own limit has."""
    one = world(("a", (ROLE, asyncio.Event())))
    with pytest.raises(UpstreamError) as caught:
        await one.adapter.serve(call(stream, deadline_s=0.05))
    assert (caught.value.status, caught.value.code) == (504, "deadline_exceeded")
    (record,) = one.records
    assert (record.status, record.attempts[0].cause) == (504, "timeout")


async def test_a_call_of_a_tool_is_not_free_without_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the provider reports nothing, what it made is estimated, whatever it is and in however many choices."""
    one = world(("a", ()))
    called = [{"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"number": 12}'}}]
    choice = {"index": 0, "message": {"content": None, "tool_calls": called}, "finish_reason": "tool_calls"}

    async def calls(attempt: Attempt) -> Whole:
        return Whole(b"{}", {"choices": [choice, {**choice, "index": 1}]})

    monkeypatch.setattr(one.backends["a"], "whole", calls)
    await one.adapter.serve(call(False))
    (record,) = one.records
    assert (record.usage.completion_tokens, record.usage_estimated) == (9, True)


VECTOR = {"index": 0, "embedding": [0.5]}


@pytest.mark.parametrize(
    ("kind", "body", "odd", "good"),
    [
        ("chat", {}, {"choices": [{"index": 0, "message": None}]}, {"choices": [{"message": {"content": None}}]}),
        ("chat", {}, {"choices": [{"index": 0, "finish_reason": "stop"}]}, {"choices": [{"message": {}}]}),
        ("chat", {}, {"choices": [{"message": {"tool_calls": "abc"}}]}, {"choices": [{"message": {"tool_calls": []}}]}),
        ("chat", {}, {"choices": [{"message": {"tool_calls": ["abc"]}}]}, {"choices": [{"message": {}}]}),
        ("completion", {}, {"choices": [{"message": {"content": "x"}}]}, {"choices": [{"text": ""}]}),
        ("embedding", {"input": "a"}, {"data": [{"embedding": None}]}, {"data": [VECTOR]}),
        ("embedding", {"input": "a"}, {"data": [{"embedding": []}]}, {"data": [{"embedding": "AAAAAA=="}]}),
        ("embedding", {"input": ["a", "b"]}, {"data": [VECTOR]}, {"data": [VECTOR, VECTOR]}),
        ("embedding", {"input": [[1], [2]]}, {"data": [VECTOR]}, {"data": [VECTOR, VECTOR]}),
        ("embedding", {"input": [1, 2]}, {"data": [{}]}, {"data": [VECTOR]}),
    ],
)
async def test_an_answer_with_half_of_what_was_asked_for_fails_over(
    kind: Any, body: dict[str, Any], odd: Any, good: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A choice without its message, fewer vectors than texts: a client would fail on it, so the next one is asked."""
    one = world(("a", ()), ("b", ()))

    async def first(attempt: Attempt) -> Whole:
        return Whole(b"{}", odd)

    async def second(attempt: Attempt) -> Whole:
        return Whole(b"{}", good)

    monkeypatch.setattr(one.backends["a"], "whole", first)
    monkeypatch.setattr(one.backends["b"], "whole", second)
    reply = await one.adapter.serve(call(False, kind=kind, body=body))
    assert reply.headers["x-exo-attempts"] == "a:malformed, b:ok"
