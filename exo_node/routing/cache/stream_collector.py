"""The whole answer that a stream adds up to: chat and completion, tool calls, reasoning, logprobs, usage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from exo_node.routing.call import Whole
from exo_node.types import Usage

_OBJECTS = {"chat.completion.chunk": "chat.completion", "text_completion": "text_completion"}
_NOT_KEPT = ("choices", "usage", "object", "exo")  # of a chunk's own fields; usage and object are set apart
_NOT_ADDED = ("role", "id", "type", "name")  # texts that come once and are not pieces


class StreamCollector:
    """Takes a stream's events in order. `max_bytes`: more text than that is not collected, and `whole` is None."""

    def __init__(self, max_bytes: int = 1024 * 1024) -> None:
        self._left = max_bytes
        self._head: dict[str, Any] = {}
        self._object = ""
        self._choices: dict[int, dict[str, Any]] = {}
        self._usage: Mapping[str, Any] | None = None
        self._broken = False

    def add(self, events: Iterable[Mapping[str, Any]]) -> None:
        for event in events:
            if event.get("error"):
                self._broken = True
            if self._broken:
                return
            self._object = _OBJECTS.get(str(event.get("object")), self._object)
            for name, value in event.items():
                if name not in _NOT_KEPT and value is not None:
                    self._head.setdefault(name, value)
            if isinstance(event.get("usage"), Mapping):
                self._usage = event["usage"]
            for choice in event.get("choices") or ():
                self._add_choice(choice)

    def whole(self, usage: Usage | None = None) -> Whole | None:
        """The answer; None while it is not complete. `usage` stands in where the stream reported none."""
        if self._broken or self._left < 0 or not self._choices or not self._object:
            return None
        choices = [self._choices[index] for index in sorted(self._choices)]
        if any(not choice.get("finish_reason") for choice in choices):
            return None
        reported = dict(self._usage) if self._usage is not None else None
        if reported is None and usage is not None:
            reported = {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            }
        data: dict[str, Any] = {**self._head, "object": self._object, "choices": [_clean(one) for one in choices]}
        if reported is not None:
            data["usage"] = reported
        return Whole(raw=orjson.dumps(data), data=data)

    def _add_choice(self, choice: Mapping[str, Any]) -> None:
        index = choice.get("index") or 0
        kept = self._choices.setdefault(index, {"index": index})
        for name, value in choice.items():
            if name == "delta" and isinstance(value, Mapping):
                self._merge(kept.setdefault("message", {}), value)
            elif name == "text" and isinstance(value, str):
                self._left -= len(value)
                kept["text"] = kept.get("text", "") + value
            elif name == "logprobs" and isinstance(value, Mapping):
                self._merge(kept.setdefault("logprobs", {}), value)
            elif name not in ("index", "delta", "text", "logprobs") and value is not None:
                kept[name] = value

    def _merge(self, kept: dict[str, Any], piece: Mapping[str, Any]) -> None:
        """Texts are pieces of one text, lists with `index` are keyed by it, other lists go on, objects are merged."""
        for name, value in piece.items():
            old = kept.get(name)
            if value is None:
                kept.setdefault(name, None)
            elif isinstance(value, str):
                self._left -= len(value)
                once = name in _NOT_ADDED and bool(old)
                kept[name] = old if once else (old if isinstance(old, str) else "") + value
            elif isinstance(value, Mapping):
                inner: dict[str, Any] = old if isinstance(old, dict) else {}
                kept[name] = inner
                self._merge(inner, value)
            elif isinstance(value, list):
                self._extend(kept, name, value)
            else:
                kept[name] = value

    def _extend(self, kept: dict[str, Any], name: str, value: list[Any]) -> None:
        held: list[Any] = kept[name] if isinstance(kept.get(name), list) else []
        kept[name] = held
        for item in value:
            self._left -= 16
            if not isinstance(item, Mapping) or not isinstance(item.get("index"), int):
                held.append(item)
                continue
            target = next((one for one in held if isinstance(one, dict) and one.get("index") == item["index"]), None)
            if target is None:
                target = {}
                held.append(target)
            self._merge(target, item)


def _clean(choice: dict[str, Any]) -> dict[str, Any]:
    """A choice as a plain answer has it: tool calls carry no index there, and a message has a role and content."""
    choice = {"logprobs": None, **choice}
    if "message" in choice:
        message = {"role": "assistant", "content": None, **choice["message"]}
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            ordered = sorted(calls, key=lambda one: one.get("index", 0) if isinstance(one, dict) else 0)
            message["tool_calls"] = [
                {name: value for name, value in one.items() if name != "index"} if isinstance(one, dict) else one
                for one in ordered
            ]
        choice["message"] = message
    return choice
