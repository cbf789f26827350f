"""What a family's format is made of: the frame of a call in text, the parser of an answer, what it gives."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from exo_node.types import ToolCallDelta

Schemas = Mapping[str, Mapping[str, Any]]  # tool name -> JSON schema of its arguments
_ALPHABET = string.ascii_letters + string.digits


@dataclass(slots=True)
class Parsed:
    """What became certain with a piece of text."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[ToolCallDelta, ...] = ()


class Parser(Protocol):
    """One answer. What `feed` and `finish` give, put together, does not depend on how the text was cut.

    No text is lost or given twice: what is no part of a call (or of its markers) comes out as text.
    """

    calls: int  # begun so far
    done: bool  # a call is complete, and no other one is allowed
    thinking: bool  # what comes next is reasoning

    def feed(self, text: str) -> Parsed: ...

    def finish(self) -> Parsed:
        """No more text: what was held back. A call that was begun stays as it is."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The text around calls: `begin`, then calls with `separator` between them, then `end`.

    A call is `before(name)`, the arguments as a JSON object, `after`. `single`: never more than one in an answer.
    """

    before: Callable[[str], str]
    after: str = ""
    begin: str = ""
    separator: str = ""
    end: str = ""
    single: bool = False

    def write(self, calls: list[tuple[str, str]]) -> str:
        """Calls (name, arguments as JSON) as the model would write them."""
        each = [f"{self.before(name)}{arguments}{self.after}" for name, arguments in calls]
        return f"{self.begin}{self.separator.join(each)}{self.end}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a parser needs of a request. `schemas` are the offered tools; empty: none is, and all text is text."""

    schemas: Schemas = field(default_factory=dict)
    parallel: bool = True
    new_id: Callable[[], str] = lambda: new_call_id()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """A family. `markers` are all tokens of its syntax that may be special ones, which else have no text.

    `mark`: what the calls of an answer begin with, wherever they come, and no text contains; `other_marks`: what else
    the parser takes for a beginning. Without a mark, an answer that may call is not bound: the family's calls look like
    other text, or are not in JSON.
    """

    name: str
    frame: Frame
    parser: Callable[[Options], Parser]
    markers: tuple[str, ...] = ()
    mark: str = ""
    other_marks: tuple[str, ...] = ()


def new_call_id() -> str:
    """As OpenAI makes them: "call_" and 24 letters and digits."""
    return "call_" + "".join(secrets.choice(_ALPHABET) for _ in range(24))


def longest_open_suffix(text: str, words: Sequence[str]) -> int:
    """Length of the longest suffix of `text` that is a proper prefix of one of the words.

    >>> longest_open_suffix("abc<|e", ["<|end|>"])
    3
    """
    longest = 0
    for one in words:
        for length in range(min(len(one) - 1, len(text)), longest, -1):
            if text.endswith(one[:length]):
                longest = length
                break
    return longest
