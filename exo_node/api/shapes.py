"""What each kind of call must look like, whoever serves it, and what routing wants to know of it. Pure.

Only what holds for every backend is checked here. A backend's own limits (the ring's are in `openai_request.py`) are
checked where it is asked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from exo_node.api.fields import Fields, answer_limit, bad, checked_text, kind, stream_options, token_ids
from exo_node.routing.anthropic_extras import needs_prefill
from exo_node.routing.call import CHARACTERS_PER_TOKEN, IMAGE_TOKENS, CallKind, Capability

AUDIO_TOKENS = 600  # a minute for gpt-4o-audio
MAX_INPUTS = 2048  # texts of one embeddings request, OpenAI's


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What routing needs to know of a body. Tokens are estimates from lengths."""

    prompt_tokens: int
    stream: bool = False
    max_tokens: int | None = None
    needs: frozenset[Capability] = frozenset()


def chat(fields: Fields) -> Shape:
    messages = fields.get("messages")
    if messages is None:
        raise bad("messages", "is required", code="missing_required_parameter")
    if not isinstance(messages, list) or not messages:
        raise bad("messages", "must be a non-empty array of messages")
    needs: set[Capability] = set()
    tokens = sum(_message(message, f"messages[{i}]", needs) for i, message in enumerate(messages))
    for name, choice in (("tools", "tool_choice"), ("functions", "function_call")):
        tools = fields.get(name)
        if tools is not None and not isinstance(tools, list):
            raise bad(name, f"must be an array, not {kind(tools)}", code="invalid_type")
        for i, tool in enumerate(tools or ()):
            if not isinstance(tool, dict):
                raise bad(f"{name}[{i}]", f"must be an object, not {kind(tool)}", code="invalid_type")
        chosen = fields.get(choice)
        if chosen is not None and not isinstance(chosen, str | dict):
            raise bad(choice, f"must be a string or an object, not {kind(chosen)}", code="invalid_type")
        if tools:
            if chosen != "none":  # else any model will do
                needs.add("tools")
            tokens += len(json.dumps(tools)) // CHARACTERS_PER_TOKEN
    form = fields.get("response_format")
    if form is not None and not isinstance(form, dict):
        raise bad("response_format", f"must be an object, not {kind(form)}", code="invalid_type")
    if form and form.get("type") == "json_schema":
        needs.add("json_schema")
    if fields.boolean("logprobs"):
        needs.add("logprobs")
    if needs_prefill(fields.body):
        needs.add("prefill")
    if "audio" in fields.texts("modalities"):
        needs.add("audio")
    return _generation(fields, tokens, needs)


def completion(fields: Fields) -> Shape:
    prompt = fields.get("prompt")
    if prompt is None:
        raise bad("prompt", "is required", code="missing_required_parameter")
    tokens = _tokens(prompt, "prompt")
    return _generation(fields, tokens, {"logprobs"} if fields.integer("logprobs", 0) is not None else set())


def embedding(fields: Fields) -> Shape:
    value = fields.get("input")
    if value is None:
        raise bad("input", "is required", code="missing_required_parameter")
    if value in ("", []):
        raise bad("input", "must not be empty")
    _not_streamed(fields)
    encoding = fields.text("encoding_format")
    if encoding not in (None, "float", "base64"):
        raise bad("encoding_format", f"must be float or base64, got {encoding[:40]!r}")
    fields.integer("dimensions", 1)
    tokens = _tokens(value, "input")
    if isinstance(value, list) and type(value[0]) is not int and len(value) > MAX_INPUTS:
        raise bad("input", f"takes at most {MAX_INPUTS} texts, got {len(value)}")
    return Shape(prompt_tokens=tokens, needs=frozenset({"embedding"}))


