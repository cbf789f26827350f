"""Server-sent events come out the same however the network cuts them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exo_node.routing.call import UpstreamError
from exo_node.routing.upstream import sse_reader
from exo_node.routing.upstream.sse_reader import SSEReader


def read(parts: list[bytes]) -> tuple[bytes, list[dict[str, Any]], UpstreamError | None, bool]:
    """(all raw bytes, all events, what ended it, whether [DONE] came)."""
    reader = SSEReader("b")
    batches = [reader.feed(part) for part in parts]
    batches.append(reader.end())
    raw = b"".join(b.raw for b in batches if b)
    for batch in batches:
        assert batch is None or (batch.events and batch.raw.endswith(b"\n\n"))
    return raw, [e for b in batches if b for e in b.events], reader.failure, reader.done


def event(n: int) -> bytes:
    return b"data: " + json.dumps({"n": n, "text": "é\\r\\n"}).encode() + b"\n\n"


texts = st.text(max_size=20)
frames = st.one_of(
    st.builds(lambda t: b"data: " + json.dumps({"t": t}, ensure_ascii=False).encode() + b"\n\n", texts),
    st.builds(lambda t: b"data:" + json.dumps({"t": t}).encode() + b"\r\n\r\n", texts),
    st.builds(lambda t: b"event: message\nid: 3\ndata: " + json.dumps({"t": t}).encode() + b"\n\n", texts),
    st.just(b'data: {"a":\ndata: 1}\n\n'),
    st.sampled_from([b": keep-alive\n\n", b"\n\n", b"\n", b": c\r\n\r\n", b"retry: 10\n\n", b"data:\n\n"]),
)
endings = st.sampled_from(
    [b"", b"data: [DONE]\n\n", b"data: [DONE]", b"data: [DONE]\r\n\r\nrest", b'data: {"n"', b'data: {"n": 1}',
     b"data: {no\n\n", b'data: {"error": {"message": "x", "code": 429}}\n\n', b"data: [1]\n\n"]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(frames, max_size=6), endings, st.data())
def test_any_split_gives_the_same(parts: list[bytes], ending: bytes, data: st.DataObject) -> None:
    """Events, bytes, end and failure do not depend on where reads begin and end."""
    whole = b"".join(parts) + ending
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    raw, events, failure, done = read([p for p in pieces if p])
    raw_whole, events_whole, failure_whole, done_whole = read([whole] if whole else [])
    assert (raw, events, done) == (raw_whole, events_whole, done_whole)
    assert str(failure) == str(failure_whole)
    assert read([whole[i : i + 1] for i in range(len(whole))])[:2] == (raw, events)


def test_plain_frames_are_relayed_as_they_came() -> None:
    """Bytes of ordinary events are not written anew."""
    whole = event(1) + event(2)
    batch = SSEReader("b").feed(whole)
    assert batch is not None
    assert batch.raw is whole
    assert [e["n"] for e in batch.events] == [1, 2]


def test_comments_and_done_are_taken_out() -> None:
    """What the client gets holds neither the provider's keep-alives nor its [DONE]."""
    raw, events, failure, done = read([b": OPENROUTER PROCESSING\n\n" + event(1) + b": x\n\n" + b"data: [DONE]\n\n"])
    assert (raw, len(events), failure, done) == (event(1), 1, None, True)


@pytest.mark.parametrize(
    "odd",
    [
        b'data:{"n": 1}\n\n',
        b'event: message\nid: 3\ndata: {"n": 1}\nretry: 5\n\n',
        b'\xef\xbb\xbfdata: {"n": 1}\n\n',
        b'data: {"n":\ndata: 1}\n\n',
        b'\n: hello\ndata:{"n": 1}\r\n\r\n',
    ],
)
def test_odd_frames_are_relayed_in_the_usual_form(odd: bytes) -> None:
    """One line "data: {...}" an event: the cache's collector and many clients read nothing else."""
    assert read([odd, event(2)])[0].replace(b" ", b"") == b'data:{"n":1}\n\n' + event(2).replace(b" ", b"")
    assert read([odd, event(2)])[0].startswith(b'data: {"n"')


def test_an_event_without_its_blank_line_counts() -> None:
    """A server that closes right after its last event has sent it."""
    raw, events, failure, _ = read([event(1).rstrip()])
    assert (raw, len(events), failure) == (event(1), 1, None)


@pytest.mark.parametrize(
    ("ending", "cause"),
    [
        (b'data: {"choices": [{"del', "eof"),
        (b"data: {not json\n\n", "malformed"),
        (b"data: 17\n\n", "malformed"),
        (b'data: {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}\n\n', "rate_limited"),
        (b'data: {"error": {"message": "boom", "code": 502}, "choices": []}\n\n', "server"),
        (b'data: {"error": "gone"}\n\n', "server"),
        (b'data: {"object": "error", "message": "boom", "code": 500}\n\n', "server"),
        (b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}\n\n', "server"),
    ],
)
def test_what_ends_a_stream(ending: bytes, cause: str) -> None:
    """Events before a broken one still come; then the reader says what was wrong."""
    raw, events, failure, done = read([event(1) + ending])
    assert (raw, len(events), done) == (event(1), 1, False)
    assert failure is not None
    assert failure.cause == cause


def test_an_endless_event_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that never ends is cut off at a bound."""
    monkeypatch.setattr(sse_reader, "MAX_EVENT", 1000)
    reader = SSEReader("b")
    for _ in range(20):
        reader.feed(b"x" * 100)
    assert reader.failure is not None
    assert reader.failure.cause == "malformed"


def test_a_null_error_is_no_error() -> None:
    """Some providers send `error: null` in each event."""
    assert read([b'data: {"error": null}\n\n'])[2] is None


def test_the_sidecar_names_its_cause() -> None:
    """Only our own sidecar's word for the cause is taken."""
    sent = b'data: {"error": {"message": "x", "code": "upstream_reset", "cause": "reset"}}\n\n'
    for trusted, cause in ((True, "reset"), (False, "server")):
        reader = SSEReader("b", trusted=trusted)
        reader.feed(sent)
        assert reader.failure is not None
        assert reader.failure.cause == cause
