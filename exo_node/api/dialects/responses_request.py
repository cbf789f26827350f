"""A request of the Responses API -> a chat, and what its answer repeats of it. Pure.

Fields: https://platform.openai.com/docs/api-reference/responses/create . Like there, null is the same as absent.
What differs from OpenAI: `truncation: "auto"` drops nothing (an input that is too long is an error), the padding of
`stream_options.include_obfuscation` is off unless asked for, and reasoning is shown as it is, never summed up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from exo_node.api.calls import refuse_unknown
from exo_node.api.dialects.origins import Origins
from exo_node.api.dialects.responses_items import Item, messages_of, read_items
from exo_node.api.dialects.responses_tools import read_tools, text_fields, tool_fields
from exo_node.api.fields import Fields, bad, checked_text, kind, stream_options
from exo_node.api.schemas.responses import ResponseRequest

MAX_METADATA = 16  # pairs, OpenAI's
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
LOGPROBS, SEALED = "message.output_text.logprobs", "reasoning.encrypted_content"
# What may be asked to be in an answer. All but the first two is there anyway, or is a built-in tool's.
INCLUDABLE = (
    LOGPROBS, SEALED, "message.input_image.image_url", "file_search_call.results", "web_search_call.results",
    "web_search_call.action.sources", "computer_call_output.output.image_url", "code_interpreter_call.outputs",
)  # fmt: skip
_REFUSED: Mapping[str, str] = {
    "conversation": "conversations are not kept; use previous_response_id",
    "prompt": "prompt templates are not kept; send input and instructions",
    "moderation": "is not done by this server",
    "context_management": "is not done by this server",
    "messages": "is a field of /v1/chat/completions; this route takes input",
}
# Sent on as they are: fields that a chat has too, and the extensions that local models share with other servers.
_AS_THEY_ARE = (
    "temperature", "top_p", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "prompt_cache_options", "service_tier", "model", "seed", "stop", "top_k", "min_p", "frequency_penalty",
    "presence_penalty", "repetition_penalty", "logit_bias", "exo", "provider",
)  # fmt: skip
# `client_metadata` is Codex's, for OpenAI's statistics.
_KNOWN = tuple(dict.fromkeys((*ResponseRequest.__struct_fields__, *_AS_THEY_ARE, "client_metadata")))

# Places in `messages` are not those in `input`.
ORIGINS: Origins = (
    (re.compile(r"^messages\b.*"), "input"),
    (re.compile(r"^max_completion_tokens\b"), "max_output_tokens"),
    (re.compile(r"^reasoning_effort\b"), "reasoning.effort"),
    (re.compile(r"^verbosity\b"), "text.verbosity"),
    (re.compile(r"^response_format(\.json_schema)?\b"), "text.format"),
    (re.compile(r"^(tools\[\d+\]|tool_choice)\.function\b"), r"\1"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What of a request is not in its body. `id` is `resp_` and 32 hexadecimal digits, `created` is in seconds.

    `history` are the items before this request's (`previous_response_id`), `stored` those that its items refer to.
    """

    id: str
    created: int
    history: Sequence[Item] = ()
    stored: Mapping[str, Item] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A decoded request. `chat` is its body as a chat; `echo` the answer's fields that the request settles.

    `items` are its own input; `summary`: reasoning goes into `summary` and not into `content`; `sealed`: it is there as
    `encrypted_content` too.
    """

    chat: dict[str, Any]
    echo: dict[str, Any]
    items: list[Item]
    stream: bool
    store: bool
    background: bool
    summary: bool
    sealed: bool
    obfuscated: bool


def decode(body: Mapping[str, Any], given: Given) -> Asked:
    """Raises `InvalidRequest` with the field's name."""
    fields = Fields(body)
    for name, why in _REFUSED.items():
        if body.get(name) not in (None, [], {}):
            raise bad(name, why, code="unsupported_parameter")
    refuse_unknown({n: value for n, value in body.items() if n not in _REFUSED and value is not None}, _KNOWN)
    stream, store = fields.boolean("stream") or False, fields.boolean("store")
    store = True if store is None else store
    background = fields.boolean("background") or False
    if background and not store:
        raise bad("background", "needs store: true, for its answer is fetched later")
    instructions = fields.text("instructions")
    items = read_items(body.get("input"), given.id, given.stored)
    messages = messages_of(instructions, [*given.history, *items])
    if not messages:
        raise bad("input", "is required", code="missing_required_parameter")
    tools = read_tools(body.get("tools"))
    parallel = fields.boolean("parallel_tool_calls")
    tool_body, choice = tool_fields(tools, body.get("tool_choice"), parallel)
    text_body, text = text_fields(body.get("text"))
    effort, summary = _reasoning(fields)
    limit, top = fields.integer("max_output_tokens", 1), fields.integer("top_logprobs", 0, 20)
    chat = {
        "messages": messages,
        **{name: body[name] for name in _AS_THEY_ARE if body.get(name) is not None},
        **tool_body,
        **text_body,
        "stream": stream or background,
    }
    if chat["stream"]:
        chat["stream_options"] = {"include_usage": True}
    if effort is not None:
        chat["reasoning_effort"] = effort
    if limit is not None:
        chat["max_completion_tokens"] = limit
    included = includes(fields.texts("include"))
    if LOGPROBS in included or top:
        chat |= {"logprobs": True, "top_logprobs": top or 0}
    echo = {
        "id": given.id,
        "object": "response",
        "created_at": given.created,
        "background": background,
        "instructions": instructions,
        "max_output_tokens": limit,
        "max_tool_calls": fields.integer("max_tool_calls", 1),  # counts built-in tools' calls; there are none
        "metadata": _metadata(body.get("metadata")),
        "model": fields.text("model") or "",
        "parallel_tool_calls": True if parallel is None else parallel,
        "previous_response_id": fields.text("previous_response_id"),
        "prompt_cache_key": fields.text("prompt_cache_key"),
        "reasoning": {"effort": effort, "summary": summary},
        "safety_identifier": fields.text("safety_identifier"),
        "service_tier": fields.text("service_tier") or "auto",
        "store": store,
        "temperature": _or_one(fields.number("temperature", 0, 2)),
        "text": text,
        "tool_choice": choice,
        "tools": tools,
        "top_logprobs": top or 0,
        "top_p": _or_one(fields.number("top_p", 0, 1)),
        "truncation": _truncation(fields),
    }
    if (user := fields.text("user")) is not None:  # may not be null
        echo["user"] = user
    return Asked(
        chat=chat,
        echo=echo,
        items=items,
        stream=stream,
        store=store,
        background=background,
        summary=summary is not None,
        sealed=SEALED in included,
        obfuscated=_obfuscated(fields, stream),
    )


