"""What a dialect is made of: the contract between its two pure halves and the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from exo_node.errors import ExoError
from exo_node.routing.call import Call


class Encoder(Protocol):
    """One answer in a dialect's form; made anew for each request. Pure: clocks and ids are given to it.

    Events are OpenAI's `chat.completion.chunk` objects, as the ring, pass-through and the sidecar make them: `delta`
    has `role`, `content`, `reasoning_content` and `tool_calls` (pieces by `index`), any of them absent or null. A chunk
    with `usage` and no choices comes last, since `Decoded.body` asks for it.
    """

    def whole(self, answer: Mapping[str, Any]) -> Any:
        """A `chat.completion` object -> the dialect's JSON answer. Raises `ExoError` where it cannot be said in it."""
        ...

    def feed(self, event: Mapping[str, Any]) -> bytes:
        """The frames of one event, b"" where it gives none."""
        ...

    def end(self) -> bytes:
        """The frames that close a complete answer; called once, after the last event."""
        ...

    def fail(self, error: ExoError) -> bytes:
        """The last frame of an answer that broke off after its beginning."""
        ...


@dataclass(frozen=True, slots=True)
class Decoded:
    """A request of a dialect's as a chat in OpenAI's shape, `stream` and `stream_options.include_usage` in it.

    `asked`, where there is one, hears of the call before it is served. `headers` go with the adapter's.
    """

    body: dict[str, Any]
    encoder: Encoder
    asked: Callable[[Call], None] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wire:
    """How a dialect's streams look: `Content-Type`, and what goes into a long silence (b"": nothing does)."""

    content_type: str = "text/event-stream; charset=utf-8"
    keep_alive: bytes = b": keep-alive\n\n"


def text_of(content: Any) -> str:
    """What an answer says: a string, or parts of which some are text (Mistral's, with its thoughts)."""
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if isinstance(part, Mapping))
    return content or ""


def arguments_of(function: Mapping[str, Any]) -> str:
    """A tool call's arguments, or the piece of them that came, as text: some servers (TGI) send the object itself."""
    said = function.get("arguments")
    return said if isinstance(said, str) else "" if said is None else orjson.dumps(said).decode()
