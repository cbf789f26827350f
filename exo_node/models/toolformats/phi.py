"""Phi-4-mini: `<|tool_call|>[{"name": ..., "arguments": {...}}]<|/tool_call|>`, at times `functools[...]`.
Format: https://huggingface.co/microsoft/Phi-4-mini-instruct (model card and chat template).
"""

from __future__ import annotations

import json

from exo_node.models.toolformats.base import Frame, ToolFormat
from exo_node.models.toolformats.reader import CallParser
from exo_node.models.toolformats.scanner import Wait

OPEN, CLOSE, FUNCTOOLS = "<|tool_call|>", "<|/tool_call|>", "functools["


class PhiParser(CallParser):
    openers = (OPEN, FUNCTOOLS)

    def section(self, opener: str) -> Wait[None]:
        if opener == FUNCTOOLS:
            yield from self.objects("]")
            return
        yield from self.space()
        if (yield from self.take("[")):
            yield from self.objects("]")
        else:
            yield from self.call_object()
        if not self.done:
            yield from self.closing(CLOSE)


def _before(name: str) -> str:
    return f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": '


PHI = ToolFormat(
    name="phi",
    frame=Frame(begin=f"{OPEN}[", before=_before, after="}", separator=", ", end=f"]{CLOSE}"),
    parser=PhiParser,
    markers=(OPEN, CLOSE),
    mark=OPEN,
    other_marks=(FUNCTOOLS,),
)
