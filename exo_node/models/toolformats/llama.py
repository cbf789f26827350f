"""Llama 3: the whole answer is `{"name": ..., "parameters": {...}}`, several of them with `;` between, or (3.2, 4) a
list of Python calls. `<|python_tag|>` or `<|python_start|>` may stand before either.
Format: https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1/ and .../llama3_2/ .
"""

from __future__ import annotations

import json

from exo_node.models.toolformats.base import Frame, ToolFormat
from exo_node.models.toolformats.pythonic import PythonicParser
from exo_node.models.toolformats.scanner import NotACall, Wait

TAGS = ("<|python_tag|>", "<|python_start|>")
_END = "<|python_end|>"


class LlamaParser(PythonicParser):
    openers = TAGS

    def start(self) -> Wait[None]:
        yield from self.space()
        if not self.schemas or (yield from self.peek()) not in "{[":
            raise NotACall
        yield from self._calls()

    def section(self, opener: str) -> Wait[None]:
        yield from self.space()
        yield from self._calls()

    def _calls(self) -> Wait[None]:
        if (yield from self.peek()) == "[":
            yield from self.call_list()
        else:
            yield from self._objects()
        if not self.done:
            yield from self.closing(_END)

    def _objects(self) -> Wait[None]:
        while True:
            yield from self.call_object()
            if self.done:
                return
            yield from self.space()
            if not (yield from self.take(";", ",")) and (yield from self.sees("{")) == "":
                return
            yield from self.space()


def _before(name: str) -> str:
    return f'{{"name": {json.dumps(name, ensure_ascii=False)}, "parameters": '


LLAMA = ToolFormat(
    name="llama",
    frame=Frame(before=_before, after="}", separator="; "),
    parser=LlamaParser,
    markers=(*TAGS, _END),
)
