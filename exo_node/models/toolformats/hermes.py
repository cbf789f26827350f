"""`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Hermes, Qwen 2.5 and 3, and whatever was told to.

Also Qwen3-Coder's XML in the same tags: `<function=NAME><parameter=KEY>VALUE</parameter></function>`, where a value is
plain text unless the schema wants something else than a string. A grammar binds the JSON form for both: what XML holds
cannot be checked against a schema as it comes.
Formats: https://huggingface.co/Qwen/Qwen3-8B and Qwen/Qwen3-Coder-30B-A3B-Instruct (chat templates).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from exo_node.models.toolformats.base import Frame, ToolFormat
from exo_node.models.toolformats.reader import CallParser
from exo_node.models.toolformats.scanner import Wait

OPEN, CLOSE = "<tool_call>", "</tool_call>"
XML = "<function="  # Qwen3-Coder
_NAME_LIMIT = 256


class HermesParser(CallParser):
    openers = (OPEN, XML)

    def section(self, opener: str) -> Wait[None]:
        if opener == XML:  # Qwen3-Coder leaves the outer tag out at times
            yield from self._function()
        else:
            yield from self.space()
            if (yield from self.take(XML)):
                yield from self._function()
            else:
                yield from self.call_object()
        if not self.done:
            yield from self.closing(CLOSE)

    def _function(self) -> Wait[None]:
        name = (yield from self.until(">", limit=_NAME_LIMIT)).strip()
        schema = self.schemas.get(name, {})
        self.announce(name)
        text = "{"
        while True:
            yield from self.space()
            if not (yield from self.take("<parameter=")):
                yield from self.literal("</function>")
                break
            key = (yield from self.until(">", limit=_NAME_LIMIT)).strip()
            raw = yield from self.until("</parameter>")
            said = json.dumps(key, ensure_ascii=False) + ": " + typed(_bare(raw), schema, key)
            self.argue(text + said)
            text = ", "
        self.argue("{}" if text == "{" else "}")
        self.close()


def typed(raw: str, schema: Mapping[str, Any], key: str) -> str:
    """A value written without quotes, as JSON: what the schema allows beside strings is tried first."""
    properties = schema.get("properties")
    wanted = properties.get(key) if isinstance(properties, Mapping) else None
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    if kind == "string":
        return json.dumps(raw, ensure_ascii=False)
    try:
        value = json.loads(raw, parse_constant=_refuse)
    except ValueError:
        value = {"True": True, "False": False, "None": None}.get(raw.strip(), raw)
    return json.dumps(value, ensure_ascii=False)


def _bare(raw: str) -> str:
    """Without the line breaks that belong to the tags."""
    return raw.removeprefix("\n").removesuffix("\n")


def _refuse(word: str) -> Any:
    raise ValueError(word)


def _before(name: str) -> str:
    return f'{OPEN}\n{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": '


FRAME = Frame(before=_before, after=f"}}\n{CLOSE}", separator="\n")
MARKERS = (OPEN, CLOSE, "<function", "</function>", "<parameter", "</parameter>")
HERMES = ToolFormat(name="hermes", frame=FRAME, parser=HermesParser, markers=MARKERS, mark=OPEN, other_marks=(XML,))
