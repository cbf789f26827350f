"""Encoding of deltas as OpenAI's objects and chunks."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exo_node.api.openai_request import parse_chat, parse_completion
from exo_node.api.openai_response import LOWEST_LOGPROB, Answer
from exo_node.config import Settings
from exo_node.types import TokenDelta, TokenLogprob, ToolCallDelta, Usage
from tests.unit.api.scripted import logprob

SETTINGS = Settings(home=Path("unused"))


def chat_answer(**fields: Any) -> Answer:
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], **fields}
    return Answer(parse_chat(body, "chatcmpl-1", SETTINGS), 123)


def completion_answer(**fields: Any) -> Answer:
    return Answer(parse_completion({"model": "demo", "prompt": "hi", **fields}, "cmpl-1", SETTINGS), 123)


def test_whole_chat() -> None:
    """The pieces of a chat become one message with finish reason and usage."""
    answer = chat_answer()
    answer.add(0, TokenDelta("Hel"))
    answer.add(0, TokenDelta("lo", finish_reason="stop", usage=Usage(3, 2, 1)))
    message = {"role": "assistant", "content": "Hello", "refusal": None}
    assert answer.whole() == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 123,
        "model": "demo",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 1},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


def test_usage_counts_a_shared_prompt_once() -> None:
    """Two prompts with two choices each: prompts count once each, answers all."""
    answer = completion_answer(prompt=["a", "b"], n=2)
    for index in range(4):
        answer.add(index, TokenDelta("x", finish_reason="length", usage=Usage(10 * (1 + index // 2), 1)))
    usage = answer.whole()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (30, 4, 34)


def test_chat_chunks() -> None:
    """First the role with empty content, then contents, then the finish; usage is null until its own chunk."""
    answer = chat_answer(stream=True, stream_options={"include_usage": True})
    events = answer.opening()
    events += answer.chunks(0, TokenDelta(""))
    events += answer.chunks(0, TokenDelta("Hi", finish_reason="length", usage=Usage(1, 1)))
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "Hi"}, {}]
    assert [event["choices"][0]["finish_reason"] for event in events] == [None, None, "length"]
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert all(event["usage"] is None for event in events)
    last = answer.usage_chunk()
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 2)


def test_completion_chunks_echo_first() -> None:
    """A completion stream starts with the echoed prompt and has the same object name as the whole."""
    answer = completion_answer(echo=True, stream=True)
    events = [*answer.opening(), *answer.chunks(0, TokenDelta(" x", echo="hi"))]
    events += answer.chunks(0, TokenDelta(" y", finish_reason="stop"))
    assert [event["choices"][0]["text"] for event in events] == ["hi x", " y", ""]
    assert {event["object"] for event in events} == {"text_completion"}
    assert "usage" not in events[0]


@pytest.mark.parametrize("stream", [False, True])
def test_an_echoed_prompt_has_logprobs_too(stream: bool) -> None:
    """The prompt's tokens come first, the first of them without a probability."""
    prompt = (logprob("<s>", math.nan), logprob("hi", -2.0, "ho"))
    answer = completion_answer(echo=True, logprobs=1, stream=stream)
    delta = TokenDelta(" x", logprobs=(replace(logprob(" x"), offset=2),), echo="hi", echoed=prompt)
    if stream:
        choice = next(iter(answer.chunks(0, delta)))["choices"][0]
    else:
        answer.add(0, replace(delta, finish_reason="stop"))
        choice = answer.whole()["choices"][0]
    assert choice["text"] == "hi x"
    assert choice["logprobs"] == {
        "tokens": ["<s>", "hi", " x"],
        "token_logprobs": [None, -2.0, -0.5],
        "top_logprobs": [None, {"hi": -2.0}, {" x": -0.5}],
        "text_offset": [0, 0, 2],
    }


def test_the_best_are_the_likeliest_per_token() -> None:
    """Of each prompt's sequences the n with the highest mean are shown, renumbered; usage counts all."""
    answer = completion_answer(prompt=["a", "b"], n=2, best_of=3)
    means = [-3.0, -1.0, -2.0, None, -5.0, -4.0]
    for i, mean in enumerate(means):
        answer.add(i, TokenDelta(f"t{i}", finish_reason="stop", usage=Usage(2, 10), mean_logprob=mean))
    whole = answer.whole()
    shown = [(choice["index"], choice["text"], choice["logprobs"]) for choice in whole["choices"]]
    assert shown == [(0, "t1", None), (1, "t2", None), (2, "t5", None), (3, "t4", None)]
    assert (whole["usage"]["prompt_tokens"], whole["usage"]["completion_tokens"]) == (4, 60)


