"""Whole answers as streams, and streams as whole answers: each is the other's inverse."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from exo_node.routing.cache.replay import events_of, replay
from exo_node.routing.cache.stream_collector import StreamCollector
from exo_node.routing.call import Whole
from exo_node.types import Usage
from tests.unit.routing.cache_samples import TOOL_CALLS, USAGE, chat, completion, make_call, make_whole

LOGPROBS: dict[str, Any] = {
    "content": [{"token": "Hello", "logprob": -0.1, "bytes": None, "top_logprobs": []}],
    "refusal": None,
}


def with_logprobs() -> dict[str, Any]:
    data = chat(content="Hello")
    data["choices"][0]["logprobs"] = LOGPROBS
    return data


def two_choices() -> dict[str, Any]:
    data = chat()
    data["choices"].append({**data["choices"][0], "index": 1, "message": {"role": "assistant", "content": "other"}})
    return data


def collected(events: list[dict[str, Any]]) -> Whole | None:
    collector = StreamCollector()
    collector.add(events)
    return collector.whole()


@pytest.mark.parametrize(
    "data",
    [
        chat(),
        chat(content=""),
        chat(content=None, tool_calls=TOOL_CALLS),
        chat(reasoning_content="well " * 50),
        chat(content=None, refusal="no"),
        with_logprobs(),
        two_choices(),
        completion(),
    ],
)
def test_a_replayed_answer_adds_up_to_itself(data: dict[str, Any]) -> None:
    """Tool calls, reasoning, refusals, logprobs, several choices, usage: nothing is lost on the way there and back."""
    found = collected(list(events_of(data, usage=True)))
    assert found is not None and found.data == data
    assert orjson.loads(found.raw) == data


async def test_frames_are_a_stream_as_openai_sends_it() -> None:
    """Frames are events with blank lines between; role first, then text in pieces, an end, and usage if asked for."""
    frames = [frame async for frame in replay(make_whole(chat()), make_call(stream=True))]
    assert all(frame.startswith(b"data: {") and frame.endswith(b"}\n\n") for frame in frames)
    events = [orjson.loads(frame[6:]) for frame in frames]
    assert all(one["object"] == "chat.completion.chunk" and one["id"] == "chatcmpl-1" for one in events)
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert len(events) > 4 and "usage" not in events[0]
    assert events[-1]["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "stop"}
    asked = make_call(stream=True, stream_options={"include_usage": True})
    events = [orjson.loads(frame[6:]) async for frame in replay(make_whole(chat()), asked, {"cost": 0.0})]
    assert events[0]["usage"] is None and events[-1]["exo"] == {"cost": 0.0}
    assert (events[-1]["choices"], events[-1]["usage"]) == ([], USAGE)


@pytest.mark.parametrize(("data", "tokens"), [(chat(content="x" * 10), 3), (completion(), 41)])
async def test_usage_that_its_maker_has_not_told(data: dict[str, Any], tokens: int) -> None:
    """Who asks for usage is told an estimate, as at the end of any stream."""
    uncounted = make_whole({name: value for name, value in data.items() if name != "usage"})
    asked = make_call(stream=True, stream_options={"include_usage": True})
    events = [orjson.loads(frame[6:]) async for frame in replay(uncounted, asked)]
    used = events[-1]["usage"]
    assert (used["prompt_tokens"], used["completion_tokens"], used["total_tokens"]) == (3, tokens, 3 + tokens)


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}


def test_tool_calls_in_pieces() -> None:
    """Arguments come in pieces and calls interleaved; names and ids come once, or are repeated by some."""
    events = [
        chunk({"role": "assistant", "content": None}),
        chunk(
            {"tool_calls": [{"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": ""}}]}
        ),
        chunk(
            {"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{"}}]}
        ),
        chunk({"tool_calls": [{"index": 1, "id": "b", "function": {"name": "g", "arguments": "[]"}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}),
        chunk({}, "tool_calls", usage=USAGE),
    ]
    found = collected(events)
    assert found is not None and found.data is not None
    assert found.data["choices"][0]["message"] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": "[]"}},
        ],
    }


def test_what_is_not_whole_is_none() -> None:
    """A stream without its end, with an error, with nothing in it, or longer than may be kept is no answer."""
    assert collected([]) is None
    assert collected([chunk({"content": "a"})]) is None
    assert collected([chunk({"content": "a"}, "stop"), {"error": {"message": "broke"}}]) is None
    assert collected([{**chunk({"content": "a"}, "stop"), "error": {"message": "broke"}}]) is None
    collector = StreamCollector(max_bytes=10)
    collector.add([chunk({"content": "a" * 11}, "stop")])
    assert collector.whole() is None


def test_usage_may_be_told_from_outside() -> None:
    """Where the stream reported no usage, what the adapter counted stands in; our own notes are left out."""
    collector = StreamCollector()
    collector.add([chunk({"content": "a"}, "stop", exo={"cost": 1})])
    found = collector.whole(Usage(2, 3))
    assert found is not None and found.data is not None
    assert found.data["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert "exo" not in found.data
