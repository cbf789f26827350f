"""Tools told in words, for chat templates that know nothing of them: in the prompt, calls and their results as text.

Such a model is asked to call as Hermes models do; the same parser reads it and the same grammar binds it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from exo_node.models.toolformats.base import Frame
from exo_node.types import ToolUse

Message = Mapping[str, Any]

_RULES = """You can call these functions. Each line is one, with the JSON schema of its arguments:
{tools}

To call a function, write exactly this and nothing after it:
{example}
{choice}"""
_MAY = "If no function is needed, answer in plain text."
_MUST = "Call a function now."
_MUST_THIS = "Call the function {name} now."
_ONE = " Call one function at a time."


def rules(use: ToolUse, frame: Frame) -> str:
    """What a model is told of its tools."""
    functions = [tool["function"] for tool in use.tools]
    lines = [
        json.dumps(
            {"name": one["name"], "description": one.get("description") or "", "arguments": one["parameters"]},
            ensure_ascii=False,
        )
        for one in functions
    ]
    choice = _MAY
    if use.named or use.choice not in ("auto", "required"):
        choice = _MUST_THIS.format(name=use.choice)
    elif use.choice == "required":
        choice = _MUST
    example = frame.write([("NAME", '{"ARGUMENT": VALUE}')])
    return _RULES.format(tools="\n".join(lines), example=example, choice=choice + ("" if use.parallel else _ONE))


def with_rules(messages: Sequence[Message], text: str, *, knows_system: bool) -> list[Message]:
    """The text at the end of the system message, or before the first one of the user where there may be none."""
    role = "system" if knows_system else "user"
    if messages and messages[0].get("role") == role:
        said = text_of(messages[0].get("content"))
        whole = f"{said}\n\n{text}" if knows_system else f"{text}\n\n{said}"
        return [{**messages[0], "content": whole.strip()}, *messages[1:]]
    return [{"role": role, "content": text}, *messages]


def spoken(messages: Sequence[Message], frame: Frame) -> list[Message]:
    """Calls and results as text; the results that follow one another are one message of the user."""
    told: list[Message] = []
    results = False  # the last message is one of results
    for message in messages:
        if message.get("role") == "tool":
            said = f"<tool_response>\n{text_of(message.get('content'))}\n</tool_response>"
            if results:
                told[-1] = {**told[-1], "content": f"{told[-1]['content']}\n{said}"}
            else:
                told.append({"role": "user", "content": said})
            results = True
            continue
        if results and message.get("role") == "user":
            told[-1] = {**told[-1], "content": f"{told[-1]['content']}\n{text_of(message.get('content'))}"}
        else:
            told.append(calls_as_text(message, frame))
        results = False
    return told


def calls_as_text(message: Message, frame: Frame) -> Message:
    """A message whose calls are a part of its text, as its model would have written them."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    written = frame.write([(one["function"]["name"], one["function"].get("arguments") or "{}") for one in calls])
    text = text_of(message.get("content"))
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**rest, "content": f"{text}\n{written}" if text else written}


def text_of(content: Any) -> str:
    """A message's content as one text."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") if isinstance(part, Mapping) else str(part) for part in content or ())
