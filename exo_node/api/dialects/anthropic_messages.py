"""Anthropic's messages -> OpenAI's: https://docs.anthropic.com/en/api/messages . Pure.

One message of Anthropic's may be several of OpenAI's: the results of tools become messages of their own.
`cache_control` stays on the parts and thoughts go as `thinking_blocks`, for `routing.anthropic_extras` to fit to each
backend.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from exo_node.api.fields import bad, checked_object, checked_text, kind

Message = dict[str, Any]
ROLES = ("user", "assistant", "system")


def system_message(value: Any) -> Message | None:
    """The `system` field as a message: a string, or blocks of text."""
    if value is None or value in ("", []):
        return None
    parts = [part for part in _texts(value, "system") if part["text"]]
    return {"role": "system", "content": _simple(parts)} if parts else None


def chat_messages(value: Any) -> tuple[list[Message], bool]:
    """The `messages` field; and whether the last is the assistant's text, which the answer is to go on with."""
    if not isinstance(value, list) or not value:
        raise bad("messages", "must be a non-empty array of messages")
    made: list[Message] = []
    called: set[str] = set()
    for role, blocks in _turns(value):
        turn = _SAY[role](blocks)
        called.update(call["id"] for message in turn for call in message.get("tool_calls", ()))
        for param, block in blocks:
            if block.get("type") == "tool_result" and block["tool_use_id"] not in called:
                raise bad(f"{param}.tool_use_id", f"no tool_use before it has the id {block['tool_use_id'][:60]!r}")
        made.extend(turn)
    last = made[-1]
    if last["role"] == "assistant" and last.get("tool_calls"):
        raise bad("messages", "ends with a tool_use; its tool_result must follow in a message of the user")
    if last["role"] != "assistant":
        return made, False
    content = last["content"]
    said = content if isinstance(content, str) else str(content[-1].get("text", ""))
    if not said or said != said.rstrip():  # as Anthropic has it: tokens begin with their space
        raise bad("messages", "ends with a message of the assistant that must hold text, and no white space at its end")
    return made, True


Blocks = list[tuple[str, Mapping[str, Any]]]  # (where it stands in the request, the block)


def _turns(messages: list[Any]) -> list[tuple[str, Blocks]]:
    """Consecutive messages of the same role are one turn."""
    turns: list[tuple[str, Blocks]] = []
    for i, message in enumerate(messages):
        param = f"messages[{i}]"
        checked_object(message, param)
        role = message.get("role")
        if role not in ROLES:
            raise bad(f"{param}.role", f"must be one of {', '.join(ROLES)}")
        blocks = _blocks(message.get("content"), f"{param}.content")
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        else:
            turns.append((role, blocks))
    return turns


def _blocks(content: Any, param: str) -> Blocks:
    if content is None:
        raise bad(param, "is required", code="missing_required_parameter")
    if isinstance(content, str):
        return [(param, {"type": "text", "text": content})]
    if not isinstance(content, list):
        raise bad(param, f"must be a string or an array of blocks, not {kind(content)}", code="invalid_type")
    for i, block in enumerate(content):
        checked_object(block, f"{param}[{i}]")
    return [(f"{param}[{i}]", block) for i, block in enumerate(content)]


def _user(blocks: Blocks) -> list[Message]:
    """Results of tools first, as OpenAI has it, then the rest; pictures in results belong to the rest."""
    results: list[Message] = []
    pictures: list[Message] = []
    parts: list[Message] = []
    for param, block in blocks:
        if block.get("type") == "tool_result":
            results.append(_result(block, param, pictures))
        else:
            parts.append(_part(block, param))
    parts = pictures + parts
    return [*results, {"role": "user", "content": _simple(parts)}] if parts or not results else results


def _result(block: Mapping[str, Any], param: str, pictures: list[Message]) -> Message:
    content = block.get("content")
    parts = [] if content is None else [_part(one, at) for at, one in _blocks(content, f"{param}.content")]
    pictures.extend(part for part in parts if part["type"] == "image_url")
    text = "\n".join(part["text"] for part in parts if part["type"] == "text")
    if block.get("is_error") is True:  # OpenAI's shape has no flag for it
        text = f"Error: {text}"
    made: Message = {"role": "tool", "tool_call_id": _name(block, "tool_use_id", param), "content": text}
    return {**made, **_cache(block)}


