"""The client of `gateway.py`: raw HTTP/1.1 on kept-alive connections, so that the load costs little itself."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

CHUNKS = 100


@dataclass
class Load:
    """What came of one run; times in seconds."""

    latencies: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)  # to the first byte of the body
    elapsed: float = 0.0


def request(url: str, stream: bool, headers: dict[str, str]) -> bytes:
    asked = {"model": "bench", "messages": [{"role": "user", "content": "Count."}]}
    body = json.dumps({**asked, "stream": True} if stream else asked).encode()
    lines = [f"{name}: {value}" for name, value in headers.items()]
    head = [
        "POST /v1/chat/completions HTTP/1.1", f"Host: {urlsplit(url).netloc}", "Content-Type: application/json",
        "Authorization: Bearer any", f"Content-Length: {len(body)}", *lines, "", "",
    ]  # fmt: skip
    return "\r\n".join(head).encode() + body


class _Client(asyncio.Protocol):
    """One connection: sends a request and waits for its whole answer."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.answered: asyncio.Future[bytes] | None = None
        self.data = bytearray()
        self.first = 0.0
        self.body_at = -1
        self.length: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self.answered is not None and not self.answered.done():
            self.answered.set_exception(ConnectionError("the gateway closed the connection"))

    def send(self, data: bytes) -> asyncio.Future[bytes]:
        self.data, self.body_at, self.length, self.first = bytearray(), -1, None, 0.0
        self.answered = asyncio.get_running_loop().create_future()
        assert self.transport is not None
        self.transport.write(data)
        return self.answered

    def data_received(self, data: bytes) -> None:
        self.data += data
        if self.body_at < 0:
            at = self.data.find(b"\r\n\r\n")
            if at < 0:
                return
            self.body_at = at + 4
            head = bytes(self.data[:at]).lower()
            length = head.find(b"content-length:")
            self.length = int(head[length + 15 :].split(b"\r\n", 1)[0]) if length >= 0 else None
        if len(self.data) > self.body_at:
            self.first = self.first or time.perf_counter()
        got = len(self.data) - self.body_at
        done = self.data.endswith(b"0\r\n\r\n") if self.length is None else got >= self.length
        if done and self.answered is not None and not self.answered.done():
            self.answered.set_result(bytes(self.data))


def check(answer: bytes, stream: bool) -> None:
    """Every answer must be complete: a gateway that drops text is not fast."""
    if not answer.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")):
        raise RuntimeError(answer[:400].decode(errors="replace"))
    if stream and (answer.count(b" word") != CHUNKS or b"[DONE]" not in answer):
        raise RuntimeError(f"{answer.count(b' word')} of {CHUNKS} chunks: {answer[-200:]!r}")
    if not stream and answer.count(b" word") < CHUNKS:
        raise RuntimeError(answer[:400].decode(errors="replace"))


async def load(
    url: str, *, concurrency: int, seconds: float, stream: bool, headers: dict[str, str], at_least: int = 0
) -> Load:
    """Ask for `seconds` with `concurrency` connections, each one request after the other."""
    data = request(url, stream, headers)
    where = urlsplit(url)
    found = Load()
    assert where.hostname is not None
    assert where.port is not None
    host, port = where.hostname, where.port
    begin = time.perf_counter()

    async def worker() -> None:
        _, client = await asyncio.get_running_loop().create_connection(_Client, host, port)
        try:
            while time.perf_counter() - begin < seconds or len(found.latencies) < at_least:
                sent = time.perf_counter()
                check(await client.send(data), stream)
                found.latencies.append(time.perf_counter() - sent)
                found.first.append(client.first - sent)
        finally:
            assert client.transport is not None
            client.transport.close()

    await asyncio.gather(*(worker() for _ in range(concurrency)))
    found.elapsed = time.perf_counter() - begin
    return found