def rerank(fields: Fields) -> Shape:
    query = fields.text("query")
    if not query:
        raise bad("query", "is required", code="missing_required_parameter")
    documents = fields.get("documents")
    if documents is None:
        raise bad("documents", "is required", code="missing_required_parameter")
    if not isinstance(documents, list) or not documents:
        raise bad("documents", "must be a non-empty array of strings or objects with text")
    _not_streamed(fields)
    letters = len(query) * len(documents)
    for i, document in enumerate(documents):
        if isinstance(document, dict):
            texts = [text for text in document.values() if isinstance(text, str)]
            if not texts:
                raise bad(f"documents[{i}]", "must be a string or an object with text")
            letters += sum(map(len, texts))
        else:
            letters += len(checked_text(document, f"documents[{i}]"))
    fields.integer("top_n", 1)
    fields.texts("rank_fields")
    fields.boolean("return_documents")
    return Shape(prompt_tokens=letters // CHARACTERS_PER_TOKEN, needs=frozenset({"rerank"}))


def image(fields: Fields) -> Shape:
    prompt = fields.text("prompt")
    if not prompt:
        raise bad("prompt", "is required", code="missing_required_parameter")
    _not_streamed(fields)
    fields.integer("n", 1, 10)
    for name in ("size", "quality", "style", "response_format"):
        fields.text(name)
    return Shape(prompt_tokens=len(prompt) // CHARACTERS_PER_TOKEN)


def speech(fields: Fields) -> Shape:
    text = fields.text("input")
    if not text:
        raise bad("input", "is required", code="missing_required_parameter")
    if not fields.get("voice"):
        raise bad("voice", "is required", code="missing_required_parameter")
    if fields.text("stream_format") not in (None, "audio"):
        raise bad("stream_format", "other than audio is not supported by this server", code="unsupported_parameter")
    fields.number("speed", 0.25, 4)
    fields.text("response_format")
    return Shape(prompt_tokens=len(text) // CHARACTERS_PER_TOKEN)


def transcription(fields: Fields) -> Shape:
    _not_streamed(fields)
    fields.number("temperature", 0, 1)
    for name in ("language", "prompt", "response_format"):
        fields.text(name)
    return Shape(prompt_tokens=len(fields.text("prompt") or "") // CHARACTERS_PER_TOKEN)


def moderation(fields: Fields) -> Shape:
    value = fields.get("input")
    if value is None:
        raise bad("input", "is required", code="missing_required_parameter")
    _not_streamed(fields)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return Shape(prompt_tokens=sum(_part(part, f"input[{i}]", set()) for i, part in enumerate(value)))
    texts = [fields.text("input") or ""] if isinstance(value, str) else fields.texts("input")
    return Shape(prompt_tokens=sum(map(len, texts)) // CHARACTERS_PER_TOKEN)


SHAPES: Mapping[CallKind, Callable[[Fields], Shape]] = {
    "chat": chat,
    "completion": completion,
    "embedding": embedding,
    "rerank": rerank,
    "image": image,
    "speech": speech,
    "transcription": transcription,
    "moderation": moderation,
}


def _generation(fields: Fields, tokens: int, needs: set[Capability]) -> Shape:
    """What chats and completions share. Temperature and penalties: OpenAI's ranges, the widest there are."""
    fields.number("temperature", 0, 2)
    fields.number("top_p", 0, 1)
    fields.number("frequency_penalty", -2, 2)
    fields.number("presence_penalty", -2, 2)
    n = fields.integer("n", 1, 128) or 1
    limit = answer_limit(fields)
    stream = fields.boolean("stream") or False
    stream_options(fields, stream)
    return Shape(
        prompt_tokens=tokens,
        stream=stream,
        max_tokens=None if limit is None else limit * n,
        needs=frozenset(needs),
    )


def _message(value: Any, param: str, needs: set[Capability]) -> int:
    """Estimated tokens of one message."""
    if not isinstance(value, dict):
        raise bad(param, f"must be an object, not {kind(value)}", code="invalid_type")
    role = value.get("role")
    if not isinstance(role, str) or not role:
        raise bad(f"{param}.role", "is required", code="missing_required_parameter")
    content = value.get("content")
    if content is None:
        return 0 if not value.get("tool_calls") else len(json.dumps(value["tool_calls"])) // CHARACTERS_PER_TOKEN
    if isinstance(content, str):
        return 1 + len(checked_text(content, f"{param}.content")) // CHARACTERS_PER_TOKEN
    if not isinstance(content, list):
        raise bad(
            f"{param}.content", f"must be a string or an array of parts, not {kind(content)}", code="invalid_type"
        )
    return sum(_part(part, f"{param}.content[{i}]", needs) for i, part in enumerate(content))


def _part(value: Any, param: str, needs: set[Capability]) -> int:
    if not isinstance(value, dict):
        raise bad(param, f"must be an object, not {kind(value)}", code="invalid_type")
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


def _tokens(value: Any, param: str) -> int:
    """Tokens of a text, of token ids, or of an array of either (all of one kind)."""
    if isinstance(value, str):
        return 1 + len(checked_text(value, param)) // CHARACTERS_PER_TOKEN
    if not isinstance(value, list):
        raise bad(param, f"must be a string or an array, not {kind(value)}", code="invalid_type")
    if not value:
        raise bad(param, "is an empty array")
    if type(value[0]) is int:
        return len(token_ids(value, param))
    if isinstance(value[0], list):
        return sum(len(token_ids(item, f"{param}[{i}]")) for i, item in enumerate(value))
    return sum(1 + len(checked_text(item, f"{param}[{i}]")) // CHARACTERS_PER_TOKEN for i, item in enumerate(value))


def _not_streamed(fields: Fields) -> None:
    if fields.boolean("stream"):
        raise bad("stream", "is not done on this route", code="unsupported_parameter")
