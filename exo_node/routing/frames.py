"""Server-sent events that the adapter makes itself. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from exo_node.types import Usage


def frame(event: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(event, option=orjson.OPT_NON_STR_KEYS) + b"\n\n"


def usage_object(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def usage_event(head: Mapping[str, Any], usage: Usage, exo: Mapping[str, Any] | None) -> dict[str, Any]:
    """The event that `stream_options.include_usage` asks for."""
    event = {**head, "choices": [], "usage": usage_object(usage)}
    if exo is not None:
        event["exo"] = exo
    return event


def as_stream(answer: Mapping[str, Any], *, include_usage: bool, exo: Mapping[str, Any]) -> bytes:
    """A whole answer as the events of a stream: role, content, reason; then its usage where that is asked for."""
    chat = answer.get("object") != "text_completion"
    head = {name: answer[name] for name in ("id", "created", "model") if name in answer}
    head["object"] = "chat.completion.chunk" if chat else "text_completion"
    events: list[dict[str, Any]] = []
    for choice in answer.get("choices", ()):
        index, reason = choice.get("index", 0), choice.get("finish_reason")
        logprobs = choice.get("logprobs")
        if chat:
            message = dict(choice.get("message") or {})
            role = message.pop("role", "assistant")
            calls = message.get("tool_calls")
            if isinstance(calls, list):
                message["tool_calls"] = [{"index": i, **call} for i, call in enumerate(calls)]
            said = {name: value for name, value in message.items() if value is not None}
            events.append(_chunk(head, index, {"delta": {"role": role, "content": ""}}, None, None))
            events.append(_chunk(head, index, {"delta": said}, logprobs, None))
            events.append(_chunk(head, index, {"delta": {}}, None, reason))
        else:
            events.append(_chunk(head, index, {"text": choice.get("text", "")}, logprobs, reason))
    if include_usage:
        events.append({**head, "choices": [], "usage": answer.get("usage"), "exo": exo})
    return b"".join(map(frame, events))


def _chunk(head: Mapping[str, Any], index: int, piece: Mapping[str, Any], logprobs: Any, reason: Any) -> dict[str, Any]:
    return {**head, "choices": [{"index": index, **piece, "logprobs": logprobs, "finish_reason": reason}]}


def header_value(text: str, limit: int = 1000) -> str:
    """`text` as a header may carry it: printable ASCII on one line."""
    if text.isascii() and text.isprintable():
        return text[:limit]
    return "".join(c if " " <= c <= "~" else "?" for c in " ".join(text.split()))[:limit]
