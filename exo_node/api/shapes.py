"""What each kind of call must look like, whoever serves it, and what routing wants to know of it. Pure.

Only what holds for every backend is checked here. A backend's own limits (the ring's are in `openai_request.py`) are
checked where it is asked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from exo_node.api.fields import bad, checked_text, kind, token_ids
from exo_node.api.schemas.core import check
from exo_node.api.schemas.openai import (
    MAX_INPUTS,
    REQUESTS,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    ImageRequest,
    Message,
    ModerationRequest,
    RerankRequest,
    SpeechRequest,
    TranscriptionRequest,
)
from exo_node.routing.anthropic_extras import needs_prefill
from exo_node.routing.call import CHARACTERS_PER_TOKEN, IMAGE_TOKENS, CallKind, Capability

_Whole = EmbeddingRequest | RerankRequest | ImageRequest | TranscriptionRequest | ModerationRequest
AUDIO_TOKENS = 600  # a minute for gpt-4o-audio


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What routing needs to know of a body. Tokens are estimates from lengths. `longest`, `answers`: see `Call`."""

    prompt_tokens: int
    stream: bool = False
    max_tokens: int | None = None
    longest: int = 0
    answers: int = 1
    needs: frozenset[Capability] = frozenset()


def chat(request: ChatRequest) -> Shape:
    needs: set[Capability] = set()
    tokens = 0
    for i, message in enumerate(request.messages):
        tokens += _message(message, i, needs)
    for tools, chosen in ((request.tools, request.tool_choice), (request.functions, request.function_call)):
        if tools:
            if chosen != "none":  # else any model will do
                needs.add("tools")
            tokens += len(json.dumps(tools)) // CHARACTERS_PER_TOKEN
    if request.response_format and request.response_format.get("type") == "json_schema":
        needs.add("json_schema")
    if request.logprobs:
        needs.add("logprobs")
    if request.modalities and "audio" in request.modalities:
        needs.add("audio")
    return _generation(request, [tokens], needs)


def completion(request: CompletionRequest) -> Shape:
    each = _each(request.prompt, "prompt")
    return _generation(request, each, set() if request.logprobs is None else {"logprobs"})


def embedding(request: EmbeddingRequest) -> Shape:
    value = request.input
    _not_streamed(request)
    each = _each(value, "input")
    if isinstance(value, list) and type(value[0]) is not int and len(value) > MAX_INPUTS:
        raise bad("input", f"takes at most {MAX_INPUTS} texts, got {len(value)}")
    return Shape(prompt_tokens=sum(each), longest=max(each), needs=frozenset({"embedding"}))


def rerank(request: RerankRequest) -> Shape:
    _not_streamed(request)
    query, each = len(checked_text(request.query, "query")), []
    for i, document in enumerate(request.documents):
        if isinstance(document, dict):
            texts = [text for text in document.values() if isinstance(text, str)]
            if not texts:
                raise bad(f"documents[{i}]", "must be a string or an object with text")
            each.append(query + sum(map(len, texts)))
        else:
            each.append(query + len(checked_text(document, f"documents[{i}]")))
    tokens, longest = sum(each) // CHARACTERS_PER_TOKEN, max(each, default=0) // CHARACTERS_PER_TOKEN
    return Shape(prompt_tokens=tokens, longest=longest, needs=frozenset({"rerank"}))


