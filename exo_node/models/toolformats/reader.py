"""Incremental parsing with generators: a parser reads as if all text were there, and waits where it is not yet.

`CallParser` has what every family needs: free text up to an opening marker, JSON values that are checked as they pass,
calls that are given out as soon as their name is certain, and the way back where text only looked like a call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from typing import Any, TypeVar

from exo_node.models.toolformats.base import Options, Parsed, longest_open_suffix
from exo_node.types import ToolCallDelta

T = TypeVar("T")
Wait = Generator[None, None, T]  # a reading that gives a T in the end

_SPACE = " \t\r\n"
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')  # inside a JSON string
_SCALAR = re.compile(r"[-+.0-9a-zA-Z]*")
_DEPTH = 256  # of nested arrays and objects: more is no sensible argument


class NotACall(Exception):
    """The text is not what it looked like."""


class CallParser:
    """See `base.Parser`. A family says its `openers` and reads what follows one in `section`.

    Positions count characters of the whole text. `_kept` is where text begins that is neither given out nor part of a
    call that was.
    """

    openers: tuple[str, ...] = ()

    def __init__(self, options: Options) -> None:
        self.calls = 0
        self.done = self.thinking = False
        self.schemas = options.schemas
        self._options = options
        self._buffer, self._base = "", 0
        self._at = self._kept = 0
        self._ended = False
        self._open = False  # a call is announced and its arguments are not complete
        self._streams = False  # what passes are arguments of the call that is open
        self._out = Parsed()
        self._given: list[ToolCallDelta] = []
        self._opening = re.compile("|".join(map(re.escape, self.openers))) if self.openers else None
        self._longest = max(map(len, self.openers), default=0)
        self._run: Generator[None, None, None] | None = self._answer()

    # -- base.Parser

    def feed(self, text: str) -> Parsed:
        if self._kept > self._base:
            self._buffer, self._base = self._buffer[self._kept - self._base :], self._kept
        self._buffer += text
        return self._step()

    def finish(self) -> Parsed:
        self._ended = True
        return self._step()

    def _step(self) -> Parsed:
        if self._run is not None:
            try:
                next(self._run)
            except StopIteration:
                self._run = None
        out, self._out = self._out, Parsed()
        if self._given:
            out.calls, self._given = tuple(self._given), []
        return out

    # -- the answer

    def _answer(self) -> Wait[None]:
        yield from self.attempt(self.start())
        while not self.done and (yield from self._to_opener()):
            opener_at = self._at
            if not (yield from self.attempt(self._opened())):
                self._at = opener_at + 1
                self.say()  # what looked like a marker is text, but the next one may be real

    def start(self) -> Wait[None]:
        """What only the beginning of an answer may be. Raises `NotACall`."""
        raise NotACall
        yield

    def section(self, opener: str) -> Wait[None]:
        """The calls after an opener. Raises `NotACall`."""
        raise NotImplementedError
        yield

    def _opened(self) -> Wait[None]:
        for opener in sorted(self.openers, key=len, reverse=True):
            if self._buffer.startswith(opener, self._at - self._base):
                self._at += len(opener)
                yield from self.section(opener)
                return

    def attempt(self, reading: Wait[None]) -> Wait[bool]:
        """Whether `reading` succeeded, or gave out a call before it failed; else it is as if nothing had been read."""
        before, calls = self._kept, self.calls
        try:
            yield from reading
        except NotACall:
            self.give_up()
            if self.calls == calls:
                assert self._kept == before
                self._at = before
                return False
            self._at = self._kept
        if self.calls > calls and not self.done:
            yield from self.space()
            self.drop()
        return True

    def give_up(self) -> None:
        """A call that was announced stays as it is: what of its arguments is valid goes out, what broke it is text. At
        the answer's end it was cut off, and what there is of its syntax says nothing."""
        if self._streams:
            self._streams = False
            self._at = self._end if self._ended else self._at
            self.argue(self._buffer[self._kept - self._base : self._at - self._base])
        if self._ended and self._open:
            self._at = self._end
            self.drop()
        self._open = False

    def _to_opener(self) -> Wait[bool]:
        """Give out text up to the next opener (white space before it waits); False at the end of the answer."""
        while True:
            index = self._at - self._base
            found = self._opening.search(self._buffer, index) if self._opening is not None else None
            if found is not None:
                self._at = self._base + self._blank_before(found.start(), index)
                self.say()
                self._at = self._base + found.start()
                return True
            if self._ended:
                self._at = self._end
                self.say()
                return False
            held = longest_open_suffix(self._buffer[max(index, len(self._buffer) - self._longest) :], self.openers)
            self._at = self._base + self._blank_before(len(self._buffer) - held, index)
            self.say()
            yield

    def _blank_before(self, index: int, lowest: int) -> int:
        """Where the white space before `index` begins."""
        while index > lowest and self._buffer[index - 1] in _SPACE:
            index -= 1
        return index

    # -- giving out

    def say(self) -> None:
        """All that was read and not given out is text."""
        self._out.text += self._buffer[self._kept - self._base : self._at - self._base]
        self._kept = self._at

    def think(self) -> None:
        """All that was read and not given out is reasoning."""
        self._out.reasoning += self._buffer[self._kept - self._base : self._at - self._base]
        self._kept = self._at

    def drop(self) -> None:
        """All that was read and not given out is syntax."""
        self._kept = self._at

    def announce(self, name: str) -> None:
        """A call begins for certain. Raises `NotACall` where no such tool is offered."""
        if name not in self.schemas:
            raise NotACall
        self._given.append(ToolCallDelta(self.calls, self._options.new_id(), name))
        self.calls += 1
        self._open = True
        self._kept = self._at

    def argue(self, text: str) -> None:
        """A piece of the announced call's arguments."""
        if text:
            self._given.append(ToolCallDelta(self.calls - 1, arguments=text))
        self._kept = self._at

    def close(self) -> None:
        """The announced call has all its arguments."""
        self._open = False
        self.done = not self._options.parallel

    # -- reading

    @property
    def _end(self) -> int:
        return self._base + len(self._buffer)

    def wait(self) -> Wait[None]:
        """More text, or `NotACall` where there is none."""
        if self._streams:
            self.argue(self._buffer[self._kept - self._base : self._at - self._base])
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
            while index < len(self._buffer) and self._buffer[index] in _SPACE:
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

    def closing(self, literal: str) -> Wait[None]:
        """Consume the literal if it comes, or as much of it as there is at the end of the answer."""
        yield from self.space()
        yield from self.take(literal)
        if self._ended and literal.startswith(self._buffer[self._at - self._base :]):
            self._at = self._end
        self.drop()

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
            yield  # its first characters are not given out before all of it is known to be right
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

    # -- calls

    def arguments(self) -> Wait[None]:
        """The announced call's arguments: a JSON object, given out as it passes."""
        yield from self.space()
        if (yield from self.peek()) != "{":
            raise NotACall
        self._kept = self._at
        self._streams = True
        yield from self.value()
        self._streams = False
        self.argue(self._buffer[self._kept - self._base : self._at - self._base])
        self.close()

    def call_object(self) -> Wait[None]:
        """`{"name": ..., "arguments": {...}}`, in any order; "parameters" is Llama's word. Other keys say nothing."""
        name: str | None = None
        held: str | None = None
        told = False
        yield from self.literal("{")
        while True:
            yield from self.space()
            key = yield from self.json_string()
            yield from self.space()
            yield from self.literal(":")
            yield from self.space()
            if key in ("arguments", "parameters") and not told:
                if name is not None and (yield from self.peek()) == "{":
                    self.announce(name)
                    yield from self.arguments()
                    told = True
                else:
                    held = _object_text((yield from self.value()))
            elif key == "name" and name is None:
                name = yield from self.json_string()
            else:
                yield from self.value()
            yield from self.space()
            after = yield from self.char()
            if name is not None and not told and (held is not None or after == "}"):
                self.announce(name)
                self.argue(held or "{}")
                self.close()
                told = True
            if after == "}" and told:
                self.drop()
                return
            if after != ",":
                raise self._wrong()

    def objects(self, closer: str, separators: str = ",") -> Wait[None]:
        """Call objects up to `closer`."""
        while True:
            yield from self.space()
            yield from self.call_object()
            if self.done:
                return
            yield from self.space()
            one = yield from self.char()
            if one == closer:
                self.drop()
                return
            if one not in separators:
                raise self._wrong()


def _object_text(text: str) -> str:
    """Arguments that are not given as they pass: an object, one in a string (as OpenAI writes them), or nothing."""
    value: Any = json.loads(text)
    if isinstance(value, str):
        text = value or "{}"
        try:
            value = json.loads(text)
        except ValueError as error:
            raise NotACall from error
    if value is None:
        return "{}"
    if not isinstance(value, dict):
        raise NotACall
    return text


def _refuse(word: str) -> Any:
    raise ValueError(word)
