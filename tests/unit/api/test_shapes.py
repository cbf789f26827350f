"""Shapes of every kind of call: what no backend could take is a 400 that names the field."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.api.schemas.openai import REQUESTS
from exo_node.api.shapes import shape_of
from exo_node.errors import InvalidRequest
from exo_node.routing.call import CallKind

GOOD: dict[CallKind, dict[str, Any]] = {
    "chat": {"messages": [{"role": "tool", "tool_call_id": "1", "content": "x"}]},
    "completion": {"prompt": "x"},
    "embedding": {"input": "x"},
    "rerank": {"query": "q", "documents": ["a", {"text": "b"}]},
    "image": {"prompt": "x"},
    "speech": {"input": "x", "voice": "alloy"},
    "transcription": {},
    "moderation": {"input": ["x"]},
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_the_least_that_passes(kind: CallKind) -> None:
    """Required fields alone are enough, and fields that nobody here knows do no harm."""
    shape_of(kind, {**GOOD[kind], "unheard_of": {"x": 1}})


@pytest.mark.parametrize(
    ("kind", "fields", "param"),
    [
        ("chat", {"messages": None}, "messages"),
        ("chat", {"messages": []}, "messages"),
        ("chat", {"messages": "hi"}, "messages"),
        ("chat", {"messages": ["hi"]}, "messages[0]"),
        ("chat", {"messages": [{"content": "hi"}]}, "messages[0].role"),
        ("chat", {"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ("chat", {"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        ("chat", {"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
        ("chat", {"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        (
            "chat",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0].image_url",
        ),
        ("chat", {"tools": {}}, "tools"),
        ("chat", {"tools": [{}, 5]}, "tools[1]"),
        ("chat", {"tool_choice": 5}, "tool_choice"),
        ("chat", {"response_format": "json"}, "response_format"),
        ("chat", {"stream": 1}, "stream"),
        ("chat", {"stream_options": {"include_usage": True}}, "stream_options"),
        ("chat", {"temperature": 3}, "temperature"),
        ("chat", {"max_tokens": 0}, "max_tokens"),
        ("chat", {"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ("chat", {"n": 0}, "n"),
        ("chat", {"modalities": 5}, "modalities"),
        ("completion", {"prompt": None}, "prompt"),
        ("completion", {"prompt": [[1], [-1]]}, "prompt[1]"),
        ("completion", {"prompt": ["a", 5]}, "prompt[1]"),
        ("embedding", {"input": None}, "input"),
        ("embedding", {"input": ""}, "input"),
        ("embedding", {"input": []}, "input"),
        ("embedding", {"input": {"text": "x"}}, "input"),
        ("embedding", {"input": ["x"] * 2049}, "input"),
        ("embedding", {"input": [[]]}, "input[0]"),
        ("embedding", {"encoding_format": "int8"}, "encoding_format"),
        ("embedding", {"dimensions": 0}, "dimensions"),
        ("embedding", {"stream": True}, "stream"),
        ("rerank", {"query": ""}, "query"),
        ("rerank", {"documents": None}, "documents"),
        ("rerank", {"documents": []}, "documents"),
        ("rerank", {"documents": ["a", 5]}, "documents[1]"),
        ("rerank", {"documents": ["a", {"text": 5}]}, "documents[1]"),
        ("rerank", {"top_n": 0}, "top_n"),
        ("rerank", {"rank_fields": 5}, "rank_fields"),
        ("image", {"prompt": None}, "prompt"),
        ("image", {"n": 11}, "n"),
        ("image", {"size": 512}, "size"),
        ("speech", {"input": None}, "input"),
        ("speech", {"voice": None}, "voice"),
        ("speech", {"speed": 9}, "speed"),
        ("speech", {"stream_format": "sse"}, "stream_format"),
        ("transcription", {"stream": True}, "stream"),
        ("transcription", {"temperature": 2}, "temperature"),
        ("moderation", {"input": None}, "input"),
        ("moderation", {"input": [5]}, "input[0]"),
    ],
)
def test_refused(kind: CallKind, fields: dict[str, Any], param: str) -> None:
    """Each is a 400 with the field's place."""
    with pytest.raises(InvalidRequest) as caught:
        shape_of(kind, {**GOOD[kind], **fields})
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({"tools": [{}]}, {"tools"}),
        ({"tools": [{}], "tool_choice": "auto"}, {"tools"}),
        ({"tools": [{}], "tool_choice": "none"}, set()),
        ({"functions": [{}], "function_call": "none"}, set()),
        ({"functions": [{}], "tool_choice": "none"}, {"tools"}),
        ({"tools": []}, set()),
    ],
)
def test_what_a_chat_needs_of_tools(fields: dict[str, Any], needs: set[str]) -> None:
    """Tools that must not be called ask for no model that can."""
    assert shape_of("chat", {**GOOD["chat"], **fields}).needs == needs


@pytest.mark.parametrize(
    ("kind", "fields", "shape"),
    [
        ("chat", {"max_tokens": 10, "n": 3}, (1, 1, 3, 30)),
        ("completion", {"prompt": "x" * 8, "max_tokens": 10, "n": 2}, (3, 3, 2, 20)),
        ("completion", {"prompt": ["x" * 8, "y", "z"], "max_tokens": 10, "n": 2}, (5, 3, 6, 60)),
        ("completion", {"prompt": [1, 2, 3], "max_tokens": 10}, (3, 3, 1, 10)),
        ("completion", {"prompt": [[1, 2, 3], [4]], "max_tokens": 10}, (4, 3, 2, 20)),
        ("completion", {"prompt": ["x", "y"]}, (2, 1, 2, None)),
        ("embedding", {"input": ["x" * 40, "y"]}, (12, 11, 1, None)),
        ("rerank", {"query": "x" * 8, "documents": ["y" * 4, {"text": "z" * 40}]}, (15, 12, 1, None)),
    ],
)
def test_several_prompts_and_answers(kind: Any, fields: dict[str, Any], shape: tuple[int, int, int, Any]) -> None:
    """The tokens of all prompts, of the longest one, how many answers there will be, and the tokens of all of them."""
    found = shape_of(kind, {**GOOD[kind], **fields})
    assert (found.prompt_tokens, found.longest, found.answers, found.max_tokens) == shape


@pytest.mark.parametrize(("value", "tokens"), [("x" * 8, 3), ([1, 2], 2), (["x" * 4, "y"], 3), ([[1], [2, 3]], 3)])
def test_inputs_of_embeddings(value: Any, tokens: int) -> None:
    """Texts, token ids, and arrays of either."""
    assert shape_of("embedding", {"input": value}).prompt_tokens == tokens
