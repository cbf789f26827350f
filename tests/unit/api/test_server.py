"""What the server takes from a socket, and for how long it waits (issue 6, 5: request size, header and time limits)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import resource
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web

from exo_node.api import server
from exo_node.api.server import Patience, ServerSite, Watch
from exo_node.http_tls import server_context
from tests.papers import papers
from tests.unit.api.scripted import END, ScriptedBackend, serve_api

HEAD = b"Host: localhost\r\nConnection: close\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\n" + HEAD


async def exchange(url: str, *pieces: bytes, pause: float = 0.0) -> tuple[int, Any]:
    """(status, body) of what is answered; (0, None) where the server hangs up. The last piece is sent
    again and again."""
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)

    async def send() -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        while pause:
            await asyncio.sleep(pause)
            writer.write(pieces[-1])
            await writer.drain()

    sending = asyncio.create_task(send())
    try:
        told = await reader.readuntil(b"\r\n\r\n")
        length = int(told.lower().partition(b"content-length:")[2].split()[0])
        told += await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        told = b""
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.close()
    head, _, body = told.partition(b"\r\n\r\n")
    return (int(head.split()[1]), json.loads(body)) if told else (0, None)


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n" + HEAD + b"\r\n", 431, "head_too_large"),
        (b"GET / HTTP/1.1\r\n" + HEAD + b"X: " + b"a" * 20000 + b"\r\n\r\n", 431, "head_too_large"),
        (b"GET / HTTP/1.1\r\n" + HEAD + b"X: a\r\n" * 500 + b"\r\n", 431, "head_too_large"),
        (b"\x16\x03\x01\x00\xa5\x01\r\n\r\n", 400, "invalid_http"),
        (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "invalid_http"),
        (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400, "invalid_http"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + HEAD + b"\r\n", 400, "invalid_http"),
        (POST + b"Content-Length: 99999999999\r\n\r\n", 413, "request_too_large"),
        (POST + b"Content-Length: 20000\r\n\r\n" + b"[" * 20000, 400, "invalid_json"),
        (POST + b"Content-Length: 60001\r\n\r\n" + b'{"a":' * 10000 + b"1" + b"}" * 10000, 400, "invalid_json"),
        (POST + b"Content-Length: 1801\r\n\r\n" + b'{"a":' * 300 + b"1" + b"}" * 300, 400, "invalid_json"),
        (POST + b"Content-Length: 9007\r\n\r\n" + b'{"n": ' + b"9" * 9000 + b"}", 400, "invalid_json"),
        (POST + b"Content-Length: 12\r\n\r\n" + b'{"n": 1e999}', 400, "invalid_type"),
    ],
    ids=[
        "url",
        "header",
        "headers",
        "tls",
        "smuggled",
        "lengths",
        "hosts",
        "size",
        "deep",
        "deeper",
        "not so deep",
        "int",
        "float",
    ],
)
async def test_what_is_too_much_is_an_error_object(sent: bytes, status: int, code: str) -> None:
    """Long lines, many headers, what is no HTTP, ambiguous framing, announced giants, and JSON that is too deep or has
    numbers of thousands of digits are refused as every other error is, and at once."""
    async with serve_api(ScriptedBackend([END]), patience=Patience()) as url:
        got, body = await exchange(url, sent)
    assert (got, body["error"]["code"]) == (status, code), body


async def test_a_stranger_s_body_is_not_unpacked() -> None:
    """Bytes of who may not ask are thrown away as they are: a bomb would hold up the node, even while nobody reads it.
    So it is not seen that these are no gzip, and the next request on the connection is answered."""
    body = b"no gzip"
    sent = POST.replace(b"Connection: close\r\n", b"") + b"Content-Encoding: gzip\r\nContent-Length: 7\r\n\r\n" + body
    async with serve_api(ScriptedBackend([END]), api_key="key", patience=Patience()) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
        writer.write(sent + b"GET /health HTTP/1.1\r\n" + HEAD + b"\r\n")
        told = (await reader.read()).decode()
        writer.close()
    assert re.findall(r"HTTP/1.1 (\d+)", told) == ["401", "200"], told


async def test_what_comes_too_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that does not end, a body that stops, one that trickles, a chunked one too, and a connection that says
    nothing are given up; what comes at its pace is not (slow loris)."""
    monkeypatch.setattr(server, "TICK_S", 0.01)
    quick = Patience(first_s=0.2, head_s=0.2, silence_s=0.3, grace_s=0.3, least_rate=1e6)
    length, chunked = POST + b"Content-Length: 1000\r\n\r\n{", POST + b"Transfer-Encoding: chunked\r\n\r\n"
    async with serve_api(ScriptedBackend([END]), patience=quick) as url:
        told = await asyncio.gather(
            exchange(url, b"GET / HTTP/1.1\r\n", b"X: a\r\n", pause=0.05),
            exchange(url, length),
            exchange(url, length, b" ", pause=0.02),
            exchange(url, chunked, b"1\r\n \r\n", pause=0.02),
            exchange(url, b""),
        )
        assert [(status, body and body["error"]["code"]) for status, body in told] == [
            *[(408, "request_timeout")] * 4,
            (0, None),
        ]
    async with serve_api(ScriptedBackend([END]), patience=Patience(silence_s=5, grace_s=0.05, least_rate=1)) as url:
        slow = b'{"model": "demo", "prompt": "x"}'
        status, _ = await exchange(url, POST + b"Content-Length: 32\r\n\r\n", *[bytes([b]) for b in slow])
        assert status == 200


