"""Chat templates in the Jinja environment that they are written for (transformers' `apply_chat_template`).

A template is code that came with a model: it runs in Jinja's immutable sandbox, sees plain data only, and its output
and time are bounded. jinja2 is imported when the first template is compiled.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exo_node.errors import CheckpointError, InvalidRequest
from exo_node.models.chat_format import ChatFormat
from exo_node.models.headers import read_json
from exo_node.types import ToolUse

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

_RENDER_SECONDS = 5.0  # a real template takes milliseconds
_GROWTH, _FLOOR = 8, 1 << 20  # characters out per character in, plus a floor for long built-in system prompts
_FILE_LIMIT = 4 << 20  # bytes; the longest known templates are about 20 KB
_CONTENT_NAMES = ("content",)


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
        value = {one.get("name"): one.get("template") for one in value if isinstance(one, Mapping)}
    if isinstance(value, Mapping) and isinstance(value.get("default"), str):
        return str(next(value[name] for name in (*names, "default") if isinstance(value.get(name), str)))
    raise CheckpointError(f"{where}: field 'chat_template' is neither a text nor named templates with a 'default'")


class ChatTemplate:
    """One compiled template. `special_tokens` (bos_token, eos_token, ...) are visible to it by name."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        import jinja2

        self._special_tokens = dict(special_tokens)
        environment = _environment()
        try:
            self._template = environment.from_string(source)
            self.takes_parts = _walks_content(environment, source)
            self.format = ChatFormat(source, _variables(environment, source))
        except (jinja2.TemplateError, RecursionError) as error:
            raise CheckpointError(f"the model's chat template does not compile ({_line(error)})") from error

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
        import jinja2

        limit = _FLOOR + _GROWTH * len(json.dumps([plain, tools]))
        deadline = time.monotonic() + _RENDER_SECONDS
        pieces: list[str] = []
        size = 0
        try:
            for piece in self._template.generate(
                **{
                    **self._special_tokens,
                    **options,
                    "messages": plain,
                    "tools": tools,
                    "documents": None,
                    "add_generation_prompt": add_generation_prompt,
                }
            ):
                pieces.append(piece)
                size += len(piece)
                if size > limit or time.monotonic() > deadline:
                    raise InvalidRequest("the model's chat template does not come to an end; use /v1/completions")
        except jinja2.TemplateError as error:
            raise InvalidRequest(
                f"the model's chat template refused the messages: {_line(error)}", param="messages"
            ) from error
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            raise InvalidRequest(
                f"the model's chat template cannot render these messages: {_line(error)}", param="messages"
            ) from error
        return "".join(pieces)

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


def _environment() -> ImmutableSandboxedEnvironment:
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """`{% generation %} ... {% endgeneration %}` marks the assistant's part for training; here it only passes."""

        tags = {"generation"}  # noqa: RUF012 - jinja2's own declaration

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    class PlainNamespace(Namespace):
        """A namespace whose attributes cannot reach the interpreter's own."""

        def __setitem__(self, name: str, value: Any) -> None:
            if name.startswith("_"):
                raise jinja2.exceptions.SecurityError(f"attribute {name!r} may not be set on a namespace")
            super().__setitem__(name, value)

    def make_namespace(*args: Any, **kwargs: Any) -> PlainNamespace:
        given = dict(*args, **kwargs)
        if any(str(name).startswith("_") for name in given):
            raise jinja2.exceptions.SecurityError("a namespace may not hold names that start with '_'")
        return PlainNamespace(given)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        # Jinja's own filter escapes HTML; templates are written for plain JSON.
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def strftime_now(layout: str) -> str:
        return datetime.now().strftime(layout)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    environment.globals["namespace"] = make_namespace
    return environment


def _variables(environment: ImmutableSandboxedEnvironment, source: str) -> frozenset[str]:
    """Names that the template reads and does not set itself."""
    from jinja2 import meta

    return frozenset(meta.find_undeclared_variables(environment.parse(source)))


def _walks_content(environment: ImmutableSandboxedEnvironment, source: str) -> bool:
    """Whether the template loops over a message's content, that is, takes a list of parts."""
    from jinja2 import nodes

    for loop in environment.parse(source).find_all(nodes.For):
        target = loop.iter
        if isinstance(target, nodes.Getattr) and target.attr in _CONTENT_NAMES:
            return True
        if (
            isinstance(target, nodes.Getitem)
            and isinstance(target.arg, nodes.Const)
            and target.arg.value in _CONTENT_NAMES
        ):
            return True
        if isinstance(target, nodes.Name) and target.name in _CONTENT_NAMES:
            return True
    return False


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
