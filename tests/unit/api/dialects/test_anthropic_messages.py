"""Anthropic's messages as OpenAI's."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.api.dialects.anthropic_messages import chat_messages, system_message
from exo_node.errors import InvalidRequest

CACHED = {"cache_control": {"type": "ephemeral"}}


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **more}


def test_the_system_prompt() -> None:
    """A string, or blocks; blocks keep their marks for caches."""
    assert system_message("Be nice") == {"role": "system", "content": "Be nice"}
    assert system_message([text("Be"), text("nice", **CACHED)]) == {
        "role": "system",
        "content": [text("Be"), text("nice", **CACHED)],
    }
    assert system_message(None) is system_message([]) is system_message("") is None


def test_clients_headers_stay() -> None:
    """Claude Code's billing line is for its maker's API; only the ring leaves it out (api/client_headers.py)."""
    noise = "x-anthropic-billing-header: cc_version=1; cch=ab12;"
    assert system_message(noise) == {"role": "system", "content": noise}


def test_turns_of_one_role_become_one() -> None:
    """As Anthropic merges them; strings and blocks alike, a lone text as a string."""
    messages = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": [text("b")]},
        {"role": "assistant", "content": [text("c")]},
        {"role": "system", "content": "d"},
        {"role": "user", "content": "e"},
    ]
    assert chat_messages(messages) == (
        [
            {"role": "user", "content": [text("a"), text("b")]},
            {"role": "assistant", "content": "c"},
            {"role": "system", "content": "d"},
            {"role": "user", "content": "e"},
        ],
        False,
    )


def test_a_round_of_tools() -> None:
    """Calls with their ids and arguments; results before the user's words, in order, errors told as such."""
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "S", **CACHED},
            {"type": "redacted_thinking", "data": "D"},
            text("Looking."),
            {"type": "tool_use", "id": "t1", "name": "look", "input": {"city": "Köln"}, **CACHED},
            {"type": "tool_use", "id": "t2", "name": "look", "input": {}},
            {"type": "tool_use", "id": "t3", "name": "look", "input": {}},
        ]},
        {"role": "user", "content": [
            text("And?"),
            {"type": "tool_result", "tool_use_id": "t1", "content": [text("sun"), text("shine")], **CACHED},
            {"type": "tool_result", "tool_use_id": "t2", "content": "no such city", "is_error": True},
            {"type": "tool_result", "tool_use_id": "t3"},
        ]},
    ]  # fmt: skip
    made, prefill = chat_messages(messages)
    assert not prefill
    assert made[1] == {
        "role": "assistant",
        "content": "Looking.",
        "tool_calls": [
            {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"city": "Köln"}'}, **CACHED},
            {"id": "t2", "type": "function", "function": {"name": "look", "arguments": "{}"}},
            {"id": "t3", "type": "function", "function": {"name": "look", "arguments": "{}"}},
        ],
        "thinking_blocks": [
            {"type": "thinking", "thinking": "hm", "signature": "S"},
            {"type": "redacted_thinking", "data": "D"},
        ],
    }
    assert made[2:] == [
        {"role": "tool", "tool_call_id": "t1", "content": "sun\nshine", **CACHED},
        {"role": "tool", "tool_call_id": "t2", "content": "Error: no such city"},
        {"role": "tool", "tool_call_id": "t3", "content": ""},
        {"role": "user", "content": "And?"},
    ]


def test_pictures_and_documents() -> None:
    """Pictures as URLs, those of a tool's result in the user's message; documents of text as text."""
    png = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}}
    web = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}, **CACHED}
    paper = {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "body"}}
    inner = {"type": "document", "source": {"type": "content", "content": [text("one"), text("two")]}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [png, text("seen")]}
    call = {"type": "tool_use", "id": "t", "name": "draw", "input": {}}
    user = {"role": "user", "content": [web, paper, inner, result]}
    made, _ = chat_messages([USER, {"role": "assistant", "content": [call]}, user])
    assert made[2:] == [
        {"role": "tool", "tool_call_id": "t", "content": "seen"},
        {"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}},
            {"type": "image_url", "image_url": {"url": "https://x/y.png"}, **CACHED},
            text("T\nbody"),
            text("one\ntwo"),
        ]},
    ]  # fmt: skip


def test_the_beginning_of_an_answer() -> None:
    """A last message of the assistant is one."""
    made, prefill = chat_messages([{"role": "user", "content": "a"}, {"role": "assistant", "content": [text("Once")]}])
    assert (made[-1], prefill) == ({"role": "assistant", "content": "Once"}, True)


USER = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        (["x"], "messages[0]"),
        ([{"role": "tool", "content": "x"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": ["x"]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([USER, {"role": "user", "content": [{"type": "search_result"}]}], "messages[1].content[0].type"),
        ([{"role": "user", "content": [{"type": "image"}]}], "messages[0].content[0].source"),
        ([{"role": "user", "content": [{"type": "image", "source": {"type": "file"}}]}],
         "messages[0].content[0].source.type"),
        ([{"role": "user", "content": [{"type": "document", "source": {"type": "base64"}}]}],
         "messages[0].content[0].source.type"),
        ([{"role": "user", "content": [{"type": "document", "citations": {"enabled": True}}]}],
         "messages[0].content[0].citations"),
        ([{"role": "user", "content": [{"type": "tool_result"}]}], "messages[0].content[0].tool_use_id"),
        ([USER, {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "n", "input": "{}"}]}],
         "messages[1].content[0].input"),
        ([USER, {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "n", "input": {}}]}],
         "messages"),
        ([USER, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]}],
         "messages[1].content[0].tool_use_id"),
        ([USER, {"role": "assistant", "content": "ends with a space "}], "messages"),
        ([USER, {"role": "assistant", "content": ""}], "messages"),
        ([{"role": "system", "content": [{"type": "image"}]}], "messages[0].content[0].type"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_name(messages: Any, param: str) -> None:
    """The error says where it stands."""
    with pytest.raises(InvalidRequest) as caught:
        chat_messages(messages)
    assert caught.value.param == param
