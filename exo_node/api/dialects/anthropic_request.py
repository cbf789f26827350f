"""A body of Anthropic's Messages API -> a chat in OpenAI's shape. Pure.

Fields that would change the answer and cannot be done are refused by name; those that concern Anthropic's own machines
and bills are ignored. What of a body is neither is told by `unknown_fields`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from exo_node.api.dialects.anthropic_messages import chat_messages, system_message
from exo_node.api.dialects.anthropic_response import AnthropicEncoder
from exo_node.api.dialects.base import Decoded
from exo_node.api.dialects.origins import Origins
from exo_node.api.fields import Fields, bad, checked_object, checked_text, kind
from exo_node.api.schemas.anthropic import MessagesRequest
from exo_node.routing.anthropic_extras import KEY

# Places in the chat's `messages` are not those in the request's.
ORIGINS: Origins = (
    (re.compile(r"^messages\b.*"), "messages"),
    (re.compile(r"^max_completion_tokens\b"), "max_tokens"),
    (re.compile(r"^stop\b"), "stop_sequences"),
    (re.compile(r"^reasoning_effort\b"), "output_config.effort"),
    (re.compile(r"^response_format(\.json_schema)?\b"), "output_config.format"),
    (re.compile(r"^(tools\[\d+\])\.function\.parameters\b"), r"\1.input_schema"),
    (re.compile(r"^(tools\[\d+\]|tool_choice)\.function\b"), r"\1"),
)
_REFUSED = ("container", "mcp_servers", "compaction", "thread")
# Of Anthropic's machines, caches, bills and policies; `context_management` is answered with "no edits were applied".
_IGNORED = (
    "service_tier", "inference_geo", "speed", "cache_control", "context_management", "diagnostics", "billing_policy",
    "fallbacks", "fallback_credit_token", "user_profile_id", "workspace_id",
    "betas", "anthropic_beta", "anthropic_version",  # headers, which clients of Bedrock's and Vertex's have in the body
)  # fmt: skip
_OURS = ("exo", "provider")  # this node's own fields, for routing
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_THINKING = ("enabled", "adaptive", "disabled", "between_tools")
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_KNOWN = frozenset({*MessagesRequest.__struct_fields__, *_REFUSED, *_IGNORED, *_OURS, "output_format"})


def unknown_fields(body: Mapping[str, Any]) -> list[str]:
    """Names that this API does not have, as far as is known here."""
    return [name for name, value in body.items() if name not in _KNOWN and value is not None]


def decode(body: Mapping[str, Any], message_id: str) -> Decoded:
    """Raises `InvalidRequest` with the field's name."""
    fields = Fields(body)
    limit = fields.integer("max_tokens", 1)
    if limit is None:
        raise bad("max_tokens", "is required", code="missing_required_parameter")
    stops = fields.texts("stop_sequences")
    if "" in stops:
        raise bad("stop_sequences", "must not hold an empty string")
    stream = fields.boolean("stream") or False
    prompt = decode_prompt(body)
    chat: dict[str, Any] = {
        **prompt.body,
        "max_tokens": limit,
        **_given(
            temperature=fields.number("temperature", 0, 1),
            top_p=fields.number("top_p", 0, 1),
            top_k=fields.integer("top_k", 0),
            stop=list(stops) or None,
            user=_user_id(fields.object("metadata")),
        ),
        **{name: body[name] for name in _OURS if name in body},
    }
    if stream:
        chat["stream"], chat["stream_options"] = True, {"include_usage": True}
    encoder = AnthropicEncoder(
        message_id,
        fields.text("model") or "",
        stops=frozenset(stops),
        show_thoughts=prompt.show_thoughts,
        edits_context=body.get("context_management") is not None,
    )
    return Decoded(chat, encoder, encoder.asked)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What makes the prompt: model, messages, tools, the answer's form. `count_tokens` takes nothing else."""

    body: dict[str, Any]
    show_thoughts: bool


