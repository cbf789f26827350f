"""The Responses API's small shapes: kinds of text and their events, frames, log-probabilities, usage. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from exo_node.api.dialects.reading import logprobs_in, tops_in
from exo_node.errors import ExoError


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of part: the item it is in and the list there, its fields, and the names of its events."""

    item: str
    prefix: str  # of the item's id
    list: str
    type: str
    text: str
    index: str
    added: str
    delta: str
    done: str
    closed: str
    more: Mapping[str, Any] = field(default_factory=dict)


_CONTENT = ("content_index", "response.content_part.added")
TEXT = Kind(
    "message", "msg", "content", "output_text", "text", *_CONTENT, "response.output_text.delta",
    "response.output_text.done", "response.content_part.done", {"annotations": [], "logprobs": []},
)  # fmt: skip
REFUSAL = Kind(
    "message", "msg", "content", "refusal", "refusal", *_CONTENT, "response.refusal.delta", "response.refusal.done",
    "response.content_part.done",
)  # fmt: skip
REASONING = Kind(
    "reasoning", "rs", "content", "reasoning_text", "text", *_CONTENT, "response.reasoning_text.delta",
    "response.reasoning_text.done", "response.content_part.done",
)  # fmt: skip
SUMMARY = Kind(
    "reasoning", "rs", "summary", "summary_text", "text", "summary_index", "response.reasoning_summary_part.added",
    "response.reasoning_summary_text.delta", "response.reasoning_summary_text.done",
    "response.reasoning_summary_part.done",
)  # fmt: skip


def frame(name: str, fields: Mapping[str, Any], number: int) -> bytes:
    """An event of the stream; they are numbered from 0."""
    data = dumps({"type": name, **fields, "sequence_number": number})
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def error_frame(error: ExoError, number: int) -> bytes:
    return frame("error", {"code": error.code, "message": error.message, "param": error.param}, number)


def dumps(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # numbers beyond 64 bits and halves of surrogate pairs, which a client's schema may hold
        return json.dumps(value, separators=(",", ":")).encode()


def delta_head(name: str, place: Mapping[str, Any]) -> bytes:
    data = dumps({"type": name, **place})
    return b'event: %b\ndata: %b,"delta":' % (name.encode(), data[:-1])


def logprobs_of(value: Any) -> list[dict[str, Any]]:
    """A chat's log-probabilities in this API's form: `bytes` always, and no word of what is not known."""
    return [
        {**_logprob(token), "top_logprobs": [_logprob(top) for top in tops_in(token)]} for token in logprobs_in(value)
    ]


def _logprob(token: Mapping[str, Any]) -> dict[str, Any]:
    raw = token.get("bytes")
    return {
        "token": token["token"],
        "logprob": token["logprob"],
        "bytes": list(token["token"].encode()) if raw is None else raw,
    }


def usage_of(usage: Mapping[str, Any]) -> dict[str, Any]:
    asked, made = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    thought = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return {
        "input_tokens": asked,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": usage.get("total_tokens") or asked + made,
    }


def error_code(error: ExoError) -> str:
    """One of the codes that a response's error may have."""
    if error.status == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if 400 <= error.status < 500 else "server_error"


UNFINISHED = ("queued", "in_progress")  # statuses of a response that will change
