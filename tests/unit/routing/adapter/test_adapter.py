"""routing/adapter/adapter.py: calls over scripted backends: failover, continuation, hedges, cascades, records."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from exo_node.errors import InvalidRequest
from exo_node.routing.adapter.failure import headers_of
from exo_node.routing.adapter.parts import Options
from exo_node.routing.call import UpstreamError, Wishes
from exo_node.routing.plan import Candidate
from tests.unit.routing.adapter_parts import ROLE, STOP, call, candidate, failure, hear, usage, world

GOOD = (ROLE, "Hello", " there", STOP, usage(10, 2))


async def test_a_stream_is_relayed_byte_for_byte() -> None:
    """Nothing is rewritten; the usage that only we asked for is kept from the client and used for the cost."""
    one = world(("a", GOOD))
    heard = await hear(await one.adapter.serve(call()))
    assert (heard.text, heard.reasons, heard.usage, heard.exo) == ("Hello there", ["stop"], None, {})
    assert heard.events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    (record,) = one.records
    assert (record.status, record.backend, record.usage.completion_tokens, record.text) == (200, "a", 2, "Hello there")
    assert record.cost == pytest.approx((10 * 1 + 2 * 2) / 1e6)
    assert not record.usage_estimated
    assert record.attempts[0].ttft_s is not None
    assert (one.adapter.in_flight, one.profile.in_flight("a")) == (0, 0)


async def test_usage_reaches_who_asks_with_what_we_know() -> None:
    """The usage event carries the `exo` object."""
    one = world(("a", GOOD))
    heard = await hear(await one.adapter.serve(call(body={"stream_options": {"include_usage": True}})))
    assert heard.usage == {"prompt_tokens": 10, "completion_tokens": 2}
    assert heard.exo == {"backends": ["a"], "continued": False, "cost": pytest.approx(14e-6)}


async def test_missing_usage_is_estimated_and_marked() -> None:
    """A backend without usage: characters / 4 and events, said to be an estimate in event and record."""
    one = world(("a", (ROLE, "Hello", " there", STOP)))
    heard = await hear(await one.adapter.serve(call(body={"stream_options": {"include_usage": True}})))
    assert heard.usage is not None
    assert (heard.usage["prompt_tokens"], heard.usage["completion_tokens"]) == (10, 3)
    assert heard.exo["usage_estimated"] is True
    assert one.records[0].usage_estimated


async def test_a_tool_call_without_usage_is_not_free() -> None:
    """What it says is estimated as text is."""
    function = {"name": "weather", "arguments": '{"city": "Oslo", "days": 3}'}
    said = {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": function}]}}]}
    one = world(("a", (ROLE, said, STOP)))
    await hear(await one.adapter.serve(call()))
    assert (one.records[0].usage.completion_tokens, one.records[0].usage_estimated) == (9, True)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("cause", ["refused", "auth", "rate_limited", "server", "timeout", "reset", "malformed"])
async def test_failures_before_the_first_content_are_invisible(stream: bool, cause: str) -> None:
    """The next backend answers; only headers and record tell of the first."""
    one = world(("a", (ROLE, failure(cause))), ("ring:b", GOOD))
    reply = await one.adapter.serve(call(stream))
    assert reply.headers["x-exo-attempts"] == f"a:{cause}, ring:b:ok"
    assert reply.headers["x-exo-backend"] == "ring:b"
    if stream:
        heard = await hear(reply)
        assert (heard.text, {event["id"] for event in heard.events}) == ("Hello there", {"id-ring:b"})
    else:
        assert reply.whole is not None
        assert reply.whole.data is not None
        assert reply.whole.data["choices"][0]["message"]["content"] == "Hello there"
    assert [attempt.cause for attempt in one.records[0].attempts] == [cause, ""]


async def test_the_requests_own_fault_is_told_at_once() -> None:
    """400s and other errors that would be the same elsewhere never fail over."""
    for error in (failure("bad_request"), failure("content_filter"), InvalidRequest("no")):
        one = world(("a", (error,)), ("b", GOOD))
        with pytest.raises(type(error)) as caught:
            await one.adapter.serve(call())
        assert caught.value is error
        assert one.backends["b"].attempts == []
        assert one.records[0].status == 400
        assert "a:bad_request" in headers_of(error)["x-exo-attempts"] or isinstance(error, UpstreamError)


async def test_the_last_error_names_all_and_forwards_retry_after() -> None:
    """Everyone failed: the first backend's cause and status, all messages, the earliest Retry-After; one record."""
    one = world(("a", (failure("rate_limited", retry_after=70),)), ("b", (failure("rate_limited", retry_after=60),)))
    with pytest.raises(UpstreamError, match="none of 2 backends answered: scripted: rate_limited; ") as caught:
        await one.adapter.serve(call())
    assert (caught.value.status, caught.value.cause, caught.value.retry_after) == (429, "rate_limited", 60)
    assert headers_of(caught.value)["x-exo-attempts"] == "a:rate_limited, b:rate_limited"
    assert [record.status for record in one.records] == [429]


