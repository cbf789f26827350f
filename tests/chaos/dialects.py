"""One question in every dialect, streamed and plain: how it is asked, and what a whole answer is. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.chaos.answers import BANNED, TOPICS

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Dialect:
    """`whole` reads a plain answer, `told` the events of a streamed one: (text, whether it came to its end)."""

    name: str
    path: str
    body: Callable[[str, int], dict[str, Any]]  # of words, and how many tokens
    whole: Callable[[Any], tuple[str, bool]]
    told: Callable[[list[Event]], tuple[str, bool]]


def events(lines: Iterable[bytes]) -> list[Event]:
    """Data of server-sent events, or lines of JSON. `[DONE]` is {"done": True}. Raises `ValueError` for anything else.

    >>> events([b"event: x", b'data: {"a": 1}', b"", b"data: [DONE]"])
    [{'a': 1}, {'done': True}]
    """
    found: list[Event] = []
    for line in lines:
        text = line.strip().removeprefix(b"data:").strip()
        if text == b"[DONE]":
            found.append({"done": True})
        elif text and not text.startswith((b"event:", b":", b"id:")):
            found.append(json.loads(text))
    return found


def _completion(words: str, tokens: int) -> dict[str, Any]:
    bias = {str(token): -100 for token in BANNED["demo"]}
    return {"model": "demo", "prompt": words, "max_tokens": tokens, "temperature": 0, "logit_bias": bias}


def _chat(words: str, tokens: int) -> dict[str, Any]:
    return {"model": "demo", "messages": _said(words), "max_tokens": tokens, "temperature": 0}


def _responses(words: str, tokens: int) -> dict[str, Any]:
    return {"model": "demo", "input": words, "max_output_tokens": tokens, "temperature": 0, "store": False}


def _ollama(words: str, tokens: int) -> dict[str, Any]:
    return {"model": "demo", "messages": _said(words), "options": {"num_predict": tokens, "temperature": 0}}


def _said(words: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": words}]


def _openai_whole(answer: Any) -> tuple[str, bool]:
    (choice,) = answer["choices"]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    return text, choice["finish_reason"] in ("stop", "length")


def _openai_told(found: list[Event]) -> tuple[str, bool]:
    text, ends = "", 0
    for event in found:
        for choice in event.get("choices", ()):
            text += (choice["delta"].get("content") if "delta" in choice else choice["text"]) or ""
            ends += choice["finish_reason"] in ("stop", "length")
    return text, ends == 1 and found[-1] == {"done": True}


def _anthropic_told(found: list[Event]) -> tuple[str, bool]:
    kinds = [event["type"] for event in found]
    text = "".join(event["delta"].get("text", "") for event in found if event["type"] == "content_block_delta")
    return text, kinds.count("message_stop") == 1 and kinds[-1] == "message_stop"


def _responses_whole(answer: Any) -> tuple[str, bool]:
    parts = [part["text"] for item in answer["output"] if item["type"] == "message" for part in item["content"]]
    return "".join(parts), answer["status"] in ("completed", "incomplete")


def _responses_told(found: list[Event]) -> tuple[str, bool]:
    text = "".join(event["delta"] for event in found if event["type"] == "response.output_text.delta")
    return text, found[-1]["type"] in ("response.completed", "response.incomplete")


def _ollama_told(found: list[Event]) -> tuple[str, bool]:
    text = "".join(event["message"]["content"] for event in found if "message" in event)
    return text, bool(found) and found[-1].get("done_reason") in ("stop", "length")


DIALECTS = (
    Dialect("completions", "/v1/completions", _completion, _openai_whole, _openai_told),
    Dialect("chat", "/v1/chat/completions", _chat, _openai_whole, _openai_told),
    Dialect(
        "anthropic",
        "/v1/messages",
        _chat,
        lambda answer: ("".join(one["text"] for one in answer["content"]), bool(answer["stop_reason"])),
        _anthropic_told,
    ),
    Dialect("responses", "/v1/responses", _responses, _responses_whole, _responses_told),
    Dialect(
        "ollama",
        "/api/chat",
        _ollama,
        lambda answer: (answer["message"]["content"], bool(answer["done"])),
        _ollama_told,
    ),
)


def words(number: int) -> str:
    """The `number`th question of a conversation about nothing."""
    return f"Tell me a story about {TOPICS[number % len(TOPICS)]}"
