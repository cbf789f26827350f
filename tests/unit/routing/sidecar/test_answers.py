"""Answers in OpenAI's shape."""

from __future__ import annotations

import base64
import struct
from typing import Any

from exo_node.routing.sidecar import answers


class Said:
    """An object that dumps like LiteLLM's."""

    def __init__(self, **data: Any) -> None:
        self.data = data

    def model_dump(self, **_: Any) -> dict[str, Any]:
        return {**self.data}


def test_plain_is_tidy() -> None:
    """LiteLLM's bookkeeping, its price and empty extras are left out; null stays where OpenAI has it."""
    message = {"role": "assistant", "tool_calls": [1], "provider_specific_fields": {"a": None}, "images": []}
    said = Said(
        model="ollama_chat/llama3", vertex_ai_x=[], usage={"total_tokens": 1, "cost": 2}, choices=[{"message": message}]
    )
    assert answers.plain(said, "ollama_chat") == {
        "model": "llama3",
        "usage": {"total_tokens": 1},
        "choices": [
            {"message": {"role": "assistant", "tool_calls": [1], "content": None}},
        ],
    }


def test_an_empty_completion_has_its_text() -> None:
    """A completion that ended at once says "", which clients read."""
    assert answers.plain(Said(choices=[{"index": 0}])) == {"choices": [{"index": 0, "text": ""}]}


def test_usage_that_nobody_reported_is_left_out() -> None:
    """All zero is LiteLLM's word for none, with details or without; any count, or another kind of usage, is one."""
    zero = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    for none in (zero, {**zero, "completion_tokens_details": {"reasoning_tokens": 0}}):
        assert "usage" not in answers.plain(Said(usage=none))
    for one in ({**zero, "prompt_tokens": 5}, {"type": "duration", "seconds": 0}):
        assert answers.plain(Said(usage=one))["usage"] == one


def test_chunks_have_one_id() -> None:
    """All chunks of a stream carry its first id; usage stands in a chunk without choices; empty usage is none."""
    read = answers.Chunks()
    first = read.read(Said(id="a", created=1, choices=[{"delta": {"content": "x"}}], usage={"total_tokens": 0}))
    last = read.read(Said(id="b", created=2, choices=[{"delta": {}}], usage={"total_tokens": 5}))
    assert first == {"id": "a", "created": 1, "choices": [{"delta": {"content": "x"}, "finish_reason": None}]}
    assert last == {"id": "a", "created": 1, "choices": [], "usage": {"total_tokens": 5}}


def test_text_chunks() -> None:
    """A text completion's chunks have text and no delta."""
    chunk = answers.Chunks("completion").read(Said(id="a", choices=[{"delta": {}, "finish_reason": "length"}]))
    assert chunk["choices"] == [{"finish_reason": "length", "text": ""}]


def test_embeddings_both_ways() -> None:
    """Floats become base64 of little-endian float32 and back."""
    coded = answers.embeddings({"data": [{"embedding": [0.5, -1.0]}]}, "base64")
    assert base64.b64decode(coded["data"][0]["embedding"]) == struct.pack("<2f", 0.5, -1.0)
    assert answers.embeddings(coded, None)["data"][0]["embedding"] == [0.5, -1.0]


def test_a_complete_answer_as_a_stream() -> None:
    """Role and content, finish, usage: each in a chunk of its own, tool calls numbered."""
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}, {"id": "2"}]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    answer = {"id": "a", "created": 1, "model": "m", "choices": [choice], "usage": {"total_tokens": 2}}
    first, finish, usage = answers.as_chunks(answer, with_usage=True)
    assert [c["index"] for c in first["choices"][0]["delta"]["tool_calls"]] == [0, 1]
    assert finish["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "tool_calls"}
    assert (usage["choices"], usage["usage"]) == ([], {"total_tokens": 2})


def test_moderation_leaves_out_what_was_not_judged() -> None:
    """Categories without a verdict are absent."""
    assert answers.moderation({"results": [{"categories": {"hate": None, "violence": False}}]}) == {
        "results": [{"categories": {"violence": False}}]
    }
