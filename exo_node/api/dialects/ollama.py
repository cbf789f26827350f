"""Ollama's chat and generate requests as calls in OpenAI's shape. Pure.

Shapes: https://docs.ollama.com/api . A generate request is a chat of one question, or, with `raw` or `suffix`, a
completion of its prompt as it stands. Nothing to answer (no messages, an empty prompt) only loads or unloads the model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from exo_node.api.dialects.ollama_options import generation, keep_alive, response_format
from exo_node.api.dialects.origins import Origins
from exo_node.api.fields import Fields, bad, checked_array, checked_object, checked_text, kind

# Places in a generate request are not those in `messages`.
ORIGINS: Origins = (
    (re.compile(r"^response_format(\.json_schema(\.schema)?)?\b"), "format"),
    (re.compile(r"^max_(completion_)?tokens\b"), "options.num_predict"),
    (re.compile(r"^(stop|seed|top_k|top_p|min_p|temperature|presence_penalty|frequency_penalty)\b"), r"options.\1"),
    (re.compile(r"^repetition_penalty\b"), "options.repeat_penalty"),
    (re.compile(r"^(enable_thinking|reasoning_effort|chat_template_kwargs)\b.*"), "think"),
)
LEVELS = ("low", "medium", "high")
# The beginnings of images in base64.
_IMAGES = {"iVBORw0KGgo": "image/png", "/9j/": "image/jpeg", "R0lGOD": "image/gif", "UklGR": "image/webp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request. `kind` None: nothing is to be answered. `body` lacks its model, and what `think` says.

    `stream` is what the client gets; `body` asks for a stream in any case, whose first token can be timed.
    """

    model: str
    kind: Literal["chat", "completion"] | None
    stream: bool
    keep_alive_s: float | None
    body: Mapping[str, Any]
    think: bool | str | None = None


def decode_chat(body: Mapping[str, Any]) -> Asked:
    """Raises `InvalidRequest` with the field's name."""
    fields = Fields(body)
    messages = fields.array("messages")
    if not messages:
        return _asked(body, None, {})
    sent: dict[str, Any] = {"messages": _Messages().read(messages)}
    if tools := fields.array("tools"):
        sent["tools"] = [{"type": "function", **tool} if isinstance(tool, dict) else tool for tool in tools]
    return _asked(body, "chat", {**sent, **_chat_logprobs(body), **generation(body.get("options"))})


def decode_generate(body: Mapping[str, Any], no_limit: int) -> Asked:
    """`no_limit`: tokens of a completion that the request does not limit (OpenAI's would end after 16).

    Raises `InvalidRequest` with the field's name.
    """
    fields = Fields(body)
    prompt, suffix, system = (fields.text(name) or "" for name in ("prompt", "suffix", "system"))
    raw = fields.boolean("raw") or False
    if fields.text("template"):
        raise bad(
            "template", "is not supported: the model's own is used, or none with raw", code="unsupported_parameter"
        )
    if fields.get("context") not in (None, []):
        problem = "is not supported: send the conversation to /api/chat"
        raise bad("context", problem, code="unsupported_parameter")
    images = _images(body.get("images"), "images")
    if not prompt:
        return _asked(body, None, {})
    if not raw and not suffix:
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": _content(prompt, images)})
        sent = {"messages": messages, **_chat_logprobs(body)}
        return _asked(body, "chat", {**sent, **generation(body.get("options"))})
    way = "raw" if raw else "suffix"
    for name, given in (("system", system), ("images", images)):
        if given:
            raise bad(name, f"does nothing together with {way}", code="unsupported_parameter")
    sent = {"prompt": prompt, **({"suffix": suffix} if suffix else {}), **_completion_logprobs(body)}
    return _asked(body, "completion", {**sent, **generation(body.get("options"), no_limit)})


def addressed(asked: Asked, model: str, *, local: bool) -> dict[str, Any]:
    """The body for a model. Local ones hear of `think` as their chat templates do, others as OpenAI's models do; what
    was thought earlier is for local templates only (OpenAI's chat has no field for it)."""
    body = {**asked.body, "model": model}
    if isinstance(asked.think, str):
        body["reasoning_effort"] = asked.think
    elif asked.think is not None and local:
        body["chat_template_kwargs"] = {"enable_thinking": asked.think}
    elif asked.think is not None:
        body["reasoning_effort"] = "medium" if asked.think else "none"
    if not local and "messages" in body:
        body["messages"] = [
            {name: item for name, item in message.items() if name != "reasoning_content"}
            for message in body["messages"]
        ]
    return body


def unstreamed(body: Mapping[str, Any]) -> dict[str, Any]:
    """What `addressed` gives, for an answer in one piece."""
    return {name: item for name, item in body.items() if name not in ("stream", "stream_options")}


def model_name(body: Mapping[str, Any]) -> str:
    """`model`, or `name`, which was its name once."""
    fields = Fields(body)
    model = fields.text("model") or fields.text("name")
    if not model:
        raise bad("model", "is required", code="missing_required_parameter")
    return model


