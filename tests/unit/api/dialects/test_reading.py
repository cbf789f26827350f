"""What backends say in other shapes than OpenAI's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from exo_node.api.dialects.anthropic_response import AnthropicEncoder
from exo_node.api.dialects.ollama_answer import OllamaEncoder
from exo_node.api.dialects.reading import arguments_in, counts_in, logprobs_in, text_in, thought_in, tops_in
from exo_node.api.dialects.responses_encoder import ResponsesEncoder
from exo_node.api.dialects.responses_request import Given, decode

ODD: list[Any] = [None, 5, 0.5, True, "", [], {}, [5], [None], {"a": None}]


@pytest.mark.parametrize("odd", ODD)
def test_nothing_that_is_sent_makes_them_fail(odd: Any) -> None:
    """What cannot be read is left out."""
    assert text_in(odd) == text_in([{"type": "image"}, {"text": odd}]) == ""
    assert thought_in({"reasoning": odd}) == ""
    assert arguments_in({"arguments": odd}) in ("", json.dumps(odd, separators=(",", ":")))
    assert counts_in(odd) == counts_in({"prompt_tokens": -1, "x": 2.5, "y": True, "z": "7"}) == {}
    assert logprobs_in(odd) == logprobs_in({"content": odd}) == logprobs_in({"content": [{"token": odd}]}) == []
    assert tops_in({"top_logprobs": odd}) == tops_in({"top_logprobs": [odd]}) == []


def test_other_shapes_are_read() -> None:
    """Parts of a text, thoughts' other name, arguments that are an object, and what counts of a usage."""
    assert text_in([{"type": "thinking", "thinking": []}, {"type": "text", "text": "a"}, {"text": "b"}]) == "ab"
    assert thought_in({"reasoning_content": None, "reasoning": "hm"}) == "hm"
    assert arguments_in({"arguments": {"x": [1]}}) == '{"x":[1]}'
    usage = {"prompt_tokens": 7, "completion_tokens": "2", "prompt_tokens_details": {"cached_tokens": 3, "x": None}}
    assert counts_in(usage) == {"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 3}}


MESSAGE = {
    "role": "assistant",
    "content": [{"type": "text", "text": "Hello"}],
    "reasoning": {"odd": 1},
    "refusal": ["odd"],
    "tool_calls": [{"id": "a", "type": "function", "function": {"name": "add", "arguments": {"x": 1}}}],
}
CHOICE = {"index": 0, "finish_reason": "tool_calls", "logprobs": {"content": "odd"}}
USAGE = {"prompt_tokens": "7", "completion_tokens": 2, "total_tokens": 2.5, "prompt_tokens_details": "odd"}
DELTA = {**MESSAGE, "tool_calls": [{"index": 0, **MESSAGE["tool_calls"][0]}]}  # type: ignore[index]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("dialect", ["anthropic", "ollama", "responses"])
def test_every_dialect_tells_what_there_is(dialect: str, streamed: bool) -> None:
    """Text in parts and arguments as an object are told in each dialect; odd extras and counts are passed over."""
    asked = decode({"model": "m", "input": "Hi"}, Given(id="resp_" + "c" * 32, created=1))
    encoders: dict[str, Any] = {
        "anthropic": AnthropicEncoder("msg_1", "m"),
        "ollama": OllamaEncoder("chat", "m"),
        "responses": ResponsesEncoder(asked),
    }
    made = encoders[dialect]
    if streamed:
        raw = made.feed({"choices": [{**CHOICE, "delta": DELTA}]}) + made.feed({"choices": [], "usage": USAGE})
        said = (raw + made.end()).decode()
    else:
        said = json.dumps(made.whole({"choices": [{**CHOICE, "message": MESSAGE}], "usage": USAGE}))
    assert "Hello" in said
    assert '"x":1' in said.replace("\\", "").replace(" ", "")
    assert "odd" not in said