async def test_a_lone_backend_is_asked_again_within_num_retries() -> None:
    """One owner of retries: once more by default, num_retries times where that is said, never for a wrong key."""
    for retries, cause, asked in ((None, "server", 2), (0, "server", 1), (2, "reset", 3), (2, "auth", 1)):
        one = world((candidate("a", num_retries=retries, retry_after_s=0.0), (failure(cause),)))
        with pytest.raises(UpstreamError):
            await one.adapter.serve(call())
        assert len(one.backends["a"].attempts) == asked


async def test_a_cut_answer_goes_on_elsewhere() -> None:
    """After the first content: another backend gets the partial answer, the client sees one stream."""
    one = world(
        ("a", (ROLE, "One two", " three", failure("reset"))), ("b", (ROLE, " four", " five", STOP, usage(13, 2)))
    )
    asked = call(body={"stream_options": {"include_usage": True}, "max_tokens": 50}, max_tokens=50)
    heard = await hear(await one.adapter.serve(asked))
    assert (heard.text, heard.reasons) == ("One two three four five", ["stop"])
    assert {event["id"] for event in heard.events} == {"id-a"}
    assert sum(c["delta"].get("role") is not None for e in heard.events for c in e["choices"]) == 1
    (sent,) = one.backends["b"].attempts
    assert sent.partial is not None
    assert (sent.partial.text, sent.partial.completion_tokens) == ("One two three", 4)
    assert sent.call.body["max_tokens"] == 46
    assert heard.usage is not None
    assert (heard.usage["prompt_tokens"], heard.usage["completion_tokens"]) == (9, 6)
    assert heard.exo["backends"] == ["a", "b"]
    assert heard.exo["continued"]
    (record,) = one.records
    assert (record.continued, record.text, record.status) == (True, "One two three four five", 200)
    assert [attempt.cause for attempt in record.attempts] == ["reset", ""]
    assert record.attempts[0].cost > 0, "what the first may bill is on record"


async def test_an_end_without_finish_reason_is_a_failure() -> None:
    """A clean EOF is continued like any other cut."""
    one = world(("a", (ROLE, "One")), ("b", (ROLE, " two", STOP)))
    assert (await hear(await one.adapter.serve(call()))).text == "One two"
    assert one.records[0].attempts[0].cause == "eof"


@pytest.mark.parametrize(
    ("second", "mode", "goes_on"),
    [
        (candidate("b"), "same-model", True),
        (candidate("b", equivalent=True, model_id="m2"), "same-model", False),
        (candidate("b", equivalent=True, model_id="m2"), "any", True),
        (candidate("b"), "off", False),
        (candidate("b", capabilities=frozenset()), "any", False),
        (candidate("ring:b", capabilities=frozenset()), "same-model", True),
    ],
)
async def test_who_may_go_on(second: Candidate, mode: Any, goes_on: bool) -> None:
    """`continuation` off, same-model, any; only backends that take a prefix; the request's wish wins."""
    other = "any" if mode == "off" else "off"
    options = Options(continuation=other)  # type: ignore[arg-type]
    one = world(("a", (ROLE, "One", failure("eof"))), (second, (" two", STOP)), options=options)
    reply = await one.adapter.serve(call(wishes=Wishes(continuation=mode)))
    if goes_on:
        assert (await hear(reply)).text == "One two"
    else:
        with pytest.raises(UpstreamError, match="eof"):
            await hear(reply)
        assert one.records[0].status == 502
        assert one.records[0].text == "One"


async def test_after_a_fallback_its_model_goes_on() -> None:
    """same-model means the model that was answering: not the asked one, once a fallback to another has begun."""
    one = world(
        (candidate("a", model_id="m1"), (failure("refused"),)),
        (candidate("b", model_id="m2", equivalent=True, tier=1), (ROLE, "One", failure("reset"))),
        (candidate("c", model_id="m1", tier=2), (" wrong", STOP)),
        (candidate("d", model_id="m2", equivalent=True, tier=2), (" two", STOP)),
    )
    heard = await hear(await one.adapter.serve(call()))
    assert heard.text == "One two"
    assert [attempt.backend for attempt in one.records[0].attempts] == ["a", "b", "d"]


