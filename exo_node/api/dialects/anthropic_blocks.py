"""The content blocks of a streamed answer, one after the other: Anthropic's never overlap. Pure.

OpenAI's pieces of parallel tool calls carry their call's index and may come mixed. The first block is sent as it comes;
what belongs to another one waits until the call before it is complete JSON, or the answer ends.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from exo_node.errors import ExoError

PING = b'event: ping\ndata: {"type":"ping"}\n\n'
TEXT, THINKING, REDACTED = "text", "thinking", "redacted_thinking"


@dataclass(slots=True)
class Block:
    """`key`: "text", "thinking", "redacted_thinking", or the index of a tool call, whose `waiting` is its arguments."""

    key: str | int
    id: str = ""
    name: str = ""
    data: str = ""  # of a redacted block
    signature: str = ""
    said: list[str] = field(default_factory=list)  # of a tool call: its arguments so far
    waiting: list[str] = field(default_factory=list)  # pieces not sent yet
    opened: bool = False

    @property
    def complete(self) -> bool:
        """Whether anything else may follow: always after text, after a call once its arguments are an object."""
        if not isinstance(self.key, int):
            return True
        text = "".join(self.said)
        if not text.rstrip().endswith("}"):
            return False
        try:
            orjson.loads(text)
        except orjson.JSONDecodeError:
            return False
        return True


class Blocks:
    """Frames of the blocks. `tools`: whether there was a tool call."""

    def __init__(self, message_id: str, *, show_thoughts: bool, signature: str) -> None:
        self._message_id = message_id
        self._show_thoughts = show_thoughts
        self._signature = signature
        self._line: list[Block] = []  # the first is open, the others wait
        self._by_call: dict[int, Block] = {}
        self._index = -1
        self.tools = False

    def text(self, text: str) -> bytes:
        line = self._line
        if len(line) == 1 and line[0].key == TEXT:
            return _TEXT_DELTA % (self._index, orjson.dumps(text))
        return self._add(TEXT, text)

    def thought(self, text: str) -> bytes:
        return self._add(THINKING, text)

    def signature(self, text: str) -> bytes:
        """A provider's signature of the thoughts before it."""
        block = next((one for one in reversed(self._line) if one.key == THINKING), None)
        out = b""
        if block is None:
            out, block = self._add(THINKING, ""), self._line[-1]
        block.signature = text
        return out

    def redacted(self, data: str) -> bytes:
        block = Block(REDACTED, data=data)
        self._line.append(block)
        return self._move()

    def call(self, index: int, call_id: str, name: str, arguments: str) -> bytes:
        """A piece of the tool call of that index."""
        block = self._by_call.get(index)
        if block is None:
            block = self._by_call[index] = Block(index, call_id or f"toolu_{self._message_id[4:]}_{index}", name)
            self._line.append(block)
            self.tools = True
        elif block not in self._line:
            if arguments.strip():
                raise ExoError(f"the arguments of tool call {index} went on after they were complete", status=502)
            return b""
        elif not block.opened:
            block.id, block.name = call_id or block.id, block.name or name
        if arguments:
            block.said.append(arguments)
            block.waiting.append(arguments)
        return self._move()

    def end(self) -> bytes:
        """The frames that end the last block, and all that waited."""
        out = []
        while self._line:
            out += [self._open(self._line[0]), self._close()]
        return b"".join(out)

    def _add(self, key: str, text: str) -> bytes:
        if not self._line or self._line[-1].key != key:
            self._line.append(Block(key))
        self._line[-1].waiting.append(text)
        return self._move()

    def _move(self) -> bytes:
        """Send what the first block has, and go on to the next one as far as they are complete."""
        out = []
        while self._line:
            if self._line[0].key in self._by_call and not self._line[0].name:
                break  # who is called comes with a later piece
            out.append(self._open(self._line[0]))
            if len(self._line) == 1 or not self._line[0].complete:
                break
            out.append(self._close())
        return b"".join(out)

    def _open(self, block: Block) -> bytes:
        out = []
        if not block.opened:
            block.opened = True
            self._index += 1
            start = {"type": "content_block_start", "index": self._index, "content_block": _empty(block)}
            out.append(frame("content_block_start", start))
            if self._index == 0:
                out.append(PING)
        if block.waiting and (block.key != THINKING or self._show_thoughts):
            text = "".join(block.waiting)
            if text or isinstance(block.key, int):
                out.append(_delta(self._index, _piece(block.key, text)))
        block.waiting.clear()
        return b"".join(out)

    def _close(self) -> bytes:
        block = self._line.pop(0)
        out = b""
        if block.key == THINKING:
            signed = {"type": "signature_delta", "signature": block.signature or self._signature}
            out = _delta(self._index, signed)
        return out + frame("content_block_stop", {"type": "content_block_stop", "index": self._index})


_TEXT_DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
    b'"delta":{"type":"text_delta","text":%b}}\n\n'
)


def frame(event: str, data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event.encode(), orjson.dumps(data))


def _delta(index: int, delta: dict[str, Any]) -> bytes:
    return frame("content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta})


def _piece(key: str | int, text: str) -> dict[str, Any]:
    if isinstance(key, int):
        return {"type": "input_json_delta", "partial_json": text}
    if key == THINKING:
        return {"type": "thinking_delta", "thinking": text}
    return {"type": "text_delta", "text": text}


def _empty(block: Block) -> dict[str, Any]:
    match block.key:
        case "text":
            return {"type": TEXT, "text": ""}
        case "thinking":
            return {"type": THINKING, "thinking": "", "signature": ""}
        case "redacted_thinking":
            return {"type": REDACTED, "data": block.data}
    return {"type": "tool_use", "id": block.id, "name": block.name, "input": {}}
