"""What backends say in a chat's answer, as the encoders need it: some have other shapes than OpenAI's. Pure.

What cannot be read is left out; a stream whose pieces are of no shape at all does not come here (transcript.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson


def text_in(content: Any) -> str:
    """A text, or parts of which some are text (Mistral's, with its thoughts)."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = [part.get("text") for part in content if isinstance(part, Mapping)]
    return "".join([text for text in texts if isinstance(text, str)])


def thought_in(said: Mapping[str, Any]) -> str:
    """A message's or a delta's thoughts, under either of their names."""
    thought = said.get("reasoning_content") or said.get("reasoning")
    return thought if isinstance(thought, str) else ""


def arguments_in(function: Mapping[str, Any]) -> str:
    """A call's arguments as JSON text; some send the object itself."""
    arguments = function.get("arguments")
    if isinstance(arguments, Mapping):
        return orjson.dumps(arguments).decode()
    return arguments if isinstance(arguments, str) else ""


def counts_in(usage: Any) -> dict[str, Any]:
    """A usage object with nothing but what counts; {} where it is none."""
    if not isinstance(usage, Mapping):
        return {}
    kept = {name: counts_in(value) if isinstance(value, Mapping) else value for name, value in usage.items()}
    return {name: value for name, value in kept.items() if isinstance(value, dict) or _is_count(value)}


def logprobs_in(value: Any) -> list[Mapping[str, Any]]:
    """The tokens of a choice's `logprobs`."""
    return _tokens(value.get("content")) if isinstance(value, Mapping) else []


def tops_in(token: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What the model might have said instead of a token."""
    return _tokens(token.get("top_logprobs"))


def _tokens(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if _is_token(one)] if isinstance(value, list) else []


def _is_token(one: Any) -> bool:
    return isinstance(one, Mapping) and isinstance(one.get("token"), str) and "logprob" in one


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0
