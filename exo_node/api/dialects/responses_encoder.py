"""A chat's events -> the Responses API's, and the response that they add up to. Pure.

Events: https://platform.openai.com/docs/api-reference/responses-streaming . One item is open at a time, but for
function calls: providers may send those in parallel, so they stay open to the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from exo_node.api.dialects.base import arguments_of, text_of
from exo_node.api.dialects.responses_items import Item, item_id, joined, sealed
from exo_node.api.dialects.responses_request import Asked
from exo_node.api.dialects.responses_shapes import (
    REASONING,
    REFUSAL,
    SUMMARY,
    TEXT,
    Kind,
    delta_head,
    dumps,
    error_code,
    error_frame,
    frame,
    logprobs_of,
    usage_of,
)
from exo_node.errors import ExoError

PADDED_TO = 32  # bytes of a delta, where its length is to be hidden
_PADDING = "0" * PADDED_TO
_ENDS: Mapping[str | None, tuple[str, str | None]] = {  # finish_reason -> status, why it is incomplete
    "length": ("incomplete", "max_output_tokens"),
    "content_filter": ("incomplete", "content_filter"),
}


@dataclass(slots=True)
class _Open:
    """What still grows: a part of an item, or a function call. `head` is its delta events' beginning."""

    item: Item
    place: dict[str, Any]  # item_id, output_index, and the part's index
    head: bytes
    pieces: list[str]
    part: Item = field(default_factory=dict)


