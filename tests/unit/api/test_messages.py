"""Chat messages: what templates get, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.api.messages import parse_messages
from exo_node.errors import InvalidRequest


def test_messages_become_plain_text() -> None:
    """Text parts are joined, developer means system, an assistant without text says nothing, extras are dropped."""
    parsed = parse_messages(
        [
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "Ann"},
            {"role": "assistant", "content": None, "tool_calls": [], "refusal": None, "annotations": []},
            {"role": "assistant", "content": "c", "reasoning_content": "hm"},
        ]
    )
    assert parsed == (
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "ab", "name": "Ann"},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": "c", "reasoning_content": "hm"},
    )


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("hi", "messages[0]"),
        ({}, "messages[0].role"),
        ({"role": "robot", "content": "a"}, "messages[0].role"),
        ({"role": ["user"], "content": "a"}, "messages[0].role"),
        ({"role": "tool", "content": "a"}, "messages[0].tool_call_id"),
        ({"role": "user", "content": "a", "tool_calls": [{}]}, "messages[0].tool_calls"),
        ({"role": "assistant", "tool_calls": [{"type": "custom", "id": "1"}]}, "messages[0].tool_calls[0].type"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": None}, "messages[0].content"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user", "content": "\ud800"}, "messages[0].content"),
        ({"role": "user", "content": ["a"]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "assistant", "content": "a", "tool_calls": [{"id": "1"}]}, "messages[0].tool_calls[0].function"),
        ({"role": "user", "content": "a", "name": 5}, "messages[0].name"),
    ],
)
def test_refused(message: Any, param: str) -> None:
    """Each wrong or unsupported message raises the 400 that names the place."""
    with pytest.raises(InvalidRequest) as caught:
        parse_messages([message])
    assert caught.value.param == param


def test_calls_and_results() -> None:
    """Calls keep OpenAI's form with arguments as text; the older form gets ids; results name their call."""
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    parsed = parse_messages(
        [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "2"}]},
            {"role": "assistant", "content": "", "function_call": {"name": "g", "arguments": {"b": 2}}},
            {"role": "function", "name": "g", "content": "3"},
            {"role": "assistant", "content": None, "refusal": "No."},
        ]
    )
    old = {"id": "call_of_g", "type": "function", "function": {"name": "g", "arguments": '{"b": 2}'}}
    assert parsed == (
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "2", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "", "tool_calls": [old]},
        {"role": "tool", "content": "3", "name": "g", "tool_call_id": "call_of_g"},
        {"role": "assistant", "content": "No."},
    )
