"""Gemma: `call:NAME{key:value,...}` between marks, strings between `<escape>` (FunctionGemma) or `<|"|>` (Gemma 4).

A grammar binds the arguments as JSON in the same place, which the parser takes too: the models' own notation cannot be
checked against a schema as it comes.
Formats: https://ai.google.dev/gemma/docs/functiongemma and https://ai.google.dev/gemma/docs/core (Gemma 4).
"""

from __future__ import annotations

import json
import re

from exo_node.models.toolformats.base import Frame, ToolFormat
from exo_node.models.toolformats.reader import CallParser
from exo_node.models.toolformats.scanner import NotACall, Wait

FUNCTION_MARKS = ("<start_function_call>", "<end_function_call>", "<escape>")
GEMMA4_MARKS = ("<|tool_call>", "<tool_call|>", '<|"|>')
_CLOSE = {FUNCTION_MARKS[0]: FUNCTION_MARKS[1], GEMMA4_MARKS[0]: GEMMA4_MARKS[1]}
_QUOTES = (FUNCTION_MARKS[2], GEMMA4_MARKS[2])
_BARE = re.compile(r"[^,}\]\s]")
_LIMIT, _DEPTH = 256, 64


class GemmaParser(CallParser):
    openers = (FUNCTION_MARKS[0], GEMMA4_MARKS[0])

    def section(self, opener: str) -> Wait[None]:
        yield from self.space()
        yield from self.literal("call:")
        start = self._at
        while (yield from self.peek()) != "{":
            self._at += 1
            if self._at - start > _LIMIT:
                raise NotACall
        self.announce(self._buffer[start - self._base : self._at - self._base].strip())
        self._at += 1
        yield from self.space()
        if (yield from self.peek()) in '"':
            self._at = self._kept
            yield from self.arguments()
        else:
            yield from self._own()
        if not self.done:
            yield from self.closing(_CLOSE[opener])

    def _own(self) -> Wait[None]:
        """The models' own notation; each argument is given out when it is complete."""
        text = "{"
        while not (yield from self.take("}")):
            key = yield from self._key_word()
            value = yield from self._value(0)
            self.argue(f"{text}{key}: {value}")
            text = ", "
            yield from self.space()
            if (yield from self.peek()) != "}":
                yield from self.literal(",")
                yield from self.space()
        self.argue("{}" if text == "{" else "}")
        self.close()

    def _key_word(self) -> Wait[str]:
        quote = yield from self.take(*_QUOTES)
        if quote:
            key = yield from self.until(quote, limit=_LIMIT)
            yield from self.literal(":")
        else:
            key = (yield from self.until(":", limit=_LIMIT)).strip()
        return json.dumps(key, ensure_ascii=False)

    def _value(self, depth: int) -> Wait[str]:
        yield from self.space()
        if depth > _DEPTH:
            raise NotACall
        if (quote := (yield from self.take(*_QUOTES))) != "":
            return json.dumps((yield from self.until(quote)), ensure_ascii=False)
        opening = yield from self.take("{", "[")
        if opening:
            return (yield from self._nested(opening, depth))
        if (yield from self.peek()) == '"':
            return json.dumps((yield from self.json_string()), ensure_ascii=False)
        return (yield from self._word())

    def _nested(self, opening: str, depth: int) -> Wait[str]:
        closer = "}" if opening == "{" else "]"
        parts: list[str] = []
        yield from self.space()
        while not (yield from self.take(closer)):
            key = f"{(yield from self._key_word())}: " if opening == "{" else ""
            parts.append(key + (yield from self._value(depth + 1)))
            yield from self.space()
            if (yield from self.peek()) != closer:
                yield from self.literal(",")
                yield from self.space()
        return opening + ", ".join(parts) + closer

    def _word(self) -> Wait[str]:
        """A number, true, false, null, or a word without quotes."""
        start = self._at
        while _BARE.match((yield from self.peek())):
            self._at += 1
        word = self._buffer[start - self._base : self._at - self._base]
        if not word:
            raise NotACall
        try:
            return json.dumps(json.loads(word), allow_nan=False)
        except ValueError:
            return json.dumps(word, ensure_ascii=False)


def _format(name: str, marks: tuple[str, str, str]) -> ToolFormat:
    frame = Frame(before=lambda tool: f"{marks[0]}call:{tool}", after=marks[1])
    return ToolFormat(name=name, frame=frame, parser=GemmaParser, markers=marks)


FUNCTION_GEMMA = _format("functiongemma", FUNCTION_MARKS)
GEMMA4 = _format("gemma", GEMMA4_MARKS)
