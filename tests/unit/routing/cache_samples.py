"""Calls and answers for the tests of the response cache."""

from __future__ import annotations

from typing import Any

import orjson

from exo_node.routing.call import Call, Caller, CallKind, Whole, Wishes

TOOL_CALLS = [
    {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}},
    {"id": "call_2", "type": "function", "function": {"name": "time", "arguments": "{}"}},
]
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def make_call(
    *, kind: CallKind = "chat", model: str = "gpt", stream: bool = False, key: str = "", wishes: Wishes | None = None,
    **body: Any,
) -> Call:  # fmt: skip
    sent = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream, **body}
    return Call(
        id="c", kind=kind, model=model, body=sent, stream=stream, deadline=1e9, prompt_tokens=3,
        wishes=wishes or Wishes(), caller=Caller(key),
    )  # fmt: skip


def make_whole(data: dict[str, Any]) -> Whole:
    return Whole(raw=orjson.dumps(data), data=data)


def chat(**message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": "Hello, " + "world " * 30, **message}
    finish = "tool_calls" if "tool_calls" in message else "stop"
    return {
        "id": "chatcmpl-1", "created": 5, "model": "gpt-4o", "system_fingerprint": "fp", "object": "chat.completion",
        "choices": [
            {"logprobs": None, "index": 0, "message": said, "finish_reason": finish}
        ],
        "usage": USAGE,
    }  # fmt: skip


def completion() -> dict[str, Any]:
    return {
        "id": "cmpl-1", "created": 5, "model": "m", "object": "text_completion", "usage": USAGE,
        "choices": [
            {"logprobs": None, "index": 0, "text": "one " * 40, "finish_reason": "stop"},
            {"logprobs": None, "index": 1, "text": "two", "finish_reason": "length"},
        ],
    }  # fmt: skip
