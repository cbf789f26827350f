"""Tool calls for models without native tools: ask in words, read the answer, check it against the schema. Pure.

The worker sends `prompt(body)` instead of the body, reads the answer with `read`, and on a bad one asks once more with
`again`. What comes back has OpenAI's `tool_calls`.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable

from exo_node.routing.sidecar.cpu_limit import TookTooLong, cpu_limit
from exo_node.routing.sidecar.failures import CallFailed

CHECK_S = 0.5  # of CPU, to check a schema or by one: others' calls wait meanwhile; usual ones take milliseconds

_RULES = """You can call these tools. Each line is a tool with the JSON schema of its arguments:
{tools}

To call tools, answer with one JSON object and nothing else, no explanation and no code fence:
{{"tool_calls": [{{"name": "TOOL", "arguments": {{...}}}}]}}
{choice}"""
_MAY = "If no tool is needed, answer the user in plain text."
_MUST = "You must call a tool now."
_MUST_THIS = "You must call the tool {name} now."


class BadToolCall(Exception):
    """The model's answer is no valid call; the message tells the model why."""


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools of one request. `required` "": the model may answer in text; "*": any tool; else that tool."""

    schemas: Mapping[str, Mapping[str, Any]]
    described: tuple[str, ...]
    required: str = ""
    parallel: bool = True


def tools_of(body: Mapping[str, Any]) -> Tools | None:
    """The tools that a chat body offers; None where it offers none. Raises `CallFailed` for a malformed offer."""
    offered = body.get("tools") or ()
    choice = body.get("tool_choice") or "auto"
    if not offered or choice == "none":
        return None
    schemas: dict[str, Mapping[str, Any]] = {}
    described = []
    for i, tool in enumerate(offered):
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise _invalid(f"tools[{i}].function.name is missing", f"tools[{i}]")
        schema = function.get("parameters") or {"type": "object", "properties": {}}
        try:
            with _checking(function["name"]):
                Draft202012Validator.check_schema(schema)
        except SchemaError as e:
            raise _invalid(f"tools[{i}].function.parameters is no JSON schema: {e.message}", f"tools[{i}]") from e
        schemas[function["name"]] = schema
        line = {"name": function["name"], "description": function.get("description", ""), "arguments": schema}
        described.append(json.dumps(line, ensure_ascii=False))
    required = ""
    if choice == "required":
        required = "*"
    elif isinstance(choice, Mapping):
        named = choice.get("function")
        required = str(named.get("name", "")) if isinstance(named, Mapping) else ""
        if required not in schemas:
            raise _invalid(f"tool_choice names {required!r}, which is not among the tools", "tool_choice")
    elif choice != "auto":
        raise _invalid("tool_choice must be none, auto, required, or name a function", "tool_choice")
    if (body.get("n") or 1) != 1:
        raise _invalid("n must be 1: this model has no native tools, they are prompted", "n")
    return Tools(schemas, tuple(described), required, body.get("parallel_tool_calls") is not False)


def prompt(body: Mapping[str, Any], tools: Tools | None) -> dict[str, Any]:
    """The body without tools, its tool messages told in words, the rules in the system message."""
    spoken = [_spoken(message, f"messages[{i}]") for i, message in enumerate(body["messages"])]
    if tools is not None:
        choice = _MAY
        if tools.required:
            choice = _MUST if tools.required == "*" else _MUST_THIS.format(name=tools.required)
        if not tools.parallel:
            choice += " Call one tool at a time."
        spoken = _with_system(spoken, _RULES.format(tools="\n".join(tools.described), choice=choice))
    dropped = ("tools", "tool_choice", "parallel_tool_calls", "stream", "stream_options")
    return {**{k: v for k, v in body.items() if k not in dropped}, "messages": spoken}


def again(body: Mapping[str, Any], answer: str, problem: str) -> dict[str, Any]:
    """The second and last try: the bad answer, and what is wrong with it."""
    more = [
        {"role": "assistant", "content": answer or "(empty)"},
        {"role": "user", "content": f"That is not a valid tool call: {problem}. Answer with the JSON object only."},
    ]
    return {**body, "messages": [*body["messages"], *more]}


def read(text: str, tools: Tools) -> list[dict[str, Any]]:
    """The tool calls in an answer, OpenAI-shaped; [] for an answer in plain text. Raises `BadToolCall`."""
    try:
        with cpu_limit(CHECK_S):
            found = _object_in(text)
    except (TookTooLong, RecursionError) as e:
        raise BadToolCall("the JSON is nested too deep") from e
    if found is None:
        if tools.required:
            raise BadToolCall("the answer holds no JSON object with tool_calls")
        return []
    calls = found["tool_calls"]
    if not isinstance(calls, list) or not calls:
        raise BadToolCall("tool_calls must be a list with at least one call")
    if not tools.parallel and len(calls) > 1:
        raise BadToolCall("only one tool may be called at a time")
    checked = [_checked(call, tools) for call in calls]
    if tools.required not in ("", "*") and any(c["function"]["name"] != tools.required for c in checked):
        raise BadToolCall(f"the tool to call is {tools.required}")
    return checked


def _checked(call: Any, tools: Tools) -> dict[str, Any]:
    name = str(call.get("name")) if isinstance(call, Mapping) else ""
    if name not in tools.schemas:
        raise BadToolCall(f"there is no tool {name!r}; the tools are {', '.join(tools.schemas)}")
    given = call.get("arguments", {})
    if isinstance(given, str):
        try:
            given = json.loads(given or "{}")
        except ValueError as e:
            raise BadToolCall(f"the arguments of {name} are not JSON: {e}") from e
    # An empty registry: a $ref to an address must not be fetched.
    validator = Draft202012Validator(tools.schemas[name], registry=Registry())
    try:
        with _checking(name):
            problems = [
                f"{'.'.join(str(p) for p in error.absolute_path) or 'arguments'}: {error.message}"
                for error in sorted(validator.iter_errors(given), key=str)
            ]
    except Unresolvable as e:
        raise _invalid(f"the schema of tool {name} refers to {e.ref}, which it does not hold", "tools") from e
    if problems:
        raise BadToolCall(f"arguments of {name}: " + "; ".join(problems[:5]))
    try:
        arguments = json.dumps(given, ensure_ascii=False, allow_nan=False)
    except ValueError as e:  # NaN and Infinity, which Python's reader takes
        raise BadToolCall(f"the arguments of {name} hold a number that JSON has not") from e
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


@contextmanager
def _checking(name: str) -> Iterator[None]:
    """Of or by a client's schema, which may have no end."""
    try:
        with cpu_limit(CHECK_S):
            yield
    except TookTooLong as e:
        raise _invalid(f"to check the schema of tool {name} takes longer than {CHECK_S:g} s", "tools") from e
    except RecursionError as e:
        raise _invalid(f"the schema of tool {name} refers to itself without end, or is nested too deep", "tools") from e


