"""What every family's parser shares: free text up to an opening marker, calls that are given out as soon as their name
is certain, arguments that are checked as they pass, and the way back where text only looked like a call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from typing import Any

from exo_node.models.toolformats.base import Options, Parsed, longest_open_suffix
from exo_node.models.toolformats.scanner import SPACE, NotACall, Scanner, Wait
from exo_node.types import ToolCallDelta


class CallParser(Scanner):
    """See `base.Parser`. A family says its `openers` and reads what follows one in `section`.

    Positions count characters of the whole text. `_kept` is where text begins that is neither given out nor part of a
    call that was.
    """

    openers: tuple[str, ...] = ()

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.calls = 0
        self.done = self.thinking = False
        self.schemas = options.schemas
        self._options = options
        self._kept = 0
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
        while index > lowest and self._buffer[index - 1] in SPACE:
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

    def pause(self) -> None:
        if self._streams:
            self.argue(self._buffer[self._kept - self._base : self._at - self._base])

    def closing(self, literal: str) -> Wait[None]:
        """Consume the literal if it comes, or as much of it as there is at the end of the answer."""
        yield from self.space()
        yield from self.take(literal)
        if self._ended and literal.startswith(self._buffer[self._at - self._base :]):
            self._at = self._end
        self.drop()

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
