"""What a stand-in is told to do with a request, and what it writes down of one."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """Behaviour of one answer. The `*_after` count pieces of text already sent; times are seconds.

    A plain answer takes `first_s` plus `gap_s` for each piece; its `stall_after`, `reset_after`, `eof_after`,
    `cut_after` and `malformed_after` happen in place of the body whatever their number.
    """

    text: str | None = None  # None: deterministic, from the request (answers.answer_to)
    chunks: int | None = None  # answer with this many words
    first_s: float = 0.0  # to the first piece
    gap_s: float = 0.0  # between pieces
    status: int | None = None  # answer with this error status
    message: str = ""  # of the error
    code: str = ""  # of the error, in the provider's own field
    body: bytes | None = None  # the error's body as it stands (an HTML page, say)
    retry_after: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    stall_after: int | None = None  # silence until the client leaves; -1: before the headers
    reset_after: int | None = None  # TCP reset; -1: before the headers
    eof_after: int | None = None  # the stream ends cleanly, without finish and [DONE]
    cut_after: int | None = None  # the stream ends cleanly in the middle of an event
    malformed_after: int | None = None  # an event that is no JSON
    error_after: int | None = None  # an error event, in the provider's shape
    usage: bool = True  # False: never reported
    done: bool = True  # False: no `[DONE]` at the end
    finish: str | None = None  # OpenAI's finish_reason to end with ("length", "content_filter")
    tool_calls: tuple[tuple[str, dict[str, Any]], ...] | None = None  # None: by the request; (): never
    logprob: float = -0.1  # of every token, where log-probabilities are asked for
    join: int = 1  # this many events in one write
    escaped: bool = True  # False: a stream's text is UTF-8 as it stands, not \\uXXXX (most providers)


@dataclass(slots=True)
class Received:
    """A request as it came. `outcome`: "" while it runs, "answered", "disconnected" (the client left), "broken"."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]  # keys in lower case
    raw: bytes
    body: dict[str, Any] = field(default_factory=dict)  # {} where it is no JSON object; form fields of a multipart
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # field -> (filename, data)
    model: str = ""
    outcome: str = ""
    ended: threading.Event = field(default_factory=threading.Event)
