"""Events known by their bytes mean the same as events that are parsed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exo_node.routing.call import Batch, Call
from exo_node.routing.upstream.sse_like import Later, Like
from exo_node.routing.upstream.sse_reader import SSEReader
from exo_node.routing.upstream.transcript import Transcript

CALL = Call(id="1", kind="chat", model="m", body={}, stream=True, deadline=0.0, prompt_tokens=1)
pieces = st.one_of(st.text(max_size=8), st.sampled_from(['"', "\\", '","', '\\"', "\n", "é", "</s>", " word"]))


def chat(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], "usage": None, **more}


def frame(event: Any, spaces: bool = True) -> bytes:
    separators = None if spaces else (",", ":")
    return b"data: " + json.dumps(event, ensure_ascii=spaces, separators=separators).encode() + b"\n\n"


def read(parts: list[bytes]) -> tuple[bytes, list[Any], tuple[Any, ...]]:
    """(raw, events, what the transcript says)."""
    reader, transcript = SSEReader("b"), Transcript(CALL)
    found = [batch for part in parts if (batch := reader.feed(part)) is not None]
    for batch in found:
        transcript.take(batch)
    said = (transcript.text, transcript.pieces, transcript.characters, transcript.finished, transcript.usage,
            transcript.extras, str(reader.failure), reader.done)  # fmt: skip
    return b"".join(batch.raw for batch in found), [event for batch in found for event in batch.events], said


@settings(max_examples=150, deadline=None)
@given(st.lists(pieces, max_size=80), st.booleans(), st.data())
def test_the_same_as_parsed(words: list[str], spaces: bool, data: st.DataObject) -> None:
    """Text, counts, end and bytes, whether events come one by one, in lumps, or cut anywhere."""
    called = [{"index": 0, "id": "a", "function": {"name": "add", "arguments": "{}"}}]
    odds = [[], [chat({"content": "odd", "reasoning": "hm"})], [chat({"tool_calls": called})]]
    odd = data.draw(st.sampled_from(odds))
    events = [chat({"role": "assistant", "content": ""}), *(chat({"content": word}) for word in words)]
    events[len(events) // 2 : len(events) // 2] = odd
    events += [chat({}, "stop"), {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}]
    frames = [frame(event, spaces) for event in events]
    whole = b"".join(frames) + b"data: [DONE]\n\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    lumps = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True) if a < b]
    expected = Transcript(CALL)
    expected.take(Batch(whole, events))
    for parts in ([whole], frames, lumps):
        raw, seen, said = read(parts)
        assert raw == b"".join(frames)
        assert seen == events
        assert said[0] == expected.text
        assert said[1:6] == (expected.pieces, expected.characters, {0: "stop"}, expected.usage, expected.extras)


@pytest.mark.parametrize("broken", [b'"}', b"\\x", b"\x01", b"\xff", b'","'])
def test_what_is_no_json_is_found_out(broken: bytes) -> None:
    """A malformed event among others that are alike ends the stream, as it does elsewhere."""
    good = frame(chat({"content": "good"}))
    bad = good.replace(b"good", broken)
    for parts in ([good, bad], [good, good + bad], [good * 40 + bad + good * 40]):
        reader = SSEReader("b")
        raws = [batch.raw for part in parts if (batch := reader.feed(part)) is not None]
        assert reader.failure is not None
        assert reader.failure.cause == "malformed"
        assert bad not in b"".join(raws)


def test_an_error_among_them_is_found() -> None:
    """Events before it count."""
    good = frame(chat({"content": "good"}))
    reader = SSEReader("b")
    batch = reader.feed(good * 40 + frame({"error": {"message": "no"}}))
    assert batch is not None
    assert (batch.raw, len(batch.events)) == (good * 40, 40)
    assert reader.failure is not None


def test_only_texts_are_alike() -> None:
    """A reason to finish, usage, a tool call, another choice: nothing that is looked at is skipped."""
    for event in (
        chat({"content": "x"}, "stop"),
        chat({"content": "x"}, usage={"prompt_tokens": 1}),
        chat({"content": "x", "tool_calls": [{}]}),
        chat({"content": ""}),
        {"choices": [{"index": 1, "delta": {"content": "x"}}]},
        {"choices": [{"delta": {"content": "x"}}, {"delta": {"content": "y"}}]},
    ):
        assert Like.of(frame(event)[:-2], event) is None
    twice = {"content": "x", "choices": [{"delta": {"content": "x"}}]}  # whose text it is cannot be told by its bytes
    assert Like.of(frame(twice)[:-2], twice) is None


def test_events_are_parsed_when_somebody_looks() -> None:
    raw = frame({"n": 1}) + frame({"n": 2})
    later = Later(raw)
    assert (len(later), later[1], [event["n"] for event in later], later[:1]) == (2, {"n": 2}, [1, 2], [{"n": 1}])
