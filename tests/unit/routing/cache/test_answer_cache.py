"""The response cache around the adapter: hits in place of calls, streams kept at their end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import orjson

from exo_node.metrics import Metrics
from exo_node.routing.cache.answer_cache import AnswerCache
from exo_node.routing.cache.response_cache import MemoryKeeper, ResponseCache
from exo_node.routing.call import AttemptRecord, Call, CallRecord, Outlet, Reply
from exo_node.routing.deployment import CacheConfig
from exo_node.types import Usage
from tests.unit.routing.cache_samples import chat, make_call, make_whole

HEAD = {"id": "1", "object": "chat.completion.chunk", "created": 5, "model": "m"}
EVENTS: list[dict[str, Any]] = [
    {**HEAD, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hi"}, "finish_reason": None}]},
    {**HEAD, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
]


class Frames:
    """A stream that says when it was closed."""

    def __init__(self) -> None:
        self.closed = False

    async def __call__(self) -> AsyncGenerator[bytes, None]:
        try:
            for event in EVENTS:
                yield b"data: " + orjson.dumps(event) + b"\n\n"
        finally:
            self.closed = True


def make(meaning: Callable[[Call], Sequence[str]] = lambda _: ()) -> tuple[AnswerCache, list[CallRecord]]:
    told: list[CallRecord] = []
    cache = ResponseCache(CacheConfig(kind="memory"), MemoryKeeper(10**6))
    sinks = (lambda record: told.append(record),)
    return AnswerCache(cache, Metrics(), lambda _: None, meaning, lambda _, backend: backend == "other", sinks), told


async def found(answers: AnswerCache, call: Call) -> Reply | None:
    key = answers.key(call)
    return None if key is None else await answers.get(key, call)


def record(call: Call, usage: Usage) -> CallRecord:
    return CallRecord(id=call.id, kind="chat", model="m", served_model="m", backend="d", provider="p", stream=True,
                      caller=call.caller, started=0.0, usage=usage)  # fmt: skip


async def test_a_whole_answer_is_given_again() -> None:
    """A hit is told as a call that cost nothing; where a stream is asked for it comes as one."""
    answers, told = make()
    call = make_call()
    assert await found(answers, call) is None
    await answers.keep(answers.key(call) or "", call, Reply(headers={"x-exo-backend": "d"}, whole=make_whole(chat())))
    hit = await found(answers, call)
    assert hit is not None and hit.whole is not None
    assert (hit.whole.data, hit.headers["x-exo-cached"]) == (chat(), "true")
    assert [(one.backend, one.cached, one.cost) for one in told] == [("cache", True, 0.0)]
    streamed = await found(answers, make_call(stream=True))
    assert streamed is not None and streamed.frames is not None
    assert b"".join([raw async for raw in streamed.frames]).count(b"data: ") > 2


async def test_a_stream_is_kept_at_its_end() -> None:
    """With the usage that was reported when the call was settled, though the stream does not carry it."""
    answers, _ = make()
    call, frames = make_call(stream=True), Frames()
    reply = await answers.keep(answers.key(call) or "", call, Reply(headers={}, frames=frames()))
    assert reply.frames is not None
    seen = [raw async for raw in reply.frames if raw]
    assert len(seen) == 2
    assert await found(answers, call) is None  # nobody said what it used
    reply = await answers.keep(answers.key(call) or "", call, Reply(headers={}, frames=frames()))
    answers.settled(record(call, Usage(3, 1)))
    assert reply.frames is not None
    assert [raw async for raw in reply.frames if raw] == seen
    hit = await found(answers, make_call())
    assert hit is not None and hit.whole is not None and hit.whole.data is not None
    assert hit.whole.data["choices"][0]["message"]["content"] == "Hi"
    assert hit.whole.data["usage"]["total_tokens"] == 4


async def test_a_stream_that_is_kept_has_no_short_cut_to_its_client() -> None:
    """What goes out past its frames would be missing from the kept answer."""
    answers, _ = make()
    call, frames = make_call(stream=True), Frames()
    reply = await answers.keep(answers.key(call) or "", call, Reply(headers={}, frames=frames(), outlet=Outlet()))
    assert reply.frames is not None
    assert reply.outlet is None
    await reply.frames.aclose()


async def test_what_another_model_says_in_place_of_the_asked_one_is_not_kept() -> None:
    """It would be given after the asked one is well again; also a stream that another one has ended. A cascade's answer
    is what was asked for."""
    answers, _ = make()
    call, key = make_call(), answers.key(make_call()) or ""
    other = {"x-exo-backend": "other", "x-exo-attempts": "d:server, other:ok"}
    await answers.keep(key, call, Reply(headers=other, whole=make_whole(chat())))
    assert await found(answers, call) is None
    streamed = make_call(stream=True)
    for ended_by in ("other", "d"):
        reply = await answers.keep(key, streamed, Reply(headers={"x-exo-backend": "d"}, frames=Frames()()))
        told = record(streamed, Usage(3, 1))
        told.continued = True
        told.attempts = [AttemptRecord(backend=one, ttft_s=0.1) for one in ("d", ended_by)]
        answers.settled(told)
        assert reply.frames is not None
        assert len([raw async for raw in reply.frames if raw]) == 2
        assert (await found(answers, call) is None) is (ended_by == "other")
    answers, _ = make()
    escalated = {**other, "x-exo-attempts": "d:escalated, other:ok"}
    await answers.keep(key, call, Reply(headers=escalated, whole=make_whole(chat())))
    assert await found(answers, call) is not None


async def test_a_stream_that_is_left_is_closed_and_not_kept() -> None:
    """Also one of which nothing was read."""
    for read in (0, 1):
        answers, _ = make()
        call, frames = make_call(stream=True), Frames()
        source = frames()
        await anext(source)  # as the adapter's, which has begun
        reply = await answers.keep(answers.key(call) or "", call, Reply(headers={}, frames=source))
        assert reply.frames is not None
        for _ in range(read):
            await anext(reply.frames)
        await reply.frames.aclose()
        assert frames.closed
        answers.settled(record(call, Usage(3, 1)))
        assert await found(answers, call) is None


async def test_another_meaning_is_another_question() -> None:
    """What was kept for a name is not given once the name stands for something else."""
    meant = ["gpt-4o"]
    answers = make(lambda _: meant)[0]
    call = make_call()
    key = answers.key(call) or ""
    await answers.keep(key, call, Reply(headers={}, whole=make_whole(chat())))
    assert await found(answers, call) is not None
    meant = ["gpt-4o-mini"]
    assert await found(answers, call) is None