def _object_in(text: str) -> dict[str, Any] | None:
    """The first JSON object in `text` that has `tool_calls`; None where there is none.

    Models put it into code fences and sentences however clearly they are asked not to. What begins like a call but
    does not end like one raises `BadToolCall`.
    """
    decoder = json.JSONDecoder()
    start = text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except ValueError as e:
            if text[start + 1 :].lstrip().startswith('"tool_calls"'):
                raise BadToolCall(f"the JSON is broken: {e}") from e
            end = start + 1
        else:
            if isinstance(value, dict) and "tool_calls" in value:
                return value
        start = text.find("{", end)
    return None


def _spoken(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A message with its tool calls or its tool result as text."""
    if message.get("role") == "tool":
        result = _text(message.get("content"))
        return {"role": "user", "content": f"Result of tool call {message.get('tool_call_id', '')}:\n{result}"}
    calls = message.get("tool_calls")
    if not calls:
        return dict(message)
    told = []
    for i, call in enumerate(calls):
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            param = f"{where}.tool_calls[{i}]"
            raise _invalid(f"{param}.function.name is missing", param)
        arguments = _arguments(function.get("arguments"))
        told.append({"id": call.get("id"), "name": function["name"], "arguments": arguments})
    text = "\n".join(filter(None, (_text(message.get("content")), json.dumps({"tool_calls": told}))))
    return {"role": "assistant", "content": text}


def _arguments(given: Any) -> Any:
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given or "{}")
    except ValueError:
        return given  # told to the model as it stands


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return content or ""


def _with_system(messages: Sequence[dict[str, Any]], rules: str) -> list[dict[str, Any]]:
    if messages and messages[0].get("role") in ("system", "developer"):
        first = {**messages[0], "content": f"{_text(messages[0].get('content'))}\n\n{rules}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": rules}, *messages]


def _invalid(message: str, param: str) -> CallFailed:
    return CallFailed(message, "bad_request", code="invalid_value", param=param)
