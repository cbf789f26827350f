"""DeepSeek: R1 and V3 write `function<sep>NAME` and the arguments in a fenced block, V3.1 `NAME<sep>{...}`, each call
between its own marks and all between others.
Format: https://huggingface.co/deepseek-ai/DeepSeek-V3-0324 and .../DeepSeek-V3.1 (chat templates).
"""

from __future__ import annotations

from exo_node.models.toolformats.base import Frame, ToolFormat
from exo_node.models.toolformats.reader import CallParser
from exo_node.models.toolformats.scanner import NotACall, Wait

BEGIN, END = "<\uff5ctool\u2581calls\u2581begin\uff5c>", "<\uff5ctool\u2581calls\u2581end\uff5c>"
CALL, CALL_END = "<\uff5ctool\u2581call\u2581begin\uff5c>", "<\uff5ctool\u2581call\u2581end\uff5c>"
SEPARATOR = "<\uff5ctool\u2581sep\uff5c>"
_FENCE = "```json"
_NAME_LIMIT = 256


class DeepSeekParser(CallParser):
    openers = (BEGIN, CALL)  # distilled models leave the outer mark out

    def section(self, opener: str) -> Wait[None]:
        if opener == BEGIN:
            yield from self.space()
            yield from self.literal(CALL)
        while True:
            yield from self._call()
            if self.done:
                return
            yield from self.closing(CALL_END)
            yield from self.space()
            if not (yield from self.take(CALL)):
                break
        yield from self.closing(END)

    def _call(self) -> Wait[None]:
        name = (yield from self.until(SEPARATOR, limit=_NAME_LIMIT)).strip()
        if name == "function" and "function" not in self.schemas:
            name = (yield from self.until("\n", limit=_NAME_LIMIT)).strip()
            yield from self.space()
            yield from self.literal(_FENCE)
            yield from self._arguments(name)
            yield from self.closing("```")
        else:
            yield from self._arguments(name)

    def _arguments(self, name: str) -> Wait[None]:
        yield from self.space()
        if (yield from self.peek()) != "{":
            raise NotACall
        self.announce(name)
        yield from self.arguments()


def _fenced(name: str) -> str:
    return f"{CALL}function{SEPARATOR}{name}\n{_FENCE}\n"


def _plain(name: str) -> str:
    return f"{CALL}{name}{SEPARATOR}"


MARKERS = (BEGIN, END, CALL, CALL_END, SEPARATOR)
DEEPSEEK_FENCED = ToolFormat(
    name="deepseek",
    frame=Frame(begin=BEGIN, before=_fenced, after=f"\n```{CALL_END}", separator="\n", end=END),
    parser=DeepSeekParser,
    markers=MARKERS,
)
DEEPSEEK_PLAIN = ToolFormat(
    name="deepseek-v3.1",
    frame=Frame(begin=BEGIN, before=_plain, after=CALL_END, end=END),
    parser=DeepSeekParser,
    markers=MARKERS,
)