def decode_prompt(body: Mapping[str, Any]) -> Prompt:
    """Raises `InvalidRequest` with the field's name."""
    fields = Fields(body)
    for name in _REFUSED:
        if body.get(name):
            raise bad(name, "is not supported by this server", code="unsupported_parameter")
    if body.get("messages") is None:
        raise bad("messages", "is required", code="missing_required_parameter")
    messages, prefill = chat_messages(body["messages"])
    system = system_message(body.get("system"))
    tools = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(fields.array("tools"))]
    form = fields.object("output_config")
    thinking = _thinking(fields)
    effort = form.get("effort")
    if effort is not None and effort not in _EFFORTS:
        raise bad("output_config.effort", f"must be one of {', '.join(_EFFORTS)}")
    extras = _given(prefill=prefill or None, thinking=_native(thinking), effort=effort)
    chat = {
        **_given(model=fields.text("model")),
        "messages": messages if system is None else [system, *messages],
        **({"tools": tools} if tools else {}),
        **_tool_choice(body.get("tool_choice"), tools),
        **_given(response_format=_response_format(form.get("format") or body.get("output_format"))),
        KEY: extras,
    }
    return Prompt(chat, thinking.get("display") != "omitted")


def _tool(value: Any, param: str) -> dict[str, Any]:
    checked_object(value, param)
    if value.get("type") not in (None, "custom"):
        problem = f"{str(value['type'])[:60]!r} is a tool of Anthropic's, not supported by this server; give your own"
        raise bad(f"{param}.type", f"{problem} with name and input_schema", code="unsupported_parameter")
    name = value.get("name")
    if not name:
        raise bad(f"{param}.name", "is required", code="missing_required_parameter")
    schema = value.get("input_schema")
    if not isinstance(schema, dict):
        raise bad(f"{param}.input_schema", f"must be a JSON schema, not {kind(schema)}", code="invalid_type")
    about = checked_text(value.get("description") or "", f"{param}.description")
    if value.get("input_examples"):
        about = f"{about}\nExamples of input: {json.dumps(value['input_examples'], ensure_ascii=False)}".lstrip()
    function: dict[str, Any] = {"name": checked_text(name, f"{param}.name"), "parameters": schema}
    if about:
        function["description"] = about
    if value.get("strict") is True:
        function["strict"] = True
    return {"type": "function", "function": function, **_given(cache_control=value.get("cache_control"))}


def _tool_choice(value: Any, tools: list[dict[str, Any]]) -> dict[str, Any]:
    if value is None:
        return {}
    checked_object(value, "tool_choice")
    said = value.get("type")
    if not tools:
        if said in ("auto", "none"):
            return {}
        raise bad("tool_choice", "asks for a tool, and there are no tools")
    made: dict[str, Any] = {}
    if said == "tool":
        name = value.get("name")
        if name not in [tool["function"]["name"] for tool in tools]:
            raise bad("tool_choice.name", f"{str(name)[:60]!r} is none of the tools")
        made["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif isinstance(said, str) and said in _CHOICES:
        made["tool_choice"] = _CHOICES[said]
    else:
        raise bad("tool_choice.type", "must be auto, any, tool or none")
    if value.get("disable_parallel_tool_use") is True and said != "none":
        made["parallel_tool_calls"] = False
    return made


def _thinking(fields: Fields) -> Mapping[str, Any]:
    thinking = fields.object("thinking")
    if thinking and thinking.get("type") not in _THINKING:
        raise bad("thinking.type", f"must be one of {', '.join(_THINKING)}")
    budget = Fields({"thinking.budget_tokens": thinking.get("budget_tokens")}).integer("thinking.budget_tokens", 1)
    if budget is None and thinking.get("type") == "enabled":
        raise bad("thinking.budget_tokens", "is required", code="missing_required_parameter")
    return thinking


def _native(thinking: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return {name: value for name, value in thinking.items() if name != "display"} or None


def _response_format(value: Any) -> dict[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or value.get("type") != "json_schema" or not isinstance(value.get("schema"), dict):
        raise bad("output_config.format", 'must be {"type": "json_schema", "schema": {...}}')
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": value["schema"]}}


def _user_id(metadata: Mapping[str, Any]) -> str | None:
    user = metadata.get("user_id")
    return None if user is None else checked_text(user, "metadata.user_id")


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