def includes(names: Sequence[str]) -> Sequence[str]:
    """`include`, checked."""
    for name in names:
        if name not in INCLUDABLE:
            raise bad("include", f"{name[:60]!r} is none of {', '.join(INCLUDABLE)}")
    return names


def _or_one(value: float | None) -> float:
    return 1.0 if value is None else value


def _truncation(fields: Fields) -> str:
    value = fields.text("truncation") or "disabled"
    if value not in ("auto", "disabled"):
        raise bad("truncation", "must be auto or disabled")
    return value


def _obfuscated(fields: Fields, stream: bool) -> bool:
    options = stream_options(fields, stream) or {}
    return Fields({"stream_options.include_obfuscation": options.get("include_obfuscation")}).boolean(
        "stream_options.include_obfuscation"
    ) or False  # fmt: skip


def _reasoning(fields: Fields) -> tuple[str | None, str | None]:
    """The effort, and which summary is asked for."""
    inner = Fields({f"reasoning.{name}": item for name, item in fields.object("reasoning").items()})
    effort = inner.text("reasoning.effort")
    if effort is not None and effort not in EFFORTS:
        raise bad("reasoning.effort", f"must be one of {', '.join(EFFORTS)}")
    summary = inner.text("reasoning.summary") or inner.text("reasoning.generate_summary")
    if summary not in (None, "auto", "detailed"):
        problem = "must be auto or detailed: reasoning is shown as it is, nobody sums it up here"
        raise bad("reasoning.summary", problem, code="unsupported_parameter")
    for name, neutral in (("context", "auto"), ("mode", "standard")):
        if inner.text(f"reasoning.{name}") not in (None, neutral):
            raise bad(f"reasoning.{name}", f"other than {neutral} is not done here", code="unsupported_parameter")
    return effort, summary


def _metadata(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise bad("metadata", f"must be an object of texts, not {kind(value)}", code="invalid_type")
    if len(value) > MAX_METADATA:
        raise bad("metadata", f"takes at most {MAX_METADATA} pairs, got {len(value)}")
    return {checked_text(name, "metadata"): checked_text(item, f"metadata.{name}") for name, item in value.items()}