def test_chat_logprobs() -> None:
    """Chat logprobs list token, bytes and at most the wanted number of alternatives; -inf becomes OpenAI's -9999."""
    answer = chat_answer(logprobs=True, top_logprobs=1)
    answer.add(0, TokenDelta("é", logprobs=(logprob("é", -0.5, "x"),)))
    answer.add(0, TokenDelta("", logprobs=(TokenLogprob("z", 1, float("-inf"), b"z"),), finish_reason="stop"))
    content = answer.whole()["choices"][0]["logprobs"]["content"]
    assert content[0] == {
        "token": "é",
        "logprob": -0.5,
        "bytes": [195, 169],
        "top_logprobs": [{"token": "é", "logprob": -0.5, "bytes": [195, 169]}],
    }
    assert content[1]["logprob"] == LOWEST_LOGPROB


def test_completion_logprobs() -> None:
    """Completion logprobs are parallel lists; offsets are the backend's."""
    answer = completion_answer(logprobs=1, stream=True)
    events = [
        *answer.chunks(0, TokenDelta("ab", logprobs=(logprob("ab", -0.5, "x"),))),
        *answer.chunks(0, TokenDelta("c", logprobs=(TokenLogprob("c", 1, -2.0, b"c", (("d", b"d", -0.1),), 2),))),
    ]
    first, second = (event["choices"][0]["logprobs"] for event in events)
    assert first == {
        "tokens": ["ab"],
        "token_logprobs": [-0.5],
        "top_logprobs": [{"ab": -0.5}],
        "text_offset": [0],
    }
    assert second["text_offset"] == [2]
    assert second["top_logprobs"] == [{"d": -0.1, "c": -2.0}]  # the chosen token is always there
    bare = completion_answer(logprobs=0)
    bare.add(0, TokenDelta("a", logprobs=(logprob("a"),), finish_reason="stop"))
    assert bare.whole()["choices"][0]["logprobs"]["top_logprobs"] is None


def test_the_stop_string_is_told_in_vllms_field() -> None:
    """Only where one was met."""
    answer, delta = chat_answer(), TokenDelta("Hi", finish_reason="stop", usage=Usage(3, 1), stopped_by="END")
    assert list(answer.chunks(0, delta))[-1]["choices"][0]["stop_reason"] == "END"
    answer = chat_answer()
    answer.add(0, delta)
    assert answer.whole()["choices"][0]["stop_reason"] == "END"


CALLING = (
    TokenDelta(reasoning="hm"),
    TokenDelta(tool_calls=(ToolCallDelta(0, "call_1", "f"),)),
    TokenDelta(tool_calls=(ToolCallDelta(0, arguments='{"a"'), ToolCallDelta(0, arguments=": 1}"))),
    TokenDelta(
        tool_calls=(ToolCallDelta(1, "call_2", "g"), ToolCallDelta(1, arguments="{}")),
        finish_reason="tool_calls",
        usage=Usage(3, 9, 0, 2),
    ),
)


def test_whole_tool_calls() -> None:
    """Calls and thoughts of a whole answer: no content, what was thought, how many tokens it took."""
    answer = chat_answer()
    for delta in CALLING:
        answer.add(0, delta)
    whole = answer.whole()
    choice = whole["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "reasoning_content": "hm",
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
            {"id": "call_2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
    }
    assert whole["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}


def test_streamed_tool_calls() -> None:
    """The first piece of a call says who is called, the others carry arguments by index."""
    answer = chat_answer()
    choices = [chunk["choices"][0] for delta in CALLING for chunk in answer.chunks(0, delta)]
    assert [choice["delta"] for choice in choices] == [
        {"reasoning_content": "hm"},
        {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]},
        {"tool_calls": [{"index": 1, "id": "call_2", "type": "function", "function": {"name": "g", "arguments": ""}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
        {},
    ]
    assert choices[-1]["finish_reason"] == "tool_calls"


def test_the_older_form_of_calls() -> None:
    """Who asked with `functions` is answered with `function_call`."""
    request = chat_answer(functions=[{"name": "f"}])
    for delta in CALLING[1:3]:
        request.add(0, delta)
    request.add(0, TokenDelta(finish_reason="tool_calls", usage=Usage(1, 1)))
    choice = request.whole()["choices"][0]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == {"name": "f", "arguments": '{"a": 1}'}
    streamed = chat_answer(functions=[{"name": "f"}])
    deltas = [chunk["choices"][0]["delta"] for delta in CALLING[1:3] for chunk in streamed.chunks(0, delta)]
    assert deltas[:2] == [
        {"function_call": {"name": "f", "arguments": ""}}, {"function_call": {"arguments": '{"a"'}}
    ]  # fmt: skip


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_a_log_probability_that_is_no_number_is_an_error(odd: float) -> None:
    """An engine that has computed nonsense is not passed on as `null`, whole or streamed."""
    delta = TokenDelta(" x", logprobs=(logprob(" x", odd),), finish_reason="stop", usage=Usage(1, 1))
    whole = chat_answer(logprobs=True)
    whole.add(0, delta)
    with pytest.raises(ValueError, match="not a number"):
        whole.whole()
    with pytest.raises(ValueError, match="not a number"):
        list(chat_answer(logprobs=True, stream=True).chunks(0, delta))
