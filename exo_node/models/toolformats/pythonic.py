"""`[name(key=value, ...), ...]`: calls as Python writes them, with literals as values (Llama 3.2, Llama 4)."""

from __future__ import annotations

import ast
import json
import re

from exo_node.models.toolformats.reader import CallParser
from exo_node.models.toolformats.scanner import NotACall, Wait

_NAME = re.compile(r"[A-Za-z_][\w.-]*")
_JSON_WORDS = {"true": True, "false": False, "null": None}
_SPAN = 200  # characters of a name


class PythonicParser(CallParser):
    """What reads a list of calls; a family says where one may stand."""

    def call_list(self) -> Wait[None]:
        """The list, from its bracket on. Arguments come one by one, each when it is complete."""
        yield from self.literal("[")
        while True:
            yield from self.space()
            yield from self._call()
            if self.done:
                return
            yield from self.space()
            if not (yield from self.take(",")):
                yield from self.closing("]")
                return

    def _call(self) -> Wait[None]:
        name = (yield from self.until("(", limit=_SPAN)).strip()
        if not _NAME.fullmatch(name):
            raise NotACall
        yield from self.space()
        if (yield from self.peek()) != ")":  # a keyword must follow: else it is a list of something
            yield from self._ahead()
        self.announce(name)
        text = "{"
        while not (yield from self.take(")")):
            key = (yield from self.until("=", limit=_SPAN)).strip()
            if not key.isidentifier():
                raise NotACall
            value = yield from self._value()
            self.argue(f"{text}{json.dumps(key, ensure_ascii=False)}: {value}")
            text = ", "
            yield from self.space()
            if (yield from self.peek()) != ")":
                yield from self.literal(",")
                yield from self.space()
        self.argue("{}" if text == "{" else "}")
        self.close()

    def _ahead(self) -> Wait[None]:
        at = self._at
        key = (yield from self.until("=", limit=_SPAN)).strip()
        if not key.isidentifier():
            raise NotACall
        self._at = at

    def _value(self) -> Wait[str]:
        """A Python literal (or a JSON one), as JSON."""
        start, depth = self._at, 0
        while True:
            one = yield from self.peek()
            if one in "\"'":
                yield from self._quoted()
                continue
            if depth == 0 and one in ",)":
                break
            depth += (one in "([{") - (one in ")]}")
            if depth < 0:
                raise NotACall
            self._at += 1
        return _as_json(self._buffer[start - self._base : self._at - self._base].strip())

    def _quoted(self) -> Wait[None]:
        quote = yield from self.char()
        while (one := (yield from self.char())) != quote:
            if one == "\\":
                yield from self.char()


def _as_json(text: str) -> str:
    try:
        value = _JSON_WORDS[text] if text in _JSON_WORDS else ast.literal_eval(text)
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    try:
        return json.dumps(json.loads(text), ensure_ascii=False)
    except ValueError as error:
        raise NotACall from error
