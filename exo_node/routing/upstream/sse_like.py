"""Events that are all alike but for a piece of text, as nearly all of a chat's stream are: known by their bytes, so
that only the text is parsed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import orjson


class Like:
    """What comes `before` the text and `after` it in each event, with the frame's own bytes."""

    __slots__ = ("_between", "after", "before")

    def __init__(self, before: bytes, after: bytes) -> None:
        self.before, self.after = before, after
        self._between = after + before

    @staticmethod
    def of(frame: bytes, event: dict[str, Any]) -> Like | None:
        """From one event and its line ("data: {...}"); None where it is more than a piece of choice 0's text."""
        choices = event.get("choices")
        if type(choices) is not list or len(choices) != 1 or event.get("usage"):
            return None
        choice = choices[0]
        if type(choice) is not dict or choice.get("index") or choice.get("finish_reason"):
            return None
        holder, name = choice.get("delta"), "content"
        if holder is None:
            holder, name = choice, "text"
        elif type(holder) is not dict or any(holder[other] for other in holder if other not in ("role", name)):
            return None
        text = holder.get(name)
        if type(text) is not str or not text:
            return None
        try:
            value = orjson.dumps(text)
        except orjson.JSONEncodeError:
            return None
        for key in (b'"%b":%b', b'"%b": %b'):
            wanted = key % (name.encode(), value)
            at = frame.find(wanted)
            if at >= 0:
                end = at + len(wanted)
                made = Like(frame[: end - len(value) + 1], frame[end - 1 :] + b"\n\n")
                return made if made._holds(event, holder, name) else None
        return None

    def texts(self, data: bytes) -> list[str] | None:
        """The texts of events that follow each other in `data`, which begins and ends as one does; None where they are
        not all of this kind, or not JSON."""
        pieces = data[len(self.before) : -len(self.after)].split(self._between)
        try:
            found: list[str] = orjson.loads(b'["' + b'","'.join(pieces) + b'"]')
        except orjson.JSONDecodeError:
            return None
        return found if len(found) == len(pieces) and "" not in found else None

    def _holds(self, event: dict[str, Any], holder: dict[str, Any], name: str) -> bool:
        """Whether it is this text that stands between, and nothing else."""
        other = orjson.loads(self.before[6:] + b"exo" + self.after)
        text, holder[name] = holder[name], "exo"
        same: bool = other == event
        holder[name] = text
        return same


class Later(Sequence[dict[str, Any]]):
    """Events of whole frames of one line each, parsed when somebody looks."""

    __slots__ = ("_events", "_raw")

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._events: list[dict[str, Any]] | None = None

    def _all(self) -> list[dict[str, Any]]:
        if self._events is None:
            self._events = [orjson.loads(block) for block in self._raw[6:-2].split(b"\n\ndata: ")]
        return self._events

    def __len__(self) -> int:
        return len(self._all())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._all())

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        return self._all()[index]