def image(request: ImageRequest) -> Shape:
    _not_streamed(request)
    return Shape(prompt_tokens=len(checked_text(request.prompt, "prompt")) // CHARACTERS_PER_TOKEN)


def speech(request: SpeechRequest) -> Shape:
    if not request.voice:
        raise bad("voice", "is required", code="missing_required_parameter")
    if request.stream_format not in (None, "audio"):
        raise bad("stream_format", "other than audio is not supported by this server", code="unsupported_parameter")
    return Shape(prompt_tokens=len(checked_text(request.input, "input")) // CHARACTERS_PER_TOKEN)


def transcription(request: TranscriptionRequest) -> Shape:
    _not_streamed(request)
    return Shape(prompt_tokens=len(checked_text(request.prompt or "", "prompt")) // CHARACTERS_PER_TOKEN)


def moderation(request: ModerationRequest) -> Shape:
    value = request.input
    _not_streamed(request)
    letters = 0
    for i, one in enumerate([value] if isinstance(value, str) else value):
        if isinstance(one, dict):
            letters += _part(one, f"input[{i}]", set()) * CHARACTERS_PER_TOKEN
        else:
            letters += len(checked_text(one, f"input[{i}]"))
    return Shape(prompt_tokens=letters // CHARACTERS_PER_TOKEN)


_READ: Mapping[CallKind, Callable[[Any], Shape]] = {
    "chat": chat,
    "completion": completion,
    "embedding": embedding,
    "rerank": rerank,
    "image": image,
    "speech": speech,
    "transcription": transcription,
    "moderation": moderation,
}


def shape_of(call_kind: CallKind, body: Mapping[str, Any]) -> Shape:
    """Raises `InvalidRequest` with the field's name."""
    request = check(body, REQUESTS[call_kind])
    shape = _READ[call_kind](request)
    if request.user is not None:
        checked_text(request.user, "user")
    if call_kind == "chat" and needs_prefill(body):
        return replace(shape, needs=shape.needs | {"prefill"})
    return shape


def _generation(request: ChatRequest | CompletionRequest, each: list[int], needs: set[Capability]) -> Shape:
    """What chats and completions share; `each`: tokens of the prompts."""
    old, new = request.max_tokens, request.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise bad("max_tokens", f"says {old} and max_completion_tokens says {new}; send one of them")
    limit = old if new is None else new
    if request.stream_options is not None and not request.stream:
        raise bad("stream_options", "needs stream: true")
    answers = (request.n or 1) * len(each)
    return Shape(
        prompt_tokens=sum(each),
        longest=max(each),
        answers=answers,
        stream=request.stream or False,
        max_tokens=None if limit is None else limit * answers,
        needs=frozenset(needs),
    )


def _message(message: Message, index: int, needs: set[Capability]) -> int:
    """Estimated tokens of one message."""
    content = message.content
    if content is None:
        return 0 if not message.tool_calls else len(json.dumps(message.tool_calls)) // CHARACTERS_PER_TOKEN
    if isinstance(content, str):
        return 1 + len(checked_text(content, f"messages[{index}].content")) // CHARACTERS_PER_TOKEN
    return sum(_part(part, f"messages[{index}].content[{i}]", needs) for i, part in enumerate(content))


def _part(value: Mapping[str, Any], param: str, needs: set[Capability]) -> int:
    match value.get("type"):
        case "text":
            return len(checked_text(value.get("text"), f"{param}.text")) // CHARACTERS_PER_TOKEN
        case "image_url":
            link = value.get("image_url")
            url = link.get("url") if isinstance(link, dict) else link
            if not isinstance(url, str) or not url:
                raise bad(f"{param}.image_url", "must be an object with the image's url")
            needs.add("vision")
            return IMAGE_TOKENS
        case "input_audio":
            needs.add("audio")
            return AUDIO_TOKENS
        case str():
            return 0  # a provider's own kind of part
    raise bad(f"{param}.type", "is required", code="missing_required_parameter")


def _each(value: Any, param: str) -> list[int]:
    """Tokens of each of the prompts: of a text, of token ids, or of an array of either (all of one kind)."""
    if isinstance(value, str):
        return [1 + len(checked_text(value, param)) // CHARACTERS_PER_TOKEN]
    if not isinstance(value, list):
        raise bad(param, f"must be a string or an array, not {kind(value)}", code="invalid_type")
    if not value:
        raise bad(param, "is an empty array")
    if type(value[0]) is int:
        return [len(token_ids(value, param))]
    if isinstance(value[0], list):
        return [len(token_ids(item, f"{param}[{i}]")) for i, item in enumerate(value)]
    return [1 + len(checked_text(item, f"{param}[{i}]")) // CHARACTERS_PER_TOKEN for i, item in enumerate(value)]


def _not_streamed(request: _Whole) -> None:
    if request.stream:
        raise bad("stream", "is not done on this route", code="unsupported_parameter")
