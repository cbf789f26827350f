"""LiteLLM's answers as OpenAI's JSON. Reads objects, does nothing else."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Mapping
from typing import Any

# LiteLLM's own bookkeeping, and its own idea of the price.
_PRIVATE = ("_hidden_params", "_response_headers", "_response_ms", "hidden_params", "response_ms")

_COUNTS = ("total_tokens", "prompt_tokens", "completion_tokens", "input_tokens", "output_tokens")


def plain(answer: Any, provider: str = "") -> dict[str, Any]:
    """A response object as JSON data; absent fields are left out, as OpenAI's SDKs read both alike."""
    if isinstance(answer, Mapping):
        data = dict(answer)
    elif hasattr(answer, "model_dump"):
        # By alias: moderation categories are "harassment/threatening" on the wire.
        data = answer.model_dump(exclude_none=True, by_alias=True, mode="json")
    else:
        raise TypeError(f"LiteLLM answered a {type(answer).__name__}")
    for name in _PRIVATE:
        data.pop(name, None)
    _tidy(data, provider)
    if _is_invented(data.get("usage")):
        del data["usage"]
    for choice in data.get("choices") or ():
        _drop_empty_extras(choice)
        if isinstance(message := choice.get("message"), dict):
            _drop_empty_extras(message)
            message.setdefault("content", None)
        elif "message" not in choice:  # a completion's
            choice.setdefault("text", "")
    return data


def moderation(data: dict[str, Any]) -> dict[str, Any]:
    """Categories that the provider did not judge are left out."""
    for result in data.get("results") or ():
        for name in ("categories", "category_scores", "category_applied_input_types"):
            if isinstance(found := result.get(name), dict):
                result[name] = {key: value for key, value in found.items() if value is not None}
    return data


class Chunks:
    """Makes the chunks of one stream JSON data: one id for all of them, usage in a chunk of its own."""

    def __init__(self, kind: str = "chat", provider: str = "") -> None:
        self._text = kind == "completion"
        self._provider = provider
        self._first: dict[str, Any] | None = None

    def read(self, answer: Any) -> dict[str, Any]:
        data: dict[str, Any] = answer.model_dump(exclude_none=True)
        if self._first is None:
            self._first = {name: data[name] for name in ("id", "created") if name in data}
        data |= self._first  # LiteLLM gives every chunk of Ollama's another id
        _tidy(data, self._provider)
        for choice in data.setdefault("choices", []):
            choice.setdefault("finish_reason", None)
            if self._text:
                choice.pop("delta", None)
                choice.setdefault("text", "")
            else:
                _drop_empty_extras(choice.setdefault("delta", {}))
        usage = data.get("usage")
        if usage is not None and not usage.get("total_tokens"):
            del data["usage"]  # on each chunk of a text completion, all zero
        elif usage is not None and not any(says_something(choice) for choice in data["choices"]):
            data["choices"] = []
        return data


def says_something(choice: Mapping[str, Any]) -> bool:
    """Whether a chunk's choice holds more than its number."""
    return bool(choice.get("finish_reason") or choice.get("text") or any((choice.get("delta") or {}).values()))


def _tidy(data: dict[str, Any], provider: str) -> None:
    if isinstance(usage := data.get("usage"), dict):
        usage.pop("cost", None)  # by LiteLLM's table; ours is the adapter's
    for name in [n for n, value in data.items() if value == [] and n.startswith("vertex_ai_")]:
        del data[name]
    if provider and isinstance(model := data.get("model"), str):
        data["model"] = model.removeprefix(f"{provider}/")


def _is_invented(usage: Any) -> bool:
    """LiteLLM's usage for a provider that reported none: all zero, which no answer is. An estimate is made of none."""
    return isinstance(usage, dict) and "total_tokens" in usage and not any(usage.get(name) for name in _COUNTS)


def _drop_empty_extras(part: dict[str, Any]) -> None:
    extras = part.get("provider_specific_fields")
    if isinstance(extras, dict) and not any(value for value in extras.values()):
        del part["provider_specific_fields"]
    for name in ("images", "thinking_blocks", "annotations"):
        if part.get(name) == []:
            del part[name]


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
