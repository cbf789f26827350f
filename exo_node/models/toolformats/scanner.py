"""Reading text as it comes, with generators: one reads as if all of it were there, and waits where it is not yet."""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from typing import Any, TypeVar

T = TypeVar("T")
Wait = Generator[None, None, T]  # a reading that gives a T in the end

SPACE = " \t\r\n"
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')  # inside a JSON string
_SCALAR = re.compile(r"[-+.0-9a-zA-Z]*")
_DEPTH = 256  # of nested arrays and objects: more is no sensible argument


class NotACall(Exception):
    """The text is not what it looked like."""


class Scanner:
    """The text so far and a place in it. Positions count characters of the whole text, what is before
    `_base` is forgotten."""

    def __init__(self) -> None:
        self._buffer, self._base = "", 0
        self._at = 0
        self._ended = False

    def pause(self) -> None:
        """Called before more text is waited for."""

    @property
    def _end(self) -> int:
        return self._base + len(self._buffer)

    def wait(self) -> Wait[None]:
        """More text, or `NotACall` where there is none."""
        self.pause()
        if self._ended:
            raise NotACall
        yield

    def peek(self) -> Wait[str]:
        while self._at >= self._end:
            yield from self.wait()
        return self._buffer[self._at - self._base]

    def char(self) -> Wait[str]:
        one = yield from self.peek()
        self._at += 1
        return one

    def space(self) -> Wait[None]:
        """White space, if any; the end of the answer is not waited for in vain."""
        while True:
            index = self._at - self._base
            while index < len(self._buffer) and self._buffer[index] in SPACE:
                index += 1
            self._at = self._base + index
            if index < len(self._buffer) or self._ended:
                return
            yield from self.wait()

    def sees(self, *literals: str) -> Wait[str]:
        """Which of the literals comes next; "" for none. Nothing is consumed."""
        while True:
            index = self._at - self._base
            open_ones = False
            for literal in literals:
                if self._buffer.startswith(literal, index):
                    return literal
                ahead = self._buffer[index : index + len(literal)]
                open_ones = open_ones or (len(ahead) < len(literal) and literal.startswith(ahead))
            if not open_ones or self._ended:
                return ""
            yield from self.wait()

    def take(self, *literals: str) -> Wait[str]:
        """Consume one of the literals, if one comes; "" if none does."""
        found = yield from self.sees(*literals)
        self._at += len(found)
        return found

    def literal(self, *literals: str) -> Wait[str]:
        found = yield from self.take(*literals)
        if not found:
            raise NotACall
        return found

    def until(self, *ends: str, limit: int | None = None) -> Wait[str]:
        """The text up to the first of `ends`, which is consumed. Raises `NotACall` beyond `limit` characters."""
        start = looked = self._at
        longest = max(map(len, ends))
        while True:
            found = [(i, len(end)) for end in ends if (i := self._buffer.find(end, looked - self._base)) >= 0]
            if found:
                index, length = min(found)
                text = self._buffer[start - self._base : index]
                self._at = self._base + index + length
                return text
            if limit is not None and self._end - start > limit + longest:
                raise NotACall
            looked = max(start, self._end - longest + 1)
            self._at = self._end
            yield from self.wait()

    def json_string(self) -> Wait[str]:
        """A JSON string, decoded."""
        start = self._at
        if (yield from self.char()) != '"':
            raise NotACall
        yield from self._string()
        return str(json.loads(self._buffer[start - self._base : self._at - self._base]))

    def _string(self) -> Wait[None]:
        """The rest of a string whose quote was read."""
        while True:
            found = _PLAIN.match(self._buffer, self._at - self._base)
            assert found is not None
            self._at = self._base + found.end()
            if self._at >= self._end:
                yield from self.wait()
                continue
            one = yield from self.char()
            if one == '"':
                return
            if one != "\\":
                raise self._wrong()
            escaped = yield from self.char()
            if escaped == "u":
                for _ in range(4):
                    if (yield from self.char()) not in "0123456789abcdefABCDEF":
                        raise self._wrong()
            elif escaped not in '"\\/bfnrt':
                raise self._wrong()

    def _scalar(self) -> Wait[None]:
        start = self._at
        while True:
            found = _SCALAR.match(self._buffer, self._at - self._base)
            assert found is not None
            self._at = self._base + found.end()
            if self._at < self._end or self._ended:
                break
            at, self._at = self._at, start
            self.pause()  # what is before it; its own characters only when all of it is known to be right
            self._at = at
            yield
        try:
            json.loads(self._buffer[start - self._base : self._at - self._base], parse_constant=_refuse)
        except ValueError as error:
            self._at = start
            raise NotACall from error

    def _wrong(self) -> NotACall:
        """The character just read should not be there: it is not consumed."""
        self._at -= 1
        return NotACall()

    def value(self) -> Wait[str]:
        """A JSON value, checked as it passes; its text."""
        start = self._at
        closers: list[str] = []
        while True:
            yield from self.space()
            one = yield from self.peek()
            if one == '"':
                self._at += 1
                yield from self._string()
            elif one in "{[":
                self._at += 1
                closers.append("}" if one == "{" else "]")
                if len(closers) > _DEPTH:
                    raise NotACall
                yield from self.space()
                if (yield from self.peek()) != closers[-1]:
                    yield from self._key(closers[-1])
                    continue
                self._at += 1
                closers.pop()
            else:
                yield from self._scalar()
            while closers:
                yield from self.space()
                one = yield from self.char()
                if one == closers[-1]:
                    closers.pop()
                elif one == ",":
                    yield from self._key(closers[-1])
                    break
                else:
                    raise self._wrong()
            else:
                return self._buffer[max(start, self._base) - self._base : self._at - self._base]

    def _key(self, closer: str) -> Wait[None]:
        if closer == "}":
            yield from self.space()
            if (yield from self.char()) != '"':
                raise self._wrong()
            yield from self._string()
            yield from self.space()
            if (yield from self.char()) != ":":
                raise self._wrong()


def _refuse(word: str) -> Any:
    raise ValueError(word)
