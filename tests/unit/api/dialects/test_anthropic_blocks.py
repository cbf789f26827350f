"""Content blocks never overlap, however the pieces come."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_node.api.dialects.anthropic_blocks import PING, Blocks
from exo_node.errors import ExoError


def blocks(*, show: bool = True) -> Blocks:
    return Blocks("msg_1", show_thoughts=show, signature="ours")


def events(raw: bytes) -> list[dict[str, Any]]:
    """The events without pings; each frame's name is its object's type."""
    found = []
    for block in raw.split(b"\n\n")[:-1]:
        name, data = block.split(b"\n")
        event = json.loads(data.removeprefix(b"data: "))
        assert name.decode() == f"event: {event['type']}"
        if event["type"] != "ping":
            found.append(event)
    return found


def assembled(raw: bytes) -> list[dict[str, Any]]:
    """The blocks as Anthropic's SDKs put them together; fails where they overlap or are out of order."""
    made: list[dict[str, Any]] = []
    is_open = False
    for event in events(raw):
        match event["type"]:
            case "content_block_start":
                assert not is_open
                assert event["index"] == len(made)
                made.append({**event["content_block"], "json": ""})
                is_open = True
            case "content_block_delta":
                assert is_open
                assert event["index"] == len(made) - 1
                delta = event["delta"]
                for name, field in (("text", "text"), ("thinking", "thinking"), ("partial_json", "json")):
                    if name in delta:
                        made[-1][field] += delta[name]
                if "signature" in delta:
                    made[-1]["signature"] = delta["signature"]
            case "content_block_stop":
                assert is_open
                assert event["index"] == len(made) - 1
                is_open = False
    assert not is_open
    for one in made:
        text = one.pop("json")
        if one["type"] == "tool_use":
            one["input"] = json.loads(text or "{}")
    return made


def test_the_frames_of_a_text() -> None:
    """Start, one ping, deltas, stop, byte for byte."""
    one = blocks()
    raw = one.text("Hé") + one.text(' "x"') + one.end()
    assert raw == (
        b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
        b'"content_block":{"type":"text","text":""}}\n\n' + PING +
        'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
        '"delta":{"type":"text_delta","text":"Hé"}}\n\n'.encode() +
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
        b'"delta":{"type":"text_delta","text":" \\"x\\""}}\n\n'
        b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
    )  # fmt: skip


def test_thoughts_text_and_calls_in_order() -> None:
    """Each opens a block of its own; text after a call too; thoughts are signed."""
    one = blocks()
    raw = one.thought("h") + one.thought("m") + one.redacted("D") + one.text("Look")
    raw += one.call(0, "c0", "look", "") + one.call(0, "", "", '{"a":') + one.call(0, "", "", "1}") + one.text("ing")
    assert assembled(raw + one.end()) == [
        {"type": "thinking", "thinking": "hm", "signature": "ours"},
        {"type": "redacted_thinking", "data": "D"},
        {"type": "text", "text": "Look"},
        {"type": "tool_use", "id": "c0", "name": "look", "input": {"a": 1}},
        {"type": "text", "text": "ing"},
    ]
    assert one.tools


def test_a_providers_signature_stays() -> None:
    """Claude's thoughts can be sent back to it; those that are not to be shown keep their signature alone."""
    for show, said in ((True, "hm"), (False, "")):
        one = blocks(show=show)
        raw = one.thought("hm") + one.signature("SIG") + one.text("x") + one.end()
        assert assembled(raw)[0] == {"type": "thinking", "thinking": said, "signature": "SIG"}


def test_the_first_call_is_sent_as_it_comes() -> None:
    """Nothing waits but what belongs to another call, and that only until the first is complete."""
    one = blocks()
    assert len(events(one.call(0, "a", "f", '{"x"'))) == 2
    assert one.call(1, "b", "g", "{}") == b""
    assert one.text("!") == b""
    kinds = [event["type"] for event in events(one.call(0, "", "", ":1}"))]
    start, delta, stop = "content_block_start", "content_block_delta", "content_block_stop"
    assert kinds == [delta, stop, start, delta, stop, start, delta]


def test_a_name_that_comes_late() -> None:
    """Its block begins with it."""
    one = blocks()
    assert one.call(0, "a", "", "") == b""
    assert assembled(one.call(0, "", "f", "") + one.call(0, "", "", "{}") + one.end())[0]["name"] == "f"


def test_arguments_after_their_end() -> None:
    """Blanks are nothing; anything else would be lost, so it is an error."""
    one = blocks()
    one.call(0, "a", "f", "{}")
    one.call(1, "b", "f", "{}")
    assert one.call(0, "", "", " \n") == b""
    with pytest.raises(ExoError, match="went on"):
        one.call(0, "", "", "x")


ARGUMENTS = st.dictionaries(st.text(max_size=3), st.one_of(st.integers(), st.text(max_size=5)), max_size=2)


@given(st.lists(ARGUMENTS, min_size=1, max_size=4), st.data())
def test_any_mixture_of_calls_gives_the_same_blocks(calls: list[dict[str, Any]], data: st.DataObject) -> None:
    """Pieces of any size, mixed in any way that keeps each call's order and the calls' beginnings in order."""
    one = blocks()
    left = [json.dumps(each) for each in calls]
    begun = 0
    raw = b""
    while begun < len(left) or any(left):
        choices = [i for i in range(begun) if left[i]] + ([begun] if begun < len(left) else [])
        i = data.draw(st.sampled_from(choices))
        cut = data.draw(st.integers(1, max(1, len(left[i]))))
        piece, left[i] = left[i][:cut], left[i][cut:]
        raw += one.call(i, f"c{i}" if i == begun else "", "f" if i == begun else "", piece)
        begun += i == begun
    made = assembled(raw + one.end())
    assert [block["input"] for block in made] == calls
    assert [block["id"] for block in made] == [f"c{i}" for i in range(len(calls))]


@given(st.text(min_size=1, max_size=40), st.data())
def test_any_chunking_of_a_text_gives_it_back(text: str, data: st.DataObject) -> None:
    """Also where characters of all planes are cut apart from each other."""
    one, raw, left = blocks(), b"", text
    while left:
        cut = data.draw(st.integers(1, len(left)))
        raw, left = raw + one.text(left[:cut]), left[cut:]
    assert assembled(raw + one.end()) == [{"type": "text", "text": text}]
