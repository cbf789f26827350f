"""Chat messages as clients send them -> messages as chat templates take them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exo_node.api.fields import bad, checked_text, kind

# Templates know no "developer"; OpenAI made it the new name of "system".
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_NEEDS_TOOLS = ("tool", "function")


def parse_messages(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Checked messages `{role, content[, name][, reasoning_content]}` with text contents. Raises `InvalidRequest`."""
    if not isinstance(value, list) or not value:
        raise bad("messages", "must be a non-empty array of messages")
    return tuple(_message(item, f"messages[{i}]") for i, item in enumerate(value))


def _message(value: Any, param: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise bad(param, f"must be an object, not {kind(value)}", code="invalid_type")
    role = value.get("role")
    if role in _NEEDS_TOOLS:
        problem = f"{role!r} needs tool calling, which is not supported by local models yet"
        raise bad(f"{param}.role", problem, code="unsupported_parameter")
    if not isinstance(role, str) or role not in _ROLES:
        raise bad(f"{param}.role", f"must be one of {', '.join(_ROLES)}")
    for field in ("tool_calls", "function_call", "audio", "refusal"):
        if value.get(field):
            raise bad(f"{param}.{field}", "is not supported by local models yet", code="unsupported_parameter")
    message = {"role": _ROLES[role], "content": _content(value.get("content"), f"{param}.content", role)}
    for field in ("name", "reasoning_content"):
        if value.get(field) is not None:
            message[field] = checked_text(value[field], f"{param}.{field}")
    return message


def _content(value: Any, param: str, role: str) -> str:
    if value is None:
        if role == "assistant":  # SDKs echo answers without text as null
            return ""
        raise bad(param, "is required", code="missing_required_parameter")
    if isinstance(value, str):
        return checked_text(value, param)
    if not isinstance(value, list):
        raise bad(param, f"must be a string or an array of parts, not {kind(value)}", code="invalid_type")
    return "".join(_part(part, f"{param}[{i}]") for i, part in enumerate(value))


def _part(value: Any, param: str) -> str:
    if not isinstance(value, dict):
        raise bad(param, f"must be an object, not {kind(value)}", code="invalid_type")
    if value.get("type") != "text":
        problem = f"parts of type {repr(value.get('type'))[:40]} are not supported by local models yet, only 'text'"
        raise bad(f"{param}.type", problem, code="unsupported_parameter")
    return checked_text(value.get("text"), f"{param}.text")
