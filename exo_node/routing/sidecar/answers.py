"""LiteLLM's answers as OpenAI's JSON. Reads objects, does nothing else."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Mapping
from typing import Any

# Attributes of LiteLLM's objects that are its own bookkeeping.
_PRIVATE = ("_hidden_params", "_response_headers", "_response_ms", "hidden_params", "response_ms")


def plain(answer: Any) -> dict[str, Any]:
    """A response object as JSON data; absent fields are left out, as OpenAI's SDKs read both alike."""
    if isinstance(answer, Mapping):
        data = dict(answer)
    elif hasattr(answer, "model_dump"):
        data = answer.model_dump(exclude_none=True, mode="json")
    else:
        raise TypeError(f"LiteLLM answered a {type(answer).__name__}")
    for name in _PRIVATE:
        data.pop(name, None)
    for choice in data.get("choices") or ():
        choice.setdefault("finish_reason", None)
        if isinstance(choice.get("message"), dict):
            choice["message"].setdefault("content", None)
    return data


def chunk(answer: Any) -> dict[str, Any]:
    """One chunk of a stream as JSON data."""
    data: dict[str, Any] = answer.model_dump(exclude_none=True)
    data.setdefault("choices", [])
    for choice in data["choices"]:
        choice.setdefault("finish_reason", None)
        # A text completion's chunk has "text" instead.
        if "text" not in choice:
            choice.setdefault("delta", {})
    return data


def embeddings(data: dict[str, Any], encoding: str | None) -> dict[str, Any]:
    """Embeddings in the encoding that was asked for: lists of floats, or base64 of little-endian float32 (OpenAI's)."""
    for item in data.get("data") or ():
        vector = item.get("embedding")
        if encoding == "base64" and isinstance(vector, list):
            item["embedding"] = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        elif encoding != "base64" and isinstance(vector, str):
            raw = base64.b64decode(vector)
            item["embedding"] = list(struct.unpack(f"<{len(raw) // 4}f", raw))
        item.setdefault("object", "embedding")
    data.setdefault("object", "list")
    return data


def as_chunks(answer: Mapping[str, Any], *, with_usage: bool) -> Iterator[dict[str, Any]]:
    """A complete chat answer as the chunks of a stream: role and text or tool calls, then the finish, then usage.

    Arguments of tool calls come in one piece.
    """
    head = {"id": answer["id"], "object": "chat.completion.chunk", "created": answer["created"]}
    head["model"] = answer["model"]
    for choice in answer["choices"]:
        message = choice["message"]
        delta: dict[str, Any] = {"role": "assistant", "content": message.get("content")}
        if calls := message.get("tool_calls"):
            delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(calls)]
        yield {**head, "choices": [{"index": choice["index"], "delta": delta, "finish_reason": None}]}
        finish = {"index": choice["index"], "delta": {}, "finish_reason": choice["finish_reason"]}
        yield {**head, "choices": [finish]}
    if with_usage and answer.get("usage"):
        yield {**head, "choices": [], "usage": answer["usage"]}