@pytest.mark.parametrize(
    ("body", "items"),
    [
        ({"n": 2}, ("One",)),
        ({"logprobs": True}, ("One",)),
        ({}, ({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0}]}, "finish_reason": None}]},)),
    ],
)
async def test_what_cannot_be_continued_ends_with_the_true_cause(body: dict[str, Any], items: Any) -> None:
    """Several choices, logprobs, tool calls: an error that says why."""
    one = world(("a", (ROLE, *items, failure("reset"))), ("b", GOOD))
    with pytest.raises(UpstreamError, match=r"reset; the answer cannot be continued") as caught:
        await hear(await one.adapter.serve(call(body=body)))
    assert caught.value.cause == "reset"
    assert one.backends["b"].attempts == []


async def test_stalls_before_and_after_the_first_content() -> None:
    """No first content within the deployment's stream_timeout: the next one answers. Silence later: it goes on."""
    for script in ((ROLE, asyncio.Event()), (ROLE, "Hello", asyncio.Event())):
        slow = candidate("a", stream_timeout_s=0.05)
        one = world((slow, script), ("b", (ROLE, *(("Hello", " there") if len(script) == 2 else (" there",)), STOP)))
        heard = await hear(await one.adapter.serve(call()))
        assert heard.text == "Hello there"
        assert one.records[0].attempts[0].cause == "timeout"
        assert one.backends["a"].closed == 1


async def test_the_deadline_bounds_everything() -> None:
    """A call whose time is over fails with a 504, also when the backend has no limit of its own."""
    for stream in (True, False):
        one = world(("a", (ROLE, asyncio.Event())))
        with pytest.raises(UpstreamError) as caught:
            await one.adapter.serve(call(stream, deadline_s=0.05))
        assert caught.value.status == 504


async def test_leaving_cancels_the_backend_and_is_recorded() -> None:
    """Closing the frames (also before the first one is taken) closes the upstream; the record says 499."""
    for taken in (0, 1):
        one = world(("a", (ROLE, "One", asyncio.Event())))
        reply = await one.adapter.serve(call())
        assert reply.frames is not None
        assert one.adapter.in_flight == 1
        for _ in range(taken):
            await anext(reply.frames)
        await reply.frames.aclose()
        assert (one.backends["a"].closed, one.records[0].status, one.adapter.in_flight) == (1, 499, 0)
        assert one.records[0].cost > 0
        assert one.profile.in_flight("a") == 0


async def test_leaving_while_waiting_for_content() -> None:
    """A client that goes away before the first content cancels the attempt, too."""
    for stream in (True, False):
        one = world(("a", (ROLE, asyncio.Event())))
        task = asyncio.ensure_future(one.adapter.serve(call(stream)))
        await one.backends["a"].asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (one.backends["a"].closed, one.records[0].status) == (1, 499)


async def test_a_hedge_answers_for_a_late_backend() -> None:
    """Opt-in: the second backend is asked when the first is late, the loser is cancelled, both are on record."""
    one = world(("a", (ROLE, asyncio.Event())), ("b", GOOD), options=Options(hedge=True), hedge_after_s=0.01)
    for _ in range(40):
        one.adapter._parts.hedges.request(1.0)
    reply = await one.adapter.serve(call())
    assert reply.headers["x-exo-attempts"] == "a:cancelled, b:ok"
    assert (await hear(reply)).text == "Hello there"
    assert one.backends["a"].closed == 1
    assert all(attempt.cost > 0 for attempt in one.records[0].attempts)


async def test_no_hedge_without_consent_or_budget() -> None:
    """hedge off, or no money for it: only the first backend is asked."""
    for hedge in (False, True):
        slow = candidate("a", stream_timeout_s=0.1)
        one = world((slow, (ROLE, asyncio.Event())), options=Options(hedge=hedge, max_cost=1e-9), hedge_after_s=0.0)
        with pytest.raises(UpstreamError):
            await one.adapter.serve(call())
        assert len(one.records[0].attempts) == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_a_cascade_escalates_until_an_answer_is_good(stream: bool) -> None:
    """An answer that fails a check is not delivered; every attempt is paid and on record."""
    bad = (ROLE, "I'm sorry, but I can't help with that.", STOP, usage(10, 9))
    one = world(("a", bad), ("b", GOOD), ("c", GOOD), cascade=True)
    reply = await one.adapter.serve(call(stream))
    assert reply.headers["x-exo-attempts"] == "a:escalated, b:ok"
    if stream:
        heard = await hear(reply)
        assert (heard.text, heard.reasons) == ("Hello there", ["stop"])
    else:
        assert reply.whole is not None
    assert one.records[0].cost == pytest.approx((10 + 18 + 10 + 4) / 1e6)


