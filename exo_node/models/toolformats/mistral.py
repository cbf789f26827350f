"""Mistral: `[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]`, and since Small 3.2 and Devstral
`[TOOL_CALLS]name[ARGS]{...}` for each call, some with `[CALL_ID]...` after the name.
Format: https://github.com/mistralai/mistral-common (tokenizers v3 to v13).
"""

from __future__ import annotations

import json

from exo_node.models.toolformats.base import Frame, ToolFormat
from exo_node.models.toolformats.reader import CallParser
from exo_node.models.toolformats.scanner import NotACall, Wait

CALLS, ARGS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_NAME_LIMIT = 256


class MistralParser(CallParser):
    openers = (CALLS,)

    def section(self, opener: str) -> Wait[None]:
        yield from self.space()
        first = yield from self.peek()
        if first == "[":
            self._at += 1
            yield from self.objects("]")
        elif first == "{":
            yield from self.call_object()
        else:
            yield from self._named()

    def _named(self) -> Wait[None]:
        start = self._at
        while (one := (yield from self.peek())) not in "{[":
            self._at += 1
            if self._at - start > _NAME_LIMIT:
                raise NotACall
        name = self._buffer[start - self._base : self._at - self._base].strip()
        if one == "[" and (yield from self.literal(CALL_ID, ARGS)) == CALL_ID:
            yield from self.until(ARGS, limit=_NAME_LIMIT)
        yield from self.space()
        if (yield from self.peek()) != "{":
            raise NotACall
        self.announce(name)
        yield from self.arguments()


def _in_list(name: str) -> str:
    return f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": '


def _named(name: str) -> str:
    return f"{CALLS}{name}{ARGS}"


MARKERS = (CALLS, ARGS, CALL_ID)
MISTRAL_LIST = ToolFormat(
    name="mistral",
    frame=Frame(begin=f"{CALLS}[", before=_in_list, after="}", separator=", ", end="]"),
    parser=MistralParser,
    markers=MARKERS,
    mark=CALLS,
)
MISTRAL_NAMED = ToolFormat(
    name="mistral-named", frame=Frame(before=_named), parser=MistralParser, markers=MARKERS, mark=CALLS
)