class ResponsesEncoder:
    """`base.Encoder` for one response. `clock` gives seconds since 1970."""

    def __init__(self, asked: Asked, clock: Callable[[], float] = time.time) -> None:
        self.streamed = asked.stream
        self._id: str = asked.echo["id"]
        self._echo = dict(asked.echo)
        self._clock = clock
        self._thoughts = SUMMARY if asked.summary else REASONING
        self._sealed = asked.sealed
        self._padded = asked.obfuscated
        self._number = 0
        self._opened = False
        self._output: list[Item] = []
        self._kind: Kind | None = None  # of the open part
        self._part: _Open | None = None
        self._calls: dict[int, _Open] = {}
        self._finish: str | None = None
        self._usage: dict[str, Any] = {}
        self._state: dict[str, Any] = {"status": "queued" if self._echo["background"] else "in_progress"}

    # -- base.Encoder

    def whole(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        for choice in answer.get("choices") or ():
            message = choice.get("message") or {}
            calls = [{**call, "index": i} for i, call in enumerate(message.get("tool_calls") or ())]
            self.feed({**answer, "choices": [{**choice, "delta": {**message, "tool_calls": calls}}]})
        self.end()
        return self.response()

    def feed(self, event: Mapping[str, Any]) -> bytes:
        frames: list[bytes] = [] if self._state["status"] == "in_progress" and self._opened else self._begin(event)
        if event.get("usage"):
            self._usage = {"usage": usage_of(event["usage"])}
        for choice in event.get("choices") or ():
            if choice.get("index"):
                continue
            delta = choice.get("delta") or {}
            thought = delta.get("reasoning_content") or delta.get("reasoning")
            if thought and isinstance(thought, str):
                self._add(frames, self._thoughts, thought)
            text, logprobs = text_of(delta.get("content")), logprobs_of(choice.get("logprobs"))
            if text or logprobs:
                if not isinstance(text, str):
                    raise ExoError("the answer's content is no text", code="malformed_answer", status=502)
                self._add(frames, TEXT, text, logprobs)
            if delta.get("refusal"):
                self._add(frames, REFUSAL, delta["refusal"])
            for call in delta.get("tool_calls") or ():
                self._call(frames, call)
            self._finish = choice.get("finish_reason") or self._finish
        return b"".join(frames)

    def end(self) -> bytes:
        frames: list[bytes] = [] if self._opened else self._begin({})
        if not self._output:
            self._add(frames, TEXT, "")
        status, why = _ENDS.get(self._finish, ("completed", None))
        self._close_part(frames)
        for item, index in [(item, i) for i, item in enumerate(self._output) if item["status"] == "in_progress"]:
            call = next((one for one in self._calls.values() if one.item is item), None)
            if call is not None:
                self._close_call(frames, call, status)
            self._close_item(frames, index, status)
        self._state = {"status": status}
        if why is not None:
            self._state["incomplete_details"] = {"reason": why}
        else:
            self._state["completed_at"] = int(self._clock())
        frames.append(self._frame(f"response.{status}", {"response": self.response()}))
        return b"".join(frames)

    def fail(self, error: ExoError) -> bytes:
        """An `error` event, which every client knows; and where the response had begun, its own end."""
        frames = [self.error(error)]
        self.broken("failed", error)
        if self._opened:
            frames.append(self._frame("response.failed", {"response": self.response()}))
        return b"".join(frames)

    # -- the response beyond its stream

    def error(self, error: ExoError) -> bytes:
        """The next frame, where something went wrong."""
        number = self._number
        self._number = number + 1
        return error_frame(error, number)

    def queue(self) -> bytes:
        """The first frames of one that waits for its turn."""
        self._opened = True
        return self._told("response.created") + self._told("response.queued")

    def broken(self, status: str, error: ExoError | None = None) -> None:
        """It ends here, "failed" or "cancelled", without frames; what is open stays incomplete."""
        for item in self._output:
            if item["status"] == "in_progress":
                item["status"] = "incomplete"
        self._state = {"status": status}
        if error is not None:
            self._state["error"] = {"code": error_code(error), "message": error.message}

    def response(self) -> dict[str, Any]:
        """The response as far as it has come."""
        for one in (self._part, *self._calls.values()):
            if one is not None:
                self._settle(one)
        return {
            **self._echo,
            "error": None,
            "incomplete_details": None,
            "completed_at": None,
            **self._state,
            "output": self._output,
            **self._usage,
        }

    # -- parts and items

    def _begin(self, event: Mapping[str, Any]) -> list[bytes]:
        self._echo["model"] = event.get("model") or self._echo["model"]
        asked = self._echo["service_tier"]
        self._echo["service_tier"] = event.get("service_tier") or ("default" if asked == "auto" else asked)
        frames = []
        self._state = {"status": "in_progress"}
        if not self._opened:
            self._opened = True
            frames.append(self._told("response.created"))
        frames.append(self._told("response.in_progress"))
        return frames

    def _add(self, frames: list[bytes], kind: Kind, text: str, logprobs: list[Any] | None = None) -> None:
        part = self._part
        if part is None or self._kind is not kind:
            part = self._open_part(frames, kind)
        part.pieces.append(text)
        tail = b',"sequence_number":'
        if logprobs:
            part.part["logprobs"] += logprobs
            tail = b',"logprobs":' + dumps(logprobs) + tail
        elif kind is TEXT:
            tail = b',"logprobs":[],"sequence_number":'
        if text or logprobs:
            frames.append(self._delta(part.head, text, tail))

    def _delta(self, head: bytes, text: str, tail: bytes) -> bytes:
        said, number = dumps(text), self._number
        self._number = number + 1
        if self._padded:
            tail = b',"obfuscation":"%b"%b' % (_PADDING[: -len(said) % PADDED_TO].encode(), tail)
        return b"%b%b%b%d}\n\n" % (head, said, tail, number)

    def _open_part(self, frames: list[bytes], kind: Kind) -> _Open:
        self._close_part(frames)
        index = len(self._output) - 1
        last = self._output[index] if index >= 0 else None
        if last is None or last["type"] != kind.item or last["status"] != "in_progress":
            self._close_text_item(frames)
            item: Item = {"type": kind.item, "id": self._item_id(kind.prefix), "status": "in_progress"}
            item |= {"role": "assistant", "content": []} if kind.item == "message" else {"summary": [], "content": []}
            last, index = item, self._open_item(frames, item)
        empty = {"type": kind.type, kind.text: "", **kind.more}
        part = {name: list(value) if isinstance(value, list) else value for name, value in empty.items()}
        place = {"item_id": last["id"], "output_index": index, kind.index: len(last[kind.list])}
        frames.append(self._frame(kind.added, {**place, "part": empty}))
        opened = _Open(last, place, delta_head(kind.delta, place), [], part)
        last[kind.list].append(opened.part)
        self._part, self._kind = opened, kind
        return opened

    def _close_part(self, frames: list[bytes]) -> None:
        part, kind = self._part, self._kind
        if part is None or kind is None:
            return
        self._settle(part)
        more = {"logprobs": part.part["logprobs"]} if kind is TEXT else {}
        frames.append(self._frame(kind.done, {**part.place, kind.text: part.part[kind.text], **more}))
        frames.append(self._frame(kind.closed, {**part.place, "part": part.part}))
        self._part = self._kind = None

    def _call(self, frames: list[bytes], piece: Mapping[str, Any]) -> None:
        function = piece.get("function") or {}
        index = piece.get("index")
        if index is None:  # some providers send each call whole and without a number
            index = len(self._calls) if piece.get("id") or not self._calls else max(self._calls)
        call = self._calls.get(index)
        if call is None:
            self._close_part(frames)
            self._close_text_item(frames)
            item: Item = {
                "type": "function_call",
                "id": self._item_id("fc"),
                "call_id": piece.get("id") or self._item_id("call"),
                "name": function.get("name") or "",
                "arguments": "",
                "status": "in_progress",
            }
            place = {"item_id": item["id"], "output_index": self._open_item(frames, item)}
            call = _Open(item, place, delta_head("response.function_call_arguments.delta", place), [])
            self._calls[index] = call
        if text := arguments_of(function):
            call.pieces.append(text)
            frames.append(self._delta(call.head, text, b',"sequence_number":'))

    def _close_call(self, frames: list[bytes], call: _Open, status: str) -> None:
        if status == "completed" and not any(call.pieces):  # clients read the arguments as JSON
            call.pieces.append("{}")
            frames.append(self._delta(call.head, "{}", b',"sequence_number":'))
        self._settle(call)
        done = {"name": call.item["name"], "arguments": call.item["arguments"]}
        frames.append(self._frame("response.function_call_arguments.done", {**call.place, **done}))

    def _open_item(self, frames: list[bytes], item: Item) -> int:
        self._output.append(item)
        index = len(self._output) - 1
        frames.append(self._frame("response.output_item.added", {"output_index": index, "item": item}))
        return index

    def _close_item(self, frames: list[bytes], index: int, status: str) -> None:
        item = self._output[index]
        item["status"] = status
        if self._sealed and item["type"] == "reasoning":
            item["encrypted_content"] = sealed(joined(item["content"]) or joined(item["summary"]))
        frames.append(self._frame("response.output_item.done", {"output_index": index, "item": item}))

    def _close_text_item(self, frames: list[bytes]) -> None:
        """The open message or reasoning; calls stay open."""
        for index, item in enumerate(self._output):
            if item["status"] == "in_progress" and item["type"] != "function_call":
                self._close_item(frames, index, "completed")

    def _settle(self, one: _Open) -> None:
        """Put the text so far where it belongs."""
        one.pieces[:] = ["".join(one.pieces)]
        if one.part:
            one.part["refusal" if one.part["type"] == "refusal" else "text"] = one.pieces[0]
        else:
            one.item["arguments"] = one.pieces[0]

    def _item_id(self, prefix: str) -> str:
        return item_id(self._id, f"o{len(self._output)}", prefix)

    def _told(self, name: str) -> bytes:
        return self._frame(name, {"response": self.response()})

    def _frame(self, name: str, fields: Mapping[str, Any]) -> bytes:
        number = self._number
        self._number = number + 1
        return frame(name, fields, number)
