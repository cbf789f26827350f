#!/usr/bin/env python3
"""The provider behind every gateway of `gateway.py`: OpenAI's bytes, made once, at next to no cost.

gateway_upstream.py [--gap-ms 0]      prints {"url": ...}; ends with its standard input
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys

CHUNKS = 100
HEAD = {"id": "chatcmpl-1", "created": 1, "model": "bench", "system_fingerprint": None}
USAGE = {"prompt_tokens": 10, "completion_tokens": CHUNKS, "total_tokens": 10 + CHUNKS}


def _event(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    data = {**HEAD, "object": "chat.completion.chunk", "choices": [choice], "usage": None}
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _plain() -> bytes:
    message = {"role": "assistant", "content": " word" * CHUNKS}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body = json.dumps({**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


PLAIN = _plain()
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM = [
    STREAM_HEAD + _chunk(_event({"role": "assistant", "content": ""})),
    *(_chunk(_event({"content": " word"})) for _ in range(CHUNKS)),
    _chunk(_event({}, "stop")),
]
USAGE_EVENT = {**HEAD, "object": "chat.completion.chunk", "choices": [], "usage": USAGE}
STREAM_USAGE = _chunk(b"data: " + json.dumps(USAGE_EVENT).encode() + b"\n\n")
STREAM_END = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Provider(asyncio.Protocol):
    """One connection: reads a request, sends what was made for it."""

    def __init__(self, gap_s: float) -> None:
        self._gap_s = gap_s
        self._data = b""
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        low = head.lower()
        at = low.find(b"content-length:")
        if at >= 0:
            if len(body) < int(low[at + 15 :].split(b"\r\n", 1)[0]):
                return
        elif b"transfer-encoding: chunked" in low and not body.endswith(b"0\r\n\r\n"):
            return
        self._data = b""
        assert self._transport is not None
        if b'"stream":true' in body.replace(b" ", b""):
            self._task = asyncio.ensure_future(self._stream(b"include_usage" in body))
        else:
            self._transport.write(PLAIN)

    async def _stream(self, usage: bool) -> None:
        assert self._transport is not None
        for piece in STREAM:
            self._transport.write(piece)
            await asyncio.sleep(self._gap_s)
        self._transport.write((STREAM_USAGE if usage else b"") + STREAM_END)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gap-ms", type=float, default=0.0)
    gap_s = parser.parse_args().gap_ms / 1000
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Provider(gap_s), "127.0.0.1", 0)
    leave = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), lambda: leave.set() if not os.read(sys.stdin.fileno(), 4096) else None)
    print(json.dumps({"url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"}), flush=True)
    await leave.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