async def test_an_address_has_a_bounded_number_of_connections() -> None:
    """One more than its share is refused for another machine, not for this one's programs, and given back after it; in
    all there are no more than leave the node files to open."""
    watch = Watch(Patience(per_address=2))
    first, second, third = object(), object(), object()
    for one, may in ((first, True), (second, True), (third, False)):
        assert watch.add(one, "203.0.113.5") is may  # type: ignore[arg-type]
    assert watch.add(third, "203.0.113.6")  # type: ignore[arg-type]
    watch.remove(first)  # type: ignore[arg-type]
    assert watch.add(first, "203.0.113.5")  # type: ignore[arg-type]
    assert all(watch.add(object(), "127.0.0.1") for _ in range(5))  # type: ignore[arg-type]
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    full = Watch(Patience(share=2 / files))
    assert [full.add(object(), "127.0.0.1") for _ in range(3)] == [True, True, False]  # type: ignore[arg-type]


async def test_who_never_shakes_hands_over_tls(tmp_path: Path) -> None:
    """A connection over which TLS is to be spoken counts from its beginning, and is given up: a stranger with some
    hundreds of them took every file of the node, which ended."""
    made, (certificate, key) = papers("localhost"), (tmp_path / name for name in ("certificate", "key"))
    certificate.write_text(made.certificate)
    key.write_text(made.key)
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    context = server_context(certificate, key)
    runner = web.AppRunner(web.Application())
    await runner.setup()
    try:
        for patience in (Patience(share=3 / files), Patience(head_s=0.2)):
            site = ServerSite(runner, "127.0.0.1", 0, patience=patience, ssl_context=context)
            await site.start()
        full, quick = (address[1] for address in runner.addresses)
        held = [await asyncio.open_connection("127.0.0.1", full) for _ in range(3)]
        for port in (full, quick):
            reader, _ = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        for _, writer in held:
            writer.close()
            await writer.wait_closed()
        trusting = ssl.create_default_context(cadata="".join(made.roots.values()))
        async with aiohttp.ClientSession() as http, http.get(f"https://localhost:{full}/", ssl=trusting) as answer:
            assert answer.status == 404
    finally:
        await runner.cleanup()


async def test_no_upgrade() -> None:
    """A request for a web socket is answered as the plain request that it is."""
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    async with serve_api(ScriptedBackend([END])) as url:
        sent = b"GET /v1/models HTTP/1.0\r\nHost: localhost\r\n" + upgrade + b"Sec-WebSocket-Version: 13\r\n\r\n"
        assert (await exchange(url, sent))[0] == 200
