"""Clients that read slowly, and those that do not read at all, over real sockets."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from urllib.parse import urlsplit

import pytest

from exo_node.api import server
from exo_node.api.sending import SENDING
from exo_node.api.server import Patience
from exo_node.types import TokenDelta
from tests.unit.api.scripted import END, ScriptedBackend, serve_whole, until
from tests.unit.api.test_leaving import PATHS

MUCH = [TokenDelta("x" * 200_000)] * 60 + [END]  # 12 MB: more than the kernels hold


async def ask(url: str, path: str, *, stream: bool = True) -> socket.socket:
    """A client that has asked for an answer and read nothing yet."""
    at = urlsplit(url)
    body = json.dumps({**PATHS[path], "stream": stream}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    )
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, (at.hostname, at.port))
    await loop.sock_sendall(connection, f"{head}\r\n".encode() + body)
    return connection


@pytest.mark.parametrize("path", PATHS)
async def test_who_reads_nothing_is_cut_off(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its answer is given up, so that its slot is free; it is logged and counted."""
    backend = ScriptedBackend(MUCH)
    with caplog.at_level(logging.WARNING, "exo_node.api.sse"):
        async with serve_whole(backend, send_timeout=0.2) as (url, api):
            connection = await ask(url, path)
            await until(lambda: api.app[SENDING].cut_off == 1)
            await until(lambda: backend.open == 0)
            connection.close()
    assert "took nothing for 0.2 s (--send-timeout)" in caplog.text


async def test_plain_answers_wait_for_nobody_either(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who does not read one is cut off; who pauses now and then gets all of it."""
    monkeypatch.setattr(server, "TICK_S", 0.02)
    loop = asyncio.get_running_loop()
    async with serve_whole(ScriptedBackend(MUCH), patience=Patience(send_s=0.4)) as (url, _):
        slow = await ask(url, "/v1/chat/completions", stream=False)
        got = 0
        for _ in range(6):
            await asyncio.sleep(0.1)
            got += len(await loop.sock_recv(slow, 50_000))
        while got < 12_000_000:
            got += len(await loop.sock_recv(slow, 1_000_000))
        assert "--send-timeout" not in caplog.text
        stuck = await ask(url, "/v1/chat/completions", stream=False)
        await until(lambda: "--send-timeout" in caplog.text)
        slow.close()
        stuck.close()


async def test_who_reads_slowly_gets_all() -> None:
    """A pause longer than the timeout in all, but a little of it now and then."""
    async with serve_whole(ScriptedBackend(MUCH), send_timeout=0.3) as (url, api):
        connection = await ask(url, "/v1/chat/completions")
        loop = asyncio.get_running_loop()
        tail = b""
        for _ in range(8):
            await asyncio.sleep(0.1)
            assert await loop.sock_recv(connection, 50_000)
        while data := await loop.sock_recv(connection, 1_000_000):
            tail = (tail + data)[-100:]
            if tail.endswith(b"0\r\n\r\n"):
                break
        connection.close()
        assert b"[DONE]" in tail
        assert api.app[SENDING].cut_off == 0
