"""Tools, tool choice and the text's form in the Responses API -> a chat's fields. Pure.

Here a tool is flat (`{type, name, parameters, strict}`), in a chat nested under `function`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exo_node.api.fields import Fields, bad, checked_array, checked_object, checked_text, kind

_WORDS = ("auto", "none", "required")
_TOOL = ("name", "description", "parameters", "strict")
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "defer_loading": (None, False),
    "allowed_callers": (None, [], ["direct"]),
    "output_schema": (None,),
}
_VERBOSITIES = ("low", "medium", "high")


def read_tools(value: Any) -> list[dict[str, Any]]:
    """The function tools, checked, as the answer repeats them. Raises `InvalidRequest` for any other tool."""
    if value is None:
        return []
    return [_tool(one, f"tools[{i}]") for i, one in enumerate(checked_array(value, "tools"))]


def _tool(value: Any, param: str) -> dict[str, Any]:
    checked_object(value, param)
    if value.get("type") != "function":
        problem = f"{str(value.get('type'))[:40]!r} is a tool that only OpenAI runs; this server takes function tools"
        raise bad(f"{param}.type", problem, code="unsupported_parameter")
    nested = value.get("function")
    if isinstance(nested, dict) and "name" not in value:  # a chat's shape, which exo's tool-call evaluation sends here
        value, param = {"type": "function", **nested}, f"{param}.function"
    for other, neutral in _NEUTRAL.items():
        if value.get(other) not in neutral:
            raise bad(f"{param}.{other}", "is not done by this server", code="unsupported_parameter")
    name, parameters, strict = value.get("name"), value.get("parameters"), value.get("strict")
    if not checked_text(name, f"{param}.name"):
        raise bad(f"{param}.name", "must not be empty")
    if parameters is not None and not isinstance(parameters, dict):
        raise bad(f"{param}.parameters", f"must be a JSON schema, not {kind(parameters)}", code="invalid_type")
    if strict is not None and not isinstance(strict, bool):
        raise bad(f"{param}.strict", f"must be a boolean, not {kind(strict)}", code="invalid_type")
    description = value.get("description")
    said = {} if description is None else {"description": checked_text(description, f"{param}.description")}
    return {"type": "function", "name": name, **said, "parameters": parameters, "strict": strict}


def tool_fields(tools: list[dict[str, Any]], choice: Any, parallel: bool | None) -> tuple[dict[str, Any], Any]:
    """What of it goes into the chat, and the choice as the answer repeats it. Raises `InvalidRequest`.

    The fields are left out where there are no tools: providers refuse the others without them.
    """
    if choice is None:
        choice = "auto"
    names = [tool["name"] for tool in tools]
    wanted: Any = choice
    if isinstance(choice, dict):
        wanted, names = _chosen(choice, names)
    elif choice not in _WORDS:
        raise bad("tool_choice", f"must be one of {', '.join(_WORDS)}, or an object")
    if not names:
        if wanted not in ("auto", "none"):
            raise bad("tool_choice", "asks for a call, and there are no tools")
        return {}, choice
    body: dict[str, Any] = {
        "tools": [_chat_tool(tool) for tool in tools if tool["name"] in names],
        "tool_choice": wanted,
    }
    if parallel is not None:
        body["parallel_tool_calls"] = parallel
    return body, choice


def _chat_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {name: tool[name] for name in _TOOL if tool.get(name) is not None}}


def _chosen(choice: Mapping[str, Any], names: list[str]) -> tuple[Any, list[str]]:
    """The chat's choice, and which tools there are then."""
    match choice.get("type"):
        case "function":
            name = _known(choice.get("name"), "tool_choice.name", names)
            return {"type": "function", "function": {"name": name}}, names
        case "allowed_tools":
            if choice.get("mode") not in ("auto", "required"):
                raise bad("tool_choice.mode", "must be auto or required")
            kept = []
            for i, one in enumerate(checked_array(choice.get("tools"), "tool_choice.tools")):
                if not isinstance(one, dict) or one.get("type") != "function":
                    raise bad(f"tool_choice.tools[{i}]", "must be a function tool", code="unsupported_parameter")
                kept.append(_known(one.get("name"), f"tool_choice.tools[{i}].name", names))
            return choice["mode"], kept
    problem = f"{str(choice.get('type'))[:40]!r} is a tool that only OpenAI runs; name a function"
    raise bad("tool_choice.type", problem, code="unsupported_parameter")


def _known(name: Any, param: str, names: list[str]) -> str:
    if checked_text(name, param) not in names:
        raise bad(param, f"no tool {str(name)[:64]!r} is in tools")
    return str(name)


def text_fields(value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """`text` -> the chat's `response_format` and `verbosity`, and `text` as the answer repeats it."""
    if value is None:
        value = {}
    checked_object(value, "text")
    body: dict[str, Any] = {}
    form = value.get("format")
    if form is None:
        form = {"type": "text"}
    checked_object(form, "text.format")
    match form.get("type"):
        case "text":
            form = {"type": "text"}
        case "json_object":
            form = {"type": "json_object"}
            body["response_format"] = form
        case "json_schema":
            form = _schema(form)
            inner = {name: item for name, item in form.items() if name != "type" and item is not None}
            body["response_format"] = {"type": "json_schema", "json_schema": inner}
        case _:
            raise bad("text.format.type", "must be text, json_object or json_schema")
    verbosity = Fields({"text.verbosity": value.get("verbosity")}).text("text.verbosity")
    if verbosity is not None:
        if verbosity not in _VERBOSITIES:
            raise bad("text.verbosity", f"must be one of {', '.join(_VERBOSITIES)}")
        body["verbosity"] = verbosity
    return body, {"format": form, "verbosity": verbosity or "medium"}


def _schema(form: Mapping[str, Any]) -> dict[str, Any]:
    name, schema, strict = form.get("name"), form.get("schema"), form.get("strict")
    if not name:
        raise bad("text.format.name", "is required", code="missing_required_parameter")
    if not isinstance(schema, dict):
        raise bad("text.format.schema", f"must be a JSON schema, not {kind(schema)}", code="invalid_type")
    if strict is not None and not isinstance(strict, bool):
        raise bad("text.format.strict", f"must be a boolean, not {kind(strict)}", code="invalid_type")
    read = {"type": "json_schema", "name": checked_text(name, "text.format.name"), "schema": schema, "strict": strict}
    if form.get("description") is not None:
        read["description"] = checked_text(form["description"], "text.format.description")
    return read
