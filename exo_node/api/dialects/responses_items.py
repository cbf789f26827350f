"""Input items of OpenAI's Responses API: checked, as they are stored and listed, and as a chat's messages. Pure.

Shapes: https://platform.openai.com/docs/api-reference/responses/create#responses-create-input
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from exo_node.api.fields import bad, checked_object, checked_text, kind
from exo_node.errors import InvalidRequest

Item = dict[str, Any]
_ROLES = ("user", "assistant", "system", "developer")
_TEXTS = ("input_text", "output_text", "text")
_DETAILS = ("auto", "low", "high")
_SEAL = "exo1."  # before our own `encrypted_content`


def item_id(response: str, place: str, prefix: str) -> str:
    """The id of an item of ours: it says which response (`resp_...`) it is stored with."""
    return f"{prefix}_{response.removeprefix('resp_')}{place}"


def response_of(item: str) -> str:
    """The response that an item's id of ours says; of any other id, one that does not exist."""
    return f"resp_{item.partition('_')[2][:32]}"


def reference_of(value: Any) -> str | None:
    """The id in an item that stands for a stored one; None for any other item."""
    if not isinstance(value, dict) or not isinstance(value.get("id"), str):
        return None
    bare = value.get("type") is None and value.get("role") is None
    return str(value["id"]) if bare or value.get("type") == "item_reference" else None


def sealed(text: str) -> str:
    """Reasoning as the `encrypted_content` that clients without stored responses send back. It hides nothing: the text
    is beside it, but some clients send only this."""
    return _SEAL + base64.urlsafe_b64encode(text.encode()).decode()


def _opened(value: str, param: str) -> str:
    """What `sealed` made it of; "" for one of OpenAI's, which nobody else can read."""
    if not value.startswith(_SEAL):
        return ""
    try:
        return base64.urlsafe_b64decode(value.removeprefix(_SEAL)).decode()
    except ValueError as e:
        raise bad(param, "is damaged") from e


def references(value: Any) -> list[str]:
    """Ids of the stored items that an `input` refers to."""
    found = map(reference_of, value) if isinstance(value, list) else ()
    return [one for one in found if one is not None]


def read_items(value: Any, response: str, stored: Mapping[str, Item]) -> list[Item]:
    """The request's `input`, whole: every item with its `type`, an `id` and a list of parts.

    `stored` are the items that it refers to. Raises `InvalidRequest` with the place in `input`.
    """
    if value is None:
        return []
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise bad("input", f"must be a string or an array of items, not {kind(value)}", code="invalid_type")
    items = []
    for i, one in enumerate(value):
        param = f"input[{i}]"
        reference = reference_of(one)
        if reference is None:
            items.append(_item(one, param, partial(item_id, response, f"i{i}")))
        elif reference in stored:
            items.append(dict(stored[reference]))
        else:
            problem = f"no item {reference[:80]!r} is stored; items of responses with store: false are not"
            raise bad(f"{param}.id", problem, code="item_not_found")
    return items


def _item(value: Any, param: str, name: Callable[[str], str]) -> Item:
    checked_object(value, param)
    sort = value.get("type")
    given = value.get("id")
    if given is not None:
        checked_text(given, f"{param}.id")
    match sort:
        case "message" | None:
            return _message(value, param, given or name("msg"))
        case "function_call":
            read = {field: _required(value, field, param) for field in ("call_id", "name", "arguments")}
            return {"type": sort, "id": given or name("fc"), **read, "status": "completed"}
        case "function_call_output":
            output = _output(value.get("output"), f"{param}.output")
            call = _required(value, "call_id", param)
            return {"type": sort, "id": given or name("fco"), "call_id": call, "output": output, "status": "completed"}
        case "reasoning":
            return _reasoning(value, param, given or name("rs"))
    problem = f"items of type {str(sort)[:40]!r} belong to tools that only OpenAI runs"
    raise bad(f"{param}.type", problem, code="unsupported_parameter")


def _required(value: Mapping[str, Any], field: str, param: str) -> str:
    if value.get(field) is None:
        raise bad(f"{param}.{field}", "is required", code="missing_required_parameter")
    return checked_text(value[field], f"{param}.{field}")


def _message(value: Mapping[str, Any], param: str, ident: str) -> Item:
    role = value.get("role")
    if role not in _ROLES:
        raise bad(f"{param}.role", f"must be one of {', '.join(_ROLES)}")
    content = value.get("content")
    if content is None and role == "assistant":
        content = []
    content = [{"type": "input_text", "text": content}] if isinstance(content, str) else content
    if not isinstance(content, list):
        problem = f"must be a string or an array of parts, not {kind(content)}"
        raise bad(f"{param}.content", problem, code="invalid_type")
    read = _said if role == "assistant" else _part
    parts = [read(part, f"{param}.content[{i}]") for i, part in enumerate(content)]
    return {"type": "message", "id": ident, "role": role, "content": parts, "status": "completed"}


def _said(value: Any, param: str) -> Item:
    """A part of an assistant's message."""
    if isinstance(value, dict) and value.get("type") == "refusal":
        return {"type": "refusal", "refusal": checked_text(value.get("refusal"), f"{param}.refusal")}
    part = _part(value, param)
    if part["type"] != "input_text":
        raise bad(f"{param}.type", "an assistant's message holds output_text and refusal only")
    return {"type": "output_text", "text": part["text"], "annotations": [], "logprobs": []}


