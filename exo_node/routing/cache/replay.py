"""A whole answer sent as the stream that a client asked for: role, content, tool calls, end, usage."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

from exo_node.routing.call import CHARACTERS_PER_TOKEN, Call, Whole
from exo_node.routing.frames import frame, usage_object
from exo_node.routing.upstream.transcript import length_of
from exo_node.types import Usage

PIECE = 64  # characters of an event: a client that draws as it reads sees a stream


async def replay(whole: Whole, call: Call, exo: Mapping[str, Any] | None = None) -> AsyncGenerator[bytes, None]:
    """The frames of `whole` (chat or completion), without the final `[DONE]`; `exo` goes with the usage report."""
    options = call.body.get("stream_options")
    wanted = isinstance(options, Mapping) and bool(options.get("include_usage"))
    data = whole.data or {}
    if wanted and not data.get("usage"):  # its maker has not counted: an estimate, as at the end of any stream
        data = {
            **data,
            "usage": usage_object(Usage(call.prompt_tokens, math.ceil(length_of(data) / CHARACTERS_PER_TOKEN))),
        }
    for event in events_of(data, usage=wanted, exo=exo):
        yield frame(event)


def events_of(
    data: Mapping[str, Any], *, usage: bool, exo: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """The chunks; `usage`: the last one reports it, with no choices, and all others say null (OpenAI's rule)."""
    chat = data.get("object") != "text_completion"
    head = {name: value for name, value in data.items() if name not in ("choices", "usage", "object", "exo")}
    head["object"] = "chat.completion.chunk" if chat else "text_completion"
    if usage:
        head["usage"] = None
    for choice in data.get("choices") or ():
        index = choice.get("index") or 0
        for piece in _deltas(choice) if chat else _texts(choice):
            yield {**head, "choices": [{"index": index, **piece}]}
    if usage:
        told = {} if exo is None else {"exo": exo}
        yield {**head, "choices": [], "usage": data.get("usage"), **told}


def _deltas(choice: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    message = dict(choice.get("message") or {})
    role, content, calls = (
        message.pop("role", "assistant"),
        message.pop("content", None),
        message.pop("tool_calls", None),
    )
    yield {"delta": {"role": role, "content": "" if content is not None else None}, "finish_reason": None}
    rest = {name: value for name, value in message.items() if value is not None}
    if rest:  # reasoning, a refusal, annotations: before the content, as they come from their makers
        yield {"delta": rest, "finish_reason": None}
    if isinstance(content, str):
        logprobs = choice.get("logprobs")  # they belong to tokens, which pieces of text do not keep together
        for start in range(0, len(content), PIECE if logprobs is None else max(1, len(content))):
            text = content[start : start + (PIECE if logprobs is None else len(content))]
            yield {"delta": {"content": text}, "logprobs": logprobs, "finish_reason": None}
    elif content is not None:
        yield {"delta": {"content": content}, "finish_reason": None}
    for position, call in enumerate(calls if isinstance(calls, list) else ()):
        yield {"delta": {"tool_calls": [{"index": position, **call}]}, "finish_reason": None}
    yield {"delta": {}, **_end(choice)}


def _texts(choice: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    text, logprobs = choice.get("text") or "", choice.get("logprobs")
    step = PIECE if logprobs is None else max(1, len(text))
    for start in range(0, len(text), step):
        yield {"text": text[start : start + step], "logprobs": logprobs, "finish_reason": None}
    yield {"text": "", "logprobs": None, **_end(choice)}


def _end(choice: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in choice.items() if name not in ("index", "message", "text", "logprobs")}