async def test_a_cascade_that_is_making_an_answer_is_not_late() -> None:
    """It asks for a whole one, which is silent until its end: others may still be sent there."""
    waits = asyncio.Event()
    one = world(("a", (ROLE, waits, "x", STOP)), ("b", GOOD), cascade=True)
    serving = asyncio.ensure_future(one.adapter.serve(call()))
    await one.backends["a"].asked.wait()
    first, later = [one.profile.ttft(one.listed[0], 10, time.monotonic() + after) for after in (0.0, 30.0)]
    assert later == pytest.approx(first)
    waits.set()
    await hear(await serving)


@pytest.mark.parametrize(
    "error", [failure("auth"), failure("content_filter"), failure("bad_request"), InvalidRequest("no", param="tools")]
)
async def test_a_cascade_falls_back_on_what_it_has(error: Exception) -> None:
    """When the dear ones fail, or refuse the request, the doubtful cheap answer is better than none."""
    one = world(("a", (ROLE, STOP)), ("b", (error,)), cascade=True)
    reply = await one.adapter.serve(call(False))
    assert reply.whole is not None
    assert reply.headers["x-exo-backend"] == "a"


async def test_limits_are_asked_at_the_moment() -> None:
    """No room at a deployment: the next one; what was reserved is settled with what was used."""

    class Gate:
        def __init__(self) -> None:
            self.settled: list[tuple[str, int, int]] = []

        async def acquire(self, candidate: Candidate, tokens: int, cost: float | None) -> bool:
            return candidate.backend != "a"

        def why_full(self, candidate: Candidate, tokens: int, cost: float) -> tuple[str, float | None]:
            return "it is used up", 7.0

        def settle(self, candidate: Candidate, reserved: int, used: int, cost: float) -> None:
            self.settled.append((candidate.backend, reserved, used))

    gate = Gate()
    one = world(("a", GOOD), ("b", GOOD), gate=gate)
    reply = await one.adapter.serve(call(max_tokens=30))
    assert reply.headers["x-exo-attempts"] == "a:rate_limited, b:ok"
    await hear(reply)
    assert gate.settled == [("b", 40, 12)]
    with pytest.raises(UpstreamError, match="used up") as caught:
        await world(("a", GOOD), gate=gate).adapter.serve(call())
    assert (caught.value.status, caught.value.retry_after) == (429, 7.0)


async def test_nobody_to_ask_says_why() -> None:
    """Every candidate ruled out: 503 with the reasons; 400 where nobody offers it; 429 where there is no room."""
    one = world((candidate("a", rejected="no key for openai"), GOOD))
    with pytest.raises(UpstreamError, match=r"no backend can serve 'm': a: no key for openai") as caught:
        await one.adapter.serve(call())
    assert caught.value.status == 503
    with pytest.raises(UpstreamError) as caught:
        await world(("a", GOOD)).adapter.serve(call(needs=frozenset({"vision"})))
    assert caught.value.status == 400
    with pytest.raises(UpstreamError) as caught:
        await world((candidate("a", room=False), GOOD)).adapter.serve(call())
    assert caught.value.status == 429


async def test_a_ring_refuses_for_itself() -> None:
    """Alone with a call it cannot serve, the ring is asked: its 400 names the field."""
    refused = InvalidRequest("tools: is not supported", param="tools", code="unsupported_parameter")
    error = failure("unavailable")
    error.__cause__ = refused
    one = world(("ring:a", (error,)))
    with pytest.raises(InvalidRequest) as caught:
        await one.adapter.serve(call(needs=frozenset({"tools"})))
    assert caught.value is refused


async def test_explain_sends_nothing() -> None:
    """The plan as data."""
    one = world(("a", GOOD), (candidate("b", rejected="no key"), GOOD))
    told = await one.adapter.explain(call())
    assert [step["backend"] for step in told["steps"]] == ["a"]
    assert told["rejected"] == {"b": "no key"}
    assert one.backends["a"].attempts == []


async def test_headers_are_safe_and_complete() -> None:
    """One printable line each, whatever the model is called."""
    one = world((candidate("a\r\nx: y\u20ac", model="m\u00e9"), GOOD))
    reply = await one.adapter.serve(call(False))
    assert set(reply.headers) >= {
        "x-exo-backend", "x-exo-model", "x-exo-provider", "x-exo-reason", "x-exo-strategy", "x-exo-attempts",
        "x-exo-predicted-ttft-ms", "x-exo-ttft-ms", "x-exo-cost", "x-exo-cached",
    }  # fmt: skip
    assert all(value.isprintable() and value.isascii() for value in reply.headers.values())
    assert reply.headers["x-exo-backend"] == "a x: y?"
