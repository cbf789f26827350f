"""routing/frames.py: events of our own."""

from __future__ import annotations

import json

from exo_node.routing.frames import as_stream, header_value, usage_event
from exo_node.types import Usage


def events(raw: bytes) -> list[dict[str, object]]:
    return [json.loads(block[6:]) for block in raw.split(b"\n\n")[:-1]]


def test_a_whole_chat_answer_as_a_stream() -> None:
    """Role, content, reason; usage where it is asked for; tool calls get their index."""
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": "t", "function": {}}]}
    answer = {
        "id": "i", "created": 1, "model": "m", "object": "chat.completion", "usage": {"total_tokens": 3},
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
    }  # fmt: skip
    found = events(as_stream(answer, include_usage=True, exo={"continued": False}))
    assert [e["object"] for e in found] == ["chat.completion.chunk"] * 4
    assert found[1]["choices"][0]["delta"] == {"tool_calls": [{"index": 0, "id": "t", "function": {}}]}  # type: ignore[index]
    assert found[2]["choices"][0]["finish_reason"] == "tool_calls"  # type: ignore[index]
    assert found[3]["usage"] == {"total_tokens": 3}
    assert len(events(as_stream(answer, include_usage=False, exo={}))) == 3


def test_a_whole_completion_as_a_stream() -> None:
    """One event a choice."""
    answer = {"object": "text_completion", "choices": [{"index": 0, "text": "x", "finish_reason": "stop"}]}
    (one,) = events(as_stream(answer, include_usage=False, exo={}))
    assert one["choices"] == [{"index": 0, "text": "x", "logprobs": None, "finish_reason": "stop"}]


def test_usage_event() -> None:
    """OpenAI's shape, with ours beside it."""
    assert usage_event({"id": "i"}, Usage(3, 4, 1), {"a": 1}) == {
        "id": "i", "choices": [], "exo": {"a": 1},
        "usage": {
            "prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "prompt_tokens_details": {"cached_tokens": 1}
        },
    }  # fmt: skip


def test_header_values_cannot_break_out() -> None:
    """Line ends, control and non-ASCII characters; length."""
    assert header_value("a\r\nset-cookie: x\x00\u00e9") == "a set-cookie: x??"
    assert len(header_value("x" * 5000)) == 1000