def _assistant(blocks: Blocks) -> list[Message]:
    parts: list[Message] = []
    calls: list[Message] = []
    thoughts: list[Mapping[str, Any]] = []
    for param, block in blocks:
        match block.get("type"):
            case "tool_use":
                calls.append(_call(block, param))
            case "thinking" | "redacted_thinking":
                thoughts.append({name: value for name, value in block.items() if name != "cache_control"})
            case _:
                parts.append(_part(block, param))
    message: Message = {"role": "assistant", "content": _simple(parts) if parts else "" if not calls else None}
    if calls:
        message["tool_calls"] = calls
    if thoughts:
        message["thinking_blocks"] = thoughts
    return [message]


def _system(blocks: Blocks) -> list[Message]:
    return [{"role": "system", "content": _simple([_text(block, param) for param, block in blocks])}]


_SAY = {"user": _user, "assistant": _assistant, "system": _system}


def _call(block: Mapping[str, Any], param: str) -> Message:
    given = checked_object(block.get("input"), f"{param}.input")
    function = {"name": _name(block, "name", param), "arguments": json.dumps(given, ensure_ascii=False)}
    return {"id": _name(block, "id", param), "type": "function", "function": function, **_cache(block)}


def _part(block: Mapping[str, Any], param: str) -> Message:
    """A part of OpenAI's: text, or a picture."""
    match block.get("type"):
        case "text":
            return _text(block, param)
        case "image":
            return _image(block, param)
        case "document":
            return _document(block, param)
    said = repr(block.get("type"))[:60]
    problem = f"blocks of type {said} are not supported by this server here; text, image, tool_use and tool_result are"
    raise bad(f"{param}.type", problem, code="unsupported_parameter")


def _text(block: Mapping[str, Any], param: str) -> Message:
    if block.get("type") != "text":
        raise bad(f"{param}.type", f"must be text here, not {repr(block.get('type'))[:60]}")
    return {"type": "text", "text": checked_text(block.get("text"), f"{param}.text"), **_cache(block)}


def _image(block: Mapping[str, Any], param: str) -> Message:
    source = _source(block, param)
    match source.get("type"):
        case "base64":
            media, data = _name(source, "media_type", f"{param}.source"), _name(source, "data", f"{param}.source")
            url = f"data:{media};base64,{data}"
        case "url":
            url = _name(source, "url", f"{param}.source")
        case other:
            raise _bad_source(other, param, "base64 and url")
    return {"type": "image_url", "image_url": {"url": url}, **_cache(block)}


def _document(block: Mapping[str, Any], param: str) -> Message:
    """Text only: no backend behind OpenAI's shape reads files alike, nor cites them."""
    citations = block.get("citations")
    if isinstance(citations, dict) and citations.get("enabled"):
        raise bad(f"{param}.citations", "are not supported by this server", code="unsupported_parameter")
    source = _source(block, param)
    match source.get("type"):
        case "text":
            text = checked_text(source.get("data"), f"{param}.source.data")
        case "content":
            text = "\n".join(part["text"] for part in _texts(source.get("content"), f"{param}.source.content"))
        case other:
            raise _bad_source(other, param, "text")
    above = [checked_text(block[name], f"{param}.{name}") for name in ("title", "context") if block.get(name)]
    return {"type": "text", "text": "\n".join([*above, text]), **_cache(block)}


def _source(block: Mapping[str, Any], param: str) -> Mapping[str, Any]:
    return checked_object(block.get("source"), f"{param}.source")


def _bad_source(said: Any, param: str, instead: str) -> Exception:
    problem = f"{repr(said)[:60]} is not supported by this server, only {instead}"
    return bad(f"{param}.source.type", problem, code="unsupported_parameter")


def _texts(value: Any, param: str) -> list[Message]:
    return [_text(block, at) for at, block in _blocks(value, param)]


def _name(block: Mapping[str, Any], field: str, param: str) -> str:
    value = block.get(field)
    if value is None or value == "":
        raise bad(f"{param}.{field}", "is required", code="missing_required_parameter")
    return checked_text(value, f"{param}.{field}")


def _cache(block: Mapping[str, Any]) -> Message:
    marked = block.get("cache_control")
    return {} if marked is None else {"cache_control": marked}


def _simple(parts: list[Message]) -> str | list[Message]:
    """One plain text as a string, which every backend takes."""
    if not parts:
        return ""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        return str(parts[0]["text"])
    return parts