def _part(value: Any, param: str) -> Item:
    checked_object(value, param)
    sort = value.get("type")
    if sort in _TEXTS:
        return {"type": "input_text", "text": checked_text(value.get("text"), f"{param}.text")}
    if value.get("file_id") is not None:
        problem = "files are not looked up here; send the image as image_url, a file as file_data"
        raise bad(f"{param}.file_id", problem, code="unsupported_parameter")
    match sort:
        case "input_image":
            url = value.get("image_url")
            if not isinstance(url, str) or not url:
                raise bad(f"{param}.image_url", "must be the image's URL, or a data: URL", code="invalid_type")
            detail = value.get("detail") or "auto"
            if detail not in _DETAILS:
                raise bad(f"{param}.detail", f"must be one of {', '.join(_DETAILS)}, got {str(detail)[:40]!r}")
            return {"type": sort, "detail": detail, "image_url": checked_text(url, f"{param}.image_url")}
        case "input_file":
            if value.get("file_url") is not None:
                raise bad(f"{param}.file_url", "is not fetched here; send file_data", code="unsupported_parameter")
            data = _required(value, "file_data", param)
            name = value.get("filename")
            return {"type": sort, "file_data": data} | (
                {} if name is None else {"filename": checked_text(name, f"{param}.filename")}
            )
    problem = f"must be input_text, output_text, input_image or input_file, got {str(sort)[:40]!r}"
    raise bad(f"{param}.type", problem, code="unsupported_parameter")


def _output(value: Any, param: str) -> Any:
    """What a function gave back: a text, or parts of text."""
    if isinstance(value, str):
        return checked_text(value, param)
    if not isinstance(value, list):
        raise bad(param, f"must be a string or an array of parts, not {kind(value)}", code="invalid_type")
    parts = [_part(part, f"{param}[{i}]") for i, part in enumerate(value)]
    for i, part in enumerate(parts):
        if part["type"] != "input_text":
            raise bad(f"{param}[{i}].type", "a function's output can be text only here", code="unsupported_parameter")
    return parts


def _reasoning(value: Mapping[str, Any], param: str, ident: str) -> Item:
    read: Item = {"type": "reasoning", "id": ident}
    for field, sort in (("summary", "summary_text"), ("content", "reasoning_text")):
        parts = value.get(field)
        if parts is None:
            parts = []
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise bad(f"{param}.{field}", "must be an array of objects", code="invalid_type")
        texts = [checked_text(part.get("text"), f"{param}.{field}[{i}].text") for i, part in enumerate(parts)]
        read[field] = [{"type": sort, "text": text} for text in texts]
    hidden = value.get("encrypted_content")
    if hidden is not None and not read["summary"] and not read["content"]:
        place = f"{param}.encrypted_content"
        if text := _opened(checked_text(hidden, place), place):
            read["content"] = [{"type": "reasoning_text", "text": text}]
    return read


# -- as a chat


def messages_of(instructions: str | None, items: Iterable[Item]) -> list[dict[str, Any]]:
    """The chat that the items are. What the assistant does between two others' items is one message.

    Raises `InvalidRequest` for the output of a call that is not there.
    """
    messages: list[dict[str, Any]] = [] if instructions is None else [{"role": "system", "content": instructions}]
    turn: dict[str, Any] = {}  # the assistant's, as far as it is read
    calls: set[str] = set()

    def end_turn() -> None:
        if "content" in turn or "tool_calls" in turn:  # thoughts alone are no message
            messages.append({"role": "assistant", "content": None, **turn})
        turn.clear()

    for item in items:
        match item["type"]:
            case "reasoning":
                end_turn()
                text = joined(item["content"]) or joined(item["summary"])
                if text:
                    turn["reasoning_content"] = text
            case "function_call" if item["status"] == "incomplete":
                continue  # of a response that was cut off: nobody can read its arguments
            case "function_call":
                calls.add(item["call_id"])
                function = {"name": item["name"], "arguments": item["arguments"]}
                turn.setdefault("tool_calls", []).append(
                    {"id": item["call_id"], "type": "function", "function": function}
                )
            case "function_call_output":
                end_turn()
                if item["call_id"] not in calls:
                    problem = f"no function call with call_id {item['call_id'][:80]!r} comes before its output"
                    raise InvalidRequest(problem, param="input", code="invalid_value")
                output = item["output"]
                content = output if isinstance(output, str) else joined(output)
                messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": content})
            case _ if item["role"] == "assistant":
                if "content" in turn or "tool_calls" in turn:
                    end_turn()
                turn["content"] = joined(item["content"])
            case _:
                end_turn()
                messages.append({"role": _ROLE_IN_CHAT[item["role"]], "content": _content(item["content"])})
    end_turn()
    return messages


# "developer" is OpenAI's own word; every provider knows the older one, OpenAI too.
_ROLE_IN_CHAT = {"user": "user", "system": "system", "developer": "system"}


def joined(parts: Iterable[Mapping[str, Any]]) -> str:
    return "".join(part.get("text") or part.get("refusal") or "" for part in parts)


def _content(parts: list[Item]) -> str | list[dict[str, Any]]:
    """A plain text where it is one: not every backend takes parts."""
    if len(parts) == 1 and parts[0]["type"] == "input_text":
        return str(parts[0]["text"])
    return [_CHAT_PART[part["type"]](part) for part in parts]


_CHAT_PART: Mapping[str, Callable[[Item], dict[str, Any]]] = {
    "input_text": lambda part: {"type": "text", "text": part["text"]},
    "input_image": lambda part: {
        "type": "image_url",
        "image_url": {"url": part["image_url"], "detail": part["detail"]},
    },
    "input_file": lambda part: {
        "type": "file",
        "file": {name: part[name] for name in ("filename", "file_data") if name in part},
    },
}
