"""Server-sent events of an OpenAI-shaped stream, read as they come (WHATWG HTML 9.2, "Server-sent events").

Pure: bytes in, batches out. Lines end with LF or CRLF (a lone CR, which the standard also allows, no provider sends).
"""

from __future__ import annotations

from typing import Any

import orjson

from exo_node.routing.call import Batch, UpstreamError
from exo_node.routing.upstream.sse_like import Later, Like
from exo_node.routing.upstream.wire_errors import error_from_event

MIXED = 2000  # bytes that came together, from which on it pays to look for events that are alike
TRIES = 4  # events in a row that are studied in vain before a stream's events count as all different
BOM = b"\xef\xbb\xbf"  # may stand before the first event
DONE = b"data: [DONE]\n\n"
MAX_EVENT = 16 * 1024 * 1024  # bytes; an image in base64 fits, a server that never ends an event does not


class SSEReader:
    """Cuts one stream into batches, one for each network read.

    `done` after `[DONE]`, whatever follows is dropped. `failure` is what ends the stream when the batch just returned
    (or nothing) has been used: the events before a broken one still count.
    """

    __slots__ = ("_backend", "_held", "_like", "_pieces", "_secrets", "_tries", "_trusted", "done", "failure")

    def __init__(self, backend: str, secrets: tuple[str, ...] = (), *, trusted: bool = False) -> None:
        """`trusted`: our own sidecar, whose errors name their cause."""
        self._backend = backend
        self._secrets = secrets
        self._trusted = trusted
        self._pieces: list[bytes] = []  # of an event that is not complete
        self._held = 0  # bytes in them
        self._like: Like | None = None
        self._tries = TRIES
        self.done = False
        self.failure: UpstreamError | None = None

    @property
    def over(self) -> bool:
        """Nothing more is taken: `[DONE]` came, or the stream failed."""
        return self.done or self.failure is not None

    def feed(self, data: bytes) -> Batch | None:
        """The events that `data` completes; None when there are none."""
        if self.done or self.failure is not None:
            return None
        like = self._like
        if like is not None and not self._pieces and data.startswith(like.before) and data.endswith(like.after):
            texts = like.texts(data)
            if texts is not None:
                self._tries = TRIES
                return Batch(data, Later(data), (), texts)
        if not self._pieces and data[-2:] == b"\n\n" and data[:7] == b"data: {" and b"\r" not in data:
            # Most reads of most streams: whole events and nothing else.
            if data.find(b"\n") == len(data) - 2:
                return self._one(data)
            return self._many(data)
        if self._pieces or b"\n" not in data:
            self._pieces.append(data)
            self._held += len(data)
            if b"\n" not in data:
                self._bound()
                return None
            data = b"".join(self._pieces)
            self._pieces.clear()
        tail = b""
        if b"\r" in data:
            if data.endswith(b"\r"):  # its LF is still under way
                data, tail = data[:-1], b"\r"
            data = data.replace(b"\r\n", b"\n")
        end = data.rfind(b"\n\n") + 2
        rest = data[end:] + tail if end > 1 else data + tail
        if rest:
            self._pieces.append(rest)
        self._held = len(rest)
        batch = self._batch(data[:end] if rest else data) if end > 1 else None
        if self.failure is None and not self.done:
            self._bound()
        return batch

    def end(self) -> Batch | None:
        """The stream was closed. An event that only lacks its blank line counts; half an event is a failure."""
        rest = b"".join(self._pieces).replace(b"\r\n", b"\n").strip(b"\r\n")
        self._pieces.clear()
        if self.done or self.failure is not None or not rest:
            return None
        batch = self._batch(rest + b"\n\n")
        if self.failure is not None and self.failure.cause == "malformed":
            self.failure = UpstreamError(f"{self._backend}: the stream ended in the middle of an event", "eof")
        return batch

    def _bound(self) -> None:
        if self._held > MAX_EVENT:
            self._pieces.clear()
            self._fail(f"an event of more than {MAX_EVENT} bytes")

    def _one(self, frame: bytes) -> Batch | None:
        """`_batch` for one event of one line."""
        try:
            event = orjson.loads(frame[6:])
        except orjson.JSONDecodeError:
            self._fail("an event that is not JSON")
            return None
        if self._is_error(event):
            return None
        self._learn(frame[:-2], event)
        return Batch(frame, (event,))

    def _many(self, whole: bytes) -> Batch | None:
        """`_batch` for events of one line each; whatever is odd about them is left to it."""
        if len(whole) > MIXED and (mixed := self._mixed(whole)) is not None:
            return mixed
        blocks = whole[6:-2].split(b"\n\ndata: ")
        if whole.count(b"\n") != 2 * len(blocks):
            return self._batch(whole)
        ends = blocks[-1] == b"[DONE]"
        if ends:
            del blocks[-1]
        try:
            events: list[Any] = list(map(orjson.loads, blocks))
        except orjson.JSONDecodeError:
            return self._batch(whole)
        for event in events:
            if type(event) is not dict or "error" in event or event.get("object") == "error":
                return self._batch(whole)
        self.done = ends
        self._learn(b"data: " + blocks[-1], events[-1])
        return Batch(whole[: -len(DONE)] if ends else whole, events)

    def _mixed(self, whole: bytes) -> Batch | None:
        """`_many` where most are alike: up to three others before them, any number after them. None: it is not so."""
        like, start = self._like, 0
        first: list[dict[str, Any]] = []
        while like is None or not whole.startswith(like.before, start):
            end = whole.find(b"\n\n", start)
            if len(first) == 3 or end < 0 or not whole.startswith(b"data: {", start):
                return None
            block = whole[start:end]
            try:
                event = orjson.loads(block[6:])
            except orjson.JSONDecodeError:
                return None
            if type(event) is not dict or "error" in event or event.get("object") == "error" or event.get("usage"):
                return None
            first.append(event)
            start = end + 2
            like = Like.of(block, event) or like
        cut = whole.rfind(like.after, start) + len(like.after)
        texts = like.texts(whole[start:cut])
        if texts is None:
            return None
        self._like = like
        rest = self._batch(whole[cut:]) if cut < len(whole) else None
        raw = whole if rest is None and cut == len(whole) else whole[:cut] + (b"" if rest is None else rest.raw)
        return Batch(raw, Later(raw), (), texts, first, () if rest is None else rest.events, cut)

    def _learn(self, frame: bytes, event: dict[str, Any]) -> None:
        """Know the next events by this one."""
        if self._tries > 0:
            self._tries -= 1
            self._like = Like.of(frame, event) or self._like

    def _is_error(self, event: dict[str, Any]) -> bool:
        if event.get("error") or event.get("object") == "error":  # the latter: vLLM before 0.10
            self.failure = error_from_event(self._backend, event, self._secrets, trusted=self._trusted)
            return True
        return False

    def _batch(self, whole: bytes) -> Batch | None:
        """Parse complete events; `whole` ends with a blank line and has LF lines."""
        events: list[dict[str, Any]] = []
        kept: list[bytes] = []
        changed = False
        for block in whole[:-2].split(b"\n\n"):
            if block.startswith(b"data: ") and b"\n" not in block:  # as all providers send them
                data = block[6:]
            else:
                data = _data_of(block)
                changed = True
                if not data:
                    continue
                block = b"data: " + data  # many clients, and what else reads these bytes here, know this form only
            if data[:1] == b"[" and data.strip() == b"[DONE]":
                self.done = changed = True
                self._pieces.clear()
                break
            try:
                event = orjson.loads(data)
            except orjson.JSONDecodeError:
                self._fail("an event that is not JSON")
                break
            if not isinstance(event, dict):
                self._fail("an event that is no JSON object")
                break
            if self._is_error(event):
                break
            events.append(event)
            kept.append(block)
        if not events:
            return None
        if changed or self.failure is not None:
            kept.append(b"")
            whole = b"\n\n".join(kept)
        return Batch(whole, events)

    def _fail(self, what: str) -> None:
        self.failure = UpstreamError(f"{self._backend}: it sent {what}", "malformed")


def _data_of(block: bytes) -> bytes:
    """The event's data on one line (JSON has no line ends but between its words); other fields mean nothing here."""
    lines = block.removeprefix(BOM).split(b"\n")
    return b" ".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))
