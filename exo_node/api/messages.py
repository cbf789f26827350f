"""Chat messages as clients send them -> messages as chat templates take them. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from exo_node.api.fields import bad, checked_array, checked_object, checked_text, kind

# Templates know no "developer"; OpenAI made it the new name of "system". "function" is the older name of "tool".
_ROLES = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool",
    "function": "tool",
}  # fmt: skip
_OLD_ID = "call_of_"  # before the function's name: the older form has no ids


def parse_messages(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Checked messages with text contents: `{role, content[, name][, reasoning_content]}`, an assistant's with
    `tool_calls` in OpenAI's form (arguments are text), a tool's with `tool_call_id`. Raises `InvalidRequest`."""
    if not isinstance(value, list) or not value:
        raise bad("messages", "must be a non-empty array of messages")
    return tuple(_message(item, f"messages[{i}]") for i, item in enumerate(value))


def _message(value: Any, param: str) -> dict[str, Any]:
    checked_object(value, param)
    role = value.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise bad(f"{param}.role", f"must be one of {', '.join(_ROLES)}")
    if value.get("audio"):
        raise bad(f"{param}.audio", "is not supported by local models", code="unsupported_parameter")
    message: dict[str, Any] = {
        "role": _ROLES[role],
        "content": _content(value.get("content"), f"{param}.content", role),
    }
    for field in ("name", "reasoning_content"):
        if value.get(field) is not None:
            message[field] = checked_text(value[field], f"{param}.{field}")
    if role == "assistant":
        if value.get("refusal") and not message["content"]:
            message["content"] = checked_text(value["refusal"], f"{param}.refusal")
        if calls := _calls(value, param):
            message["tool_calls"] = calls
    elif value.get("tool_calls") or value.get("function_call"):
        raise bad(f"{param}.tool_calls", f"is the assistant's, not the {role}'s")
    if role == "tool":
        if value.get("tool_call_id") is None:
            raise bad(f"{param}.tool_call_id", "is required", code="missing_required_parameter")
        message["tool_call_id"] = checked_text(value["tool_call_id"], f"{param}.tool_call_id")
    elif role == "function":
        name = checked_text(value.get("name"), f"{param}.name")
        message["tool_call_id"] = f"{_OLD_ID}{name}"
    return message


def _calls(value: Mapping[str, Any], param: str) -> list[dict[str, Any]]:
    """An assistant's calls; `function_call` is the older form."""
    if value.get("function_call"):
        call = _function(value["function_call"], f"{param}.function_call")
        return [{"id": f"{_OLD_ID}{call['name']}", "type": "function", "function": call}]
    calls = []
    for i, one in enumerate(checked_array(value.get("tool_calls") or [], f"{param}.tool_calls")):
        where = f"{param}.tool_calls[{i}]"
        checked_object(one, where)
        if one.get("type", "function") != "function":
            problem = f"calls of type {str(one['type'])[:40]!r} are not supported by local models, only 'function'"
            raise bad(f"{where}.type", problem, code="unsupported_parameter")
        function = _function(one.get("function"), f"{where}.function")
        calls.append({"id": checked_text(one.get("id"), f"{where}.id"), "type": "function", "function": function})
    return calls


def _function(value: Any, param: str) -> dict[str, str]:
    checked_object(value, param)
    arguments = value.get("arguments")
    if isinstance(arguments, dict):  # some send what they parsed
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {
        "name": checked_text(value.get("name"), f"{param}.name"),
        "arguments": checked_text(arguments or "{}", f"{param}.arguments"),
    }


def _content(value: Any, param: str, role: str) -> str:
    if value is None:
        if role in ("assistant", "tool", "function"):  # SDKs echo answers without text as null
            return ""
        raise bad(param, "is required", code="missing_required_parameter")
    if isinstance(value, str):
        return checked_text(value, param)
    if not isinstance(value, list):
        raise bad(param, f"must be a string or an array of parts, not {kind(value)}", code="invalid_type")
    return "".join(_part(part, f"{param}[{i}]", role) for i, part in enumerate(value))


def _part(value: Any, param: str, role: str) -> str:
    checked_object(value, param)
    sort = value.get("type")
    if sort == "refusal" and role == "assistant":
        return checked_text(value.get("refusal"), f"{param}.refusal")
    if sort != "text":
        problem = f"parts of type {repr(sort)[:40]} are not supported by local models, only 'text'"
        raise bad(f"{param}.type", problem, code="unsupported_parameter")
    return checked_text(value.get("text"), f"{param}.text")
