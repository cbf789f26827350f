"""gpt-oss: messages in channels. "analysis" is reasoning, "final" the answer, "commentary" to a function is a call.

    <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...<|return|>
    <|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>

The recipient may stand before the channel. `<|return|>` and `<|call|>` end the sequence. Commentary to nobody is
told to the user: text. Format: https://cookbook.openai.com/articles/openai-harmony
"""

from __future__ import annotations

import re

from exo_node.models.toolformats.base import Frame, ToolFormat, longest_open_suffix
from exo_node.models.toolformats.reader import CallParser
from exo_node.models.toolformats.scanner import NotACall, Wait

START, CHANNEL, CONSTRAIN, MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
END, RETURN, CALL = "<|end|>", "<|return|>", "<|call|>"
_STOPS = (END, RETURN, CALL, START)
_LONGEST = max(map(len, _STOPS))
_TO = re.compile(r"to=(?:functions\.)?([^\s<]+)")
_CHANNEL = re.compile(re.escape(CHANNEL) + r"\s*(\w+)")
_HEADER_LIMIT = 512


class HarmonyParser(CallParser):
    """Reads the whole answer: what is no message in a channel is text."""

    def _answer(self) -> Wait[None]:
        while not self.done and not (self._ended and self._at == self._end):
            try:
                yield from self._message()
            except NotACall:
                self.give_up()
                if self._ended:
                    self._at = self._end
                    if not self._buffer.startswith((START, CHANNEL), self._kept - self._base):
                        self.say()
                    return
                self._at = min(self._kept + 1, self._end)
                yield from self._rest(text=True)

    def _message(self) -> Wait[None]:
        yield from self.space()
        if not (yield from self.sees(START, CHANNEL)):
            raise NotACall
        header = yield from self.until(MESSAGE, limit=_HEADER_LIMIT)
        to, channel = _TO.search(header), _CHANNEL.search(header)
        if to is not None and to[1] in self.schemas:
            self.announce(to[1])
            yield from self.arguments()
            yield from self.space()
            yield from self.take(CALL, END)
            self.drop()
            return
        self.drop()
        self.thinking = channel is not None and channel[1] == "analysis"
        yield from self._rest(text=not self.thinking)
        self.thinking = False

    def _rest(self, *, text: bool) -> Wait[None]:
        """The rest of a message, as it comes, up to its end."""
        while True:
            index = self._at - self._base
            found = min((i for stop in _STOPS if (i := self._buffer.find(stop, index)) >= 0), default=-1)
            held = (
                0
                if found >= 0 or self._ended
                else longest_open_suffix(self._buffer[max(index, len(self._buffer) - _LONGEST) :], _STOPS)
            )
            self._at = self._base + found if found >= 0 else self._end - held
            if text:
                self.say()
            else:
                self.think()
            if found >= 0:
                yield from self.take(END, RETURN, CALL)
                self.drop()
                return
            if self._ended:
                return
            yield


HARMONY = ToolFormat(
    name="harmony",
    frame=Frame(
        before=lambda tool: f"{CHANNEL}commentary to=functions.{tool} {CONSTRAIN}json{MESSAGE}",
        single=True,
    ),
    parser=HarmonyParser,
    markers=(START, CHANNEL, CONSTRAIN, MESSAGE, END),
)