def _asked(body: Mapping[str, Any], what: Literal["chat", "completion"] | None, sent: dict[str, Any]) -> Asked:
    fields = Fields(body)
    stream = fields.boolean("stream")
    for name in ("truncate", "shift"):  # either way: a prompt that is too long is an error here, said as one
        fields.boolean(name)
    think = body.get("think")
    if not (think is None or isinstance(think, bool) or (isinstance(think, str) and think in LEVELS)):
        raise bad("think", f"must be a boolean or one of {', '.join(LEVELS)}")
    if think and what == "completion":
        raise bad("think", "needs the model's template, which raw and suffix go without", code="unsupported_parameter")
    form = response_format(body.get("format"))
    if form is not None and what is not None:
        sent["response_format"] = form
    if what is not None:
        sent |= {"stream": True, "stream_options": {"include_usage": True}}
    if body.get("exo") is not None:
        sent["exo"] = body["exo"]  # wishes for the routing, as on every route of ours
    return Asked(
        model=model_name(body),
        kind=what,
        stream=True if stream is None else stream,
        keep_alive_s=keep_alive(body.get("keep_alive")),
        body=sent,
        think=think,
    )


def _chat_logprobs(body: Mapping[str, Any]) -> dict[str, Any]:
    fields = Fields(body)
    wanted, top = fields.boolean("logprobs"), fields.integer("top_logprobs", 0, 20)
    if top and not wanted:
        raise bad("top_logprobs", "needs logprobs: true")
    return {"logprobs": True, "top_logprobs": top or 0} if wanted else {}


def _completion_logprobs(body: Mapping[str, Any]) -> dict[str, Any]:
    said = _chat_logprobs(body)
    return {"logprobs": said["top_logprobs"]} if said else {}


def _images(value: Any, param: str) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise bad(param, f"must be an array of base64 texts, not {kind(value)}", code="invalid_type")
    return [_image(item, f"{param}[{i}]") for i, item in enumerate(value)]


def _image(value: Any, param: str) -> dict[str, Any]:
    text = checked_text(value, param)
    mime = next((mime for start, mime in _IMAGES.items() if text.startswith(start)), None)
    if mime is None:
        raise bad(param, "must be a PNG, JPEG, GIF or WebP image in base64")
    return {"type": "image_url", "image_url": {"url": f"data:{mime};base64,{text}"}}


def _content(text: str, images: list[dict[str, Any]]) -> Any:
    return [{"type": "text", "text": text}, *images] if images else text


class _Messages:
    """Ollama's messages to OpenAI's. Calls without ids get some, and their answers are matched by name and order."""

    def __init__(self) -> None:
        self._open: list[tuple[str, str]] = []  # (id, function) of calls that have no answer yet
        self._made = 0

    def read(self, values: list[Any]) -> list[dict[str, Any]]:
        return [self._message(value, f"messages[{i}]") for i, value in enumerate(values)]

    def _message(self, value: Any, param: str) -> dict[str, Any]:
        checked_object(value, param)
        role = checked_text(value.get("role"), f"{param}.role")
        content = checked_text(value.get("content") or "", f"{param}.content")
        message: dict[str, Any] = {
            "role": role,
            "content": _content(content, _images(value.get("images"), f"{param}.images")),
        }
        if role == "tool":
            return {**message, "tool_call_id": self._answered(value, param)}
        if calls := checked_array(value.get("tool_calls") or [], f"{param}.tool_calls"):
            message["tool_calls"] = [self._call(call, f"{param}.tool_calls[{i}]") for i, call in enumerate(calls)]
            message["content"] = message["content"] or None
        if value.get("thinking"):
            message["reasoning_content"] = checked_text(value["thinking"], f"{param}.thinking")
        return message

    def _call(self, value: Any, param: str) -> dict[str, Any]:
        function = value.get("function") if isinstance(value, dict) else None
        if not isinstance(function, dict):
            raise bad(f"{param}.function", "must be an object with name and arguments")
        name, arguments = checked_text(function.get("name"), f"{param}.function.name"), function.get("arguments")
        if arguments is None:
            arguments = {}
        checked_object(arguments, f"{param}.function.arguments")
        self._made += 1
        found = value.get("id") or f"call_{self._made}"
        self._open.append((checked_text(found, f"{param}.id"), name))
        text = json.dumps(arguments, ensure_ascii=False)
        return {"id": found, "type": "function", "function": {"name": name, "arguments": text}}

    def _answered(self, value: Mapping[str, Any], param: str) -> str:
        """The id of the call that a tool's message answers."""
        wanted, name = value.get("tool_call_id"), value.get("tool_name") or value.get("name")
        fits = [one for one in self._open if one[0] == wanted] if wanted else []
        fits = fits or [one for one in self._open if one[1] == name] or self._open
        if not fits:
            raise bad(param, "is a tool's answer without a call before it")
        found = fits[0]
        self._open.remove(found)
        return found[0]
