"""routing/adapter/relay.py: opening a stream and what its frames cost and hide (whole calls: test_adapter.py)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest

from exo_node.routing.adapter.attempts import Tried
from exo_node.routing.adapter.relay import open_stream
from exo_node.routing.call import Attempt, AttemptRecord, Batch, UpstreamError
from exo_node.routing.frames import frame
from exo_node.routing.plan import Step
from tests.unit.routing.adapter_parts import ROLE, STOP, Scripted, call, candidate, failure, hear, text, usage, world


def tried() -> Tried:
    step = Step(candidate=candidate("a"), ttft_s=0.1, total_s=1.0, cost=None, reason="")
    return Tried(step, AttemptRecord(backend="a"), time.monotonic(), 0, 10)


async def test_opening_holds_back_what_is_not_content() -> None:
    """Role events wait for the first text, and go out with it."""
    live = await open_stream(Scripted("a", [(ROLE, ROLE, "x", STOP)]), Attempt(call=call(), timeout_s=5), tried())
    assert len(live.held) == 3
    await live.close()


async def test_a_failed_opening_leaves_nothing_running() -> None:
    """Its generator is closed, whatever ended it."""
    for script, cause in (((ROLE,), "eof"), ((ROLE, asyncio.Event()), "timeout")):
        upstream = Scripted("a", [script])
        with pytest.raises(UpstreamError) as caught:
            await open_stream(upstream, Attempt(call=call(), timeout_s=5, first_s=0.02), tried())
        assert caught.value.cause == cause
        assert upstream.closed == 1


async def test_what_follows_the_last_finish_reason_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that never closes its stream has answered all the same."""
    monkeypatch.setattr("exo_node.routing.adapter.relay.LINGER_S", 0.02)
    one = world(("a", (ROLE, "x", STOP, asyncio.Event())))
    assert (await hear(await one.adapter.serve(call()))).text == "x"
    assert one.records[0].status == 200


@pytest.mark.parametrize("n", [1, 2])
async def test_the_calls_own_time_is_over(n: int) -> None:
    """Then nobody goes on, one choice or several, and the error says what it was."""
    one = world(("a", (ROLE, "x", asyncio.Event())))
    reply = await one.adapter.serve(call(deadline_s=0.2, body={"n": n}))
    with pytest.raises(UpstreamError, match=r"a: the answer was not complete in time$") as caught:
        await hear(reply)
    assert (caught.value.status, caught.value.code) == (504, "deadline_exceeded")


async def test_an_answer_of_several_choices_fails_with_its_own_code() -> None:
    """Nobody goes on with it: why it broke stays what it was."""
    one = world(("a", (ROLE, "x", failure("rate_limited", code="queue_full", retry_after=2.0))))
    reply = await one.adapter.serve(call(body={"n": 2}))
    with pytest.raises(UpstreamError, match="it has several choices") as caught:
        await hear(reply)
    assert (caught.value.status, caught.value.code, caught.value.retry_after) == (429, "queue_full", 2.0)


async def test_usage_in_every_event_is_passed_on_as_it_is() -> None:
    """Some servers report as they go: only usage events of their own are hidden from who did not ask."""
    running = {**text("x"), "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    one = world(("a", (ROLE, running, STOP, usage(1, 2))))
    heard = await hear(await one.adapter.serve(call()))
    assert [event.get("usage") is not None for event in heard.events] == [False, True, False]
    assert one.records[0].usage.completion_tokens == 2


async def test_after_thoughts_alone_anybody_answers() -> None:
    """Without text there is nothing to go on from, so no capability is needed; the second's thoughts are left out."""
    thought = {"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}, "finish_reason": None}]}
    broken = UpstreamError("b went away", "reset")
    plain = candidate("c", capabilities=frozenset())
    one = world(("b", (ROLE, thought, broken)), (plain, (ROLE, thought, "x", STOP)))
    heard = await hear(await one.adapter.serve(call()))
    assert heard.text == "x"
    assert sum("reasoning_content" in str(event) for event in heard.events) == 1
    assert one.records[0].continued


async def test_an_odd_shape_fails_over() -> None:
    """An event that is JSON but not of OpenAI's shape is the backend's fault, before and after the first content."""
    for before in ((ROLE,), (ROLE, "One two three ")):
        one = world(("a", (*before, {"choices": 5})), ("b", (ROLE, "four", STOP)))
        heard = await hear(await one.adapter.serve(call()))
        assert heard.text == ("One two three four" if len(before) > 1 else "four")
        assert one.records[0].attempts[0].cause == "malformed"


async def test_what_came_with_an_odd_event_is_said_by_who_goes_on() -> None:
    """It was held back together with it, so the next backend goes on from before it: nothing is lost."""
    one = world(("a", ()), ("b", (ROLE, " two", " three", STOP)))

    class Together(Scripted):
        async def stream(self, attempt: Attempt) -> AsyncGenerator[Batch, None]:
            for events in ([text("One")], [text(" two"), {"choices": 5}]):
                yield Batch(b"".join(map(frame, events)), events)

    one.backends["a"] = Together("a", [])
    assert (await hear(await one.adapter.serve(call()))).text == "One two three"
    (attempt,) = one.backends["b"].attempts
    assert attempt.partial is not None
    assert attempt.partial.text == "One"


async def test_the_last_report_of_usage_carries_ours() -> None:
    """Where events that came together all report usage, what we add stands in the last; unreadable usage is a guess."""
    each = [{**text("x"), "usage": {"prompt_tokens": 1, "completion_tokens": 1}}, {**STOP, "usage": {"oops": 1}}]
    one = world(("a", ()))

    class Together(Scripted):
        async def stream(self, attempt: Attempt) -> AsyncGenerator[Batch, None]:
            yield Batch(b"".join(map(frame, each)), each)

    one.backends["a"] = Together("a", [])
    heard = await hear(await one.adapter.serve(call(body={"stream_options": {"include_usage": True}})))
    assert ["exo" in event for event in heard.events] == [False, True]
