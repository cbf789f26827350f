"""routing/frames.py: events of our own."""

from __future__ import annotations

from exo_node.routing.frames import events_in, header_value, usage_event
from exo_node.types import Usage


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


def test_events_of_frames() -> None:
    """Comments and `[DONE]` are none."""
    assert list(events_in(b': hi\n\ndata: {"a":1}\n\ndata:{"b":2}\n\ndata: [DONE]\n\n')) == [{"a": 1}, {"b": 2}]
