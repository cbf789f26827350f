"""An answer that another node began (`Call.begun`): who goes on, from what, and what the client gets of it."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.errors import ExoError
from exo_node.routing.call import Begun, Wishes
from exo_node.routing.frames import frame
from tests.unit.routing.adapter_parts import ROLE, STOP, call, candidate, hear, text, usage, world

HEAD = {"id": "first", "object": "chat.completion.chunk", "created": 1, "model": "m"}
USAGE: Any = {"body": {"stream_options": {"include_usage": True}}}


def begun(*events: dict[str, Any], ids: tuple[int, ...] = (), ids_model: str = "", model_id: str = "") -> Begun:
    return Begun(b"".join(frame({**HEAD, **event}) for event in events), ids, ids_model, model_id)


async def test_a_ring_goes_on_from_the_tokens() -> None:
    """Exact ids and the rest of the limit; the stream's id stays, usage is of both parts, and so is the one record."""
    one = world(("ring:b", (ROLE, " there", STOP, usage(10, 1))))
    asked = call(begun=begun(ROLE, text("Hello"), ids=(7, 8), ids_model="b"), max_tokens=9, **USAGE)
    reply = await one.adapter.serve(asked)
    heard = await hear(reply)
    assert (heard.text, heard.reasons, {event["id"] for event in heard.events}) == (" there", ["stop"], {"first"})
    (attempt,) = one.backends["ring:b"].attempts
    assert attempt.partial is not None
    assert (attempt.partial.text, attempt.partial.token_ids, attempt.call.max_tokens) == ("Hello", (7, 8), 7)
    assert heard.usage is not None
    assert (heard.usage["prompt_tokens"], heard.usage["completion_tokens"]) == (10, 3)
    (record,) = one.records
    assert (record.status, record.continued, record.text, record.usage.completion_tokens) == (
        200,
        True,
        "Hello there",
        3,
    )
    assert reply.said is not None
    assert (reply.said().before, reply.said().ids_model) == ((7, 8), "b")


async def test_another_backend_goes_on_from_the_text() -> None:
    """A deployment of the same model gets the words; tokens of a ring mean nothing to it."""
    one = world((candidate("a", model_id="x"), (ROLE, "Hello there, you", STOP)))
    asked = call(begun=begun(ROLE, text("Hello there"), model_id="x"))
    reply = await one.adapter.serve(asked)
    heard = await hear(reply)
    assert heard.text == ", you"
    assert reply.said is not None
    assert (reply.said().before, reply.said().ids_model, reply.said().model_id) == ((), "", "x")


async def test_nothing_had_been_said() -> None:
    """Then it is a call like any other."""
    one = world(("ring:b", (ROLE, "Hi", STOP)))
    heard = await hear(await one.adapter.serve(call(begun=Begun(b""))))
    assert (heard.text, one.backends["ring:b"].attempts[0].partial) == ("Hi", None)
    assert not one.records[0].continued


@pytest.mark.parametrize("events", [(ROLE, text("Hi"), STOP), (ROLE, text("Hi"), STOP, usage(10, 2))])
async def test_only_the_end_was_missing(events: tuple[dict[str, Any], ...]) -> None:
    """Nobody is asked; the usage is told if it was not."""
    one = world(("ring:b", ("never",)))
    heard = await hear(await one.adapter.serve(call(begun=begun(*events, ids=(1, 2), ids_model="b"))))
    assert (heard.text, heard.reasons, one.backends["ring:b"].attempts) == ("", [], [])
    assert [event["usage"]["completion_tokens"] for event in heard.events] == [2] * (4 - len(events))
    assert (one.records[0].usage.completion_tokens, one.records[0].text) == (2, "Hi")
    assert one.adapter.in_flight == 0


async def test_the_limit_was_reached() -> None:
    """Nothing is left to say but why."""
    one = world(("ring:b", ("never",)))
    heard = await hear(await one.adapter.serve(call(begun=begun(text("Hi"), ids=(1, 2), ids_model="b"), max_tokens=2)))
    assert (heard.reasons, heard.usage) == (["length"], {**usage(10, 2)["usage"], "total_tokens": 12,
            "prompt_tokens_details": {"cached_tokens": 0}})  # fmt: skip


async def test_what_nobody_can_go_on_with() -> None:
    """It says why; with `continuation: off` too."""
    odd = {"choices": [{"index": 0, "delta": {"audio": "x"}, "finish_reason": None}]}
    for asked, why in (
        (call(begun=begun(text("Hi"), odd)), "it holds audio"),
        (call(begun=begun(text("Hi")), body={"logprobs": True}), "it has logprobs"),
        (call(begun=begun(text("Hi")), wishes=Wishes(continuation="off")), "was lost"),
    ):
        one = world(("ring:b", ("never",)))
        with pytest.raises(ExoError, match=why):
            await one.adapter.serve(asked)
        assert (one.adapter.in_flight, one.records[0].status) == (0, 502)
