"""Chat templates in the Jinja environment that they are written for (transformers' `apply_chat_template`).

A template is code that came with a model: it runs in Jinja's immutable sandbox, in a process of its own
(template_sandbox.py), sees plain data only, and its output, time and memory are bounded.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from exo_node.errors import CheckpointError, InvalidRequest
from exo_node.models.chat_format import ChatFormat
from exo_node.models.headers import read_json
from exo_node.models.template_sandbox import TemplateSandbox
from exo_node.types import ToolUse

_GROWTH, _FLOOR = 8, 1 << 20  # characters out per character in, plus a floor for long built-in system prompts
_FILE_LIMIT = 4 << 20  # bytes; the longest known templates are about 20 KB


def read_template(folder: Path, tokenizer_config: Mapping[str, Any], names: Sequence[str] = ("default",)) -> str | None:
    """The model's chat template, or None.

    `chat_template.jinja` wins, then `tokenizer_config.json` (a string, or named templates of which the first of `names`
    is taken), then `chat_template.json` (where processors of wrapped models kept it).
    """
    file = folder / "chat_template.jinja"
    if file.is_file():
        if file.stat().st_size > _FILE_LIMIT:
            raise CheckpointError(f"{file}: larger than {_FILE_LIMIT} bytes, not a plausible chat template")
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} cannot be read ({error}); fetch the model again") from error
    where = folder / "tokenizer_config.json"
    value = tokenizer_config.get("chat_template")
    if value is None and (folder / "chat_template.json").is_file():
        where = folder / "chat_template.json"
        value = read_json(where).get("chat_template")
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        value = {str(one.get("name")): one.get("template") for one in value if isinstance(one, Mapping)}
    if isinstance(value, Mapping) and isinstance(value.get("default"), str):
        return str(next(value[name] for name in (*names, "default") if isinstance(value.get(name), str)))
    raise CheckpointError(f"{where}: field 'chat_template' is neither a text nor named templates with a 'default'")


class ChatTemplate:
    """One template. `special_tokens` (bos_token, eos_token, ...) are visible to it by name. Blocking, as making it is:
    `sandbox` runs it (one of its own where none is given). Raises `CheckpointError` where it does not compile.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str], sandbox: TemplateSandbox | None = None) -> None:
        self._source = source
        self._special_tokens = dict(special_tokens)
        self._sandbox = sandbox or TemplateSandbox()
        facts = self._sandbox.facts(source)
        self.takes_parts = facts.takes_parts
        self.format = ChatFormat(source, facts.variables)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        use: ToolUse | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt text of `messages`, with the tools that may be used; `options` are variables of the template.

        Text parts become one string unless the template itself walks over a list of parts. A template that knows no
        tools is told of them, and of calls and results, in words. Raises `InvalidRequest` for messages that the
        template refuses or cannot be rendered with, and for options that it does not know.
        """
        for i, message in enumerate(messages):
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                raise InvalidRequest(f"messages[{i}] must be an object with a 'role'", param=f"messages[{i}]")
        told, tools = self.format.told(messages, use)
        style = self._call_style if any(one.get("tool_calls") for one in told) else _PLAIN
        plain = [self._message(i, message, style) for i, message in enumerate(told)]
        if not plain:
            raise InvalidRequest("messages is empty; give at least one message", param="messages")
        return self._render(
            plain, None if tools is None else _plain(tools), add_generation_prompt, self.format.options(options or {})
        )

    @cached_property
    def _call_style(self) -> _CallStyle:
        """How the template wants an assistant's calls, found by trying: most want the arguments as an object, some put
        texts together and want OpenAI's text; some tell calls only where the content is null, others cannot take null.
        """
        call = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": {"probe_key": "v"}}}
        for style in (_PLAIN, _CallStyle(null=True), _CallStyle(text=True), _CallStyle(text=True, null=True)):
            probe: list[Mapping[str, Any]] = [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "abcdefghi", "name": "f", "content": "b"},
            ]
            try:
                text = self._render([self._message(i, one, style) for i, one in enumerate(probe)], None, True, {})
            except InvalidRequest:
                continue
            if "probe_key" in text and "{'probe_key'" not in text and "None" not in text:
                return style
        return _PLAIN

    def _render(
        self, plain: list[dict[str, Any]], tools: Any, add_generation_prompt: bool, options: Mapping[str, Any]
    ) -> str:
        given = {
            **self._special_tokens,
            **options,
            "messages": plain,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        limit = _FLOOR + _GROWTH * len(json.dumps([plain, tools]))
        return self._sandbox.render(self._source, given, limit)

    def _message(self, index: int, message: Mapping[str, Any], style: _CallStyle) -> dict[str, Any]:
        where = f"messages[{index}]"
        # Many templates print "None" for a null field where they handle a missing one.
        out = {str(key): _plain(value) for key, value in message.items() if value is not None}
        content = out.get("content")
        if isinstance(content, list):
            texts = [_text_of(f"{where}.content[{i}]", part) for i, part in enumerate(content)]
            out["content"] = [{"type": "text", "text": t} for t in texts] if self.takes_parts else "".join(texts)
        elif content is not None and not isinstance(content, str):
            raise InvalidRequest(f"{where}.content must be a text or a list of text parts", param=f"{where}.content")
        if out.get("tool_calls"):
            out["tool_calls"] = [_call(one, style) for one in out["tool_calls"]]
            if not out.get("content"):
                out["content"] = None if style.null else ""
        return out


@dataclass(frozen=True, slots=True)
class _CallStyle:
    """How calls are told to a template: arguments as `text` or as an object, an empty content as null or as ""."""

    text: bool = False
    null: bool = False


_PLAIN = _CallStyle()


def _call(call: dict[str, Any], style: _CallStyle) -> dict[str, Any]:
    function = call["function"]
    arguments = function.get("arguments")
    if style.text and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    elif not style.text and isinstance(arguments, str):
        # What is no JSON is told as it stands: a model's own broken call comes back with the error that it caused.
        with contextlib.suppress(ValueError):
            arguments = json.loads(arguments or "{}")
    return {**call, "function": {**function, "arguments": arguments}}


def _text_of(where: str, part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise InvalidRequest(f"{where}: only text parts are served, not {kind!r}", param=where)


def _plain(value: Any) -> Any:
    """Plain JSON data only: methods of richer objects could be called from inside the sandbox."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise InvalidRequest(f"messages hold a value of type {type(value).__name__}, want JSON data", param="messages")
