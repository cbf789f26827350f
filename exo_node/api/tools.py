"""The tools of a chat request, and what they were called before (`functions`) -> `ToolUse`. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from exo_node.api.fields import Fields, bad, checked_array, checked_object, checked_text, kind
from exo_node.types import ToolUse

_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")  # OpenAI's rule, and the dot that MCP servers use
_NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


def parse_tool_use(body: Mapping[str, Any]) -> ToolUse | None:
    """None where no tools are offered. Raises `InvalidRequest` with the field's name."""
    if body.get("functions"):
        if body.get("tools"):
            raise bad("functions", "is the older form of tools; send one of them")
        return _functions(body)
    offered, choice = body.get("tools"), body.get("tool_choice")
    if not offered:
        if choice not in (None, "none", "auto"):
            raise bad("tool_choice", "needs tools to choose from")
        return None
    checked_array(offered, "tools")
    tools = _checked([_of_tool(tool, f"tools[{i}]") for i, tool in enumerate(offered)], "tools")
    strict = frozenset(one["function"]["name"] for i, one in enumerate(offered) if _strict(one, f"tools[{i}].function"))
    parallel = Fields(body).boolean("parallel_tool_calls") is not False
    if choice is None or isinstance(choice, str):
        if choice not in (None, "none", "auto", "required"):
            raise bad("tool_choice", f"must be none, auto, required, or an object; got {choice[:40]!r}")
        return ToolUse(tools=tools, strict=strict, choice=choice or "auto", parallel=parallel)
    if not isinstance(choice, Mapping):
        raise bad("tool_choice", f"must be a string or an object, not {kind(choice)}", code="invalid_type")
    if choice.get("type") == "allowed_tools":
        return _allowed(choice, tools, strict, parallel)
    if (sort := choice.get("type", "function")) != "function":
        problem = f"must be function or allowed_tools for local models; got {str(sort)[:40]!r}"
        raise bad("tool_choice.type", problem, code="unsupported_parameter")
    name = _named(choice.get("function"), tools, "tool_choice.function", "tools")
    return ToolUse(tools=tools, strict=strict, choice=name, named=True, parallel=parallel)


def _allowed(
    choice: Mapping[str, Any], tools: tuple[Mapping[str, Any], ...], strict: frozenset[str], parallel: bool
) -> ToolUse:
    """OpenAI's `allowed_tools`: some of the tools, in one of two modes."""
    param = "tool_choice.allowed_tools"
    given = choice.get("allowed_tools")
    if not isinstance(given, Mapping) or not isinstance(given.get("tools"), list) or not given["tools"]:
        raise bad(f"{param}.tools", "must be a non-empty array of tools")
    mode = given.get("mode")
    if mode not in ("auto", "required"):
        raise bad(f"{param}.mode", "must be auto or required")
    names = {
        _named(
            one.get("function") if isinstance(one, Mapping) else None, tools, f"{param}.tools[{i}].function", "tools"
        )
        for i, one in enumerate(given["tools"])
    }
    some = tuple(tool for tool in tools if tool["function"]["name"] in names)
    return ToolUse(tools=some, strict=strict & names, choice=mode, parallel=parallel)


def _functions(body: Mapping[str, Any]) -> ToolUse:
    """The older form: one call in an answer."""
    offered, choice = body["functions"], body.get("function_call")
    checked_array(offered, "functions")
    tools = _checked([_function(one, f"functions[{i}]") for i, one in enumerate(offered)], "functions")
    if choice in (None, "none", "auto"):
        return ToolUse(tools=tools, choice=choice or "auto", parallel=False)
    name = _named(choice, tools, "function_call", "functions")
    return ToolUse(tools=tools, choice=name, named=True, parallel=False)


def _of_tool(value: Any, param: str) -> dict[str, Any]:
    checked_object(value, param)
    if value.get("type", "function") != "function":
        problem = f"tools of type {str(value['type'])[:40]!r} are not supported by local models, only 'function'"
        raise bad(f"{param}.type", problem, code="unsupported_parameter")
    return _function(value.get("function"), f"{param}.function")


def _strict(tool: Mapping[str, Any], param: str) -> bool:
    value = tool["function"].get("strict")
    if value is not None and not isinstance(value, bool):
        raise bad(f"{param}.strict", f"must be a boolean, not {kind(value)}", code="invalid_type")
    return value is True


def _function(value: Any, param: str) -> dict[str, Any]:
    checked_object(value, param)
    name = checked_text(value.get("name"), f"{param}.name")
    if not _NAME.fullmatch(name):
        raise bad(f"{param}.name", f"must be 1 to 64 letters, digits, _, - and dots; got {name[:80]!r}")
    parameters = value.get("parameters") or _NO_ARGUMENTS
    if not isinstance(parameters, Mapping):
        raise bad(f"{param}.parameters", f"must be a JSON schema, not {kind(parameters)}", code="invalid_type")
    if parameters.get("type", "object") != "object":
        raise bad(f"{param}.parameters.type", "must be 'object': the arguments are named")
    schema = {name: part for name, part in parameters.items() if name != "$schema"}
    function = {"name": name, "parameters": {"type": "object", **schema}}
    if value.get("description") is not None:
        function["description"] = checked_text(value["description"], f"{param}.description")
    return {"type": "function", "function": function}


def _checked(tools: list[dict[str, Any]], param: str) -> tuple[Mapping[str, Any], ...]:
    seen: set[str] = set()
    for tool in tools:
        name = tool["function"]["name"]
        if name in seen:
            raise bad(param, f"has two functions named {name!r}")
        seen.add(name)
    return tuple(tools)


def _named(value: Any, tools: tuple[Mapping[str, Any], ...], param: str, where: str) -> str:
    """The name in `{"name": ...}`, which must be one of the tools'."""
    name = value.get("name") if isinstance(value, Mapping) else None
    if not isinstance(name, str):
        raise bad(f"{param}.name", "is required", code="missing_required_parameter")
    if all(tool["function"]["name"] != name for tool in tools):
        raise bad(f"{param}.name", f"is {name[:80]!r}, which is not among the {where}")
    return name
