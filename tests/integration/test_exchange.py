"""One POST on a pooled connection: what aiohttp's session would have done of it (more: test_passthrough.py)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from yarl import URL

from exo_node.routing.call import UpstreamError
from exo_node.routing.upstream.connections import Connections
from exo_node.routing.upstream.exchange import Exchange, Prepared, prepare

OK = b"HTTP/1.1 200 OK\r\nContent-Type: Application/JSON; charset=utf-8\r\nContent-Length: 2\r\n\r\n{}"


@asynccontextmanager
async def server(*answers: bytes, close: bool = False) -> AsyncIterator[tuple[URL, list[bytes]]]:
    """Answers the requests of all connections in turn, raw; (address, what was sent)."""
    left, heard = list(answers), []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while left:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                heard.append(head + await reader.readexactly(size))
                writer.write(left.pop(0))
                if close:
                    break
            else:
                await reader.read()
        except asyncio.IncompleteReadError:
            pass
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield URL(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1/x?a=1"), heard


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    made = Connections()
    yield made
    await made.close()


async def post(connections: Connections, url: URL, timeout_s: float = 30.0) -> tuple[int, str, bytes]:
    exchange = Exchange()
    try:
        prepared = Prepared(url, {"Content-Type": "application/json", "X-Key": "é"}, verify=True)
        await exchange.post(connections.connector(), prepared, b'{"a": 1}', timeout_s, 5.0)
        return exchange.status, exchange.content_type, await exchange.read()
    finally:
        exchange.close()


async def test_a_request_and_its_answer(connections: Connections) -> None:
    """Headers, length, body; informational answers are passed over."""
    async with server(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK, OK) as (url, heard):
        for _ in range(2):
            assert await post(connections, url) == (200, "application/json", b"{}")
    head, _, body = heard[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /v1/x?a=1 HTTP/1.1"
    assert {b"Content-Type: application/json", b"Content-Length: 8", "X-Key: é".encode()} < set(lines)
    assert sum(line.startswith(b"Host: ") for line in lines) == 1
    assert body == b'{"a": 1}'


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"", aiohttp.ServerDisconnectedError),
        (b"no http at all\r\n\r\n", aiohttp.ClientResponseError),
        (OK[:-1], aiohttp.ClientPayloadError),
    ],
)
async def test_answers_that_break(connections: Connections, answer: bytes, expected: type[Exception]) -> None:
    """As aiohttp's session says it."""
    async with server(answer, close=True) as (url, _):
        with pytest.raises(expected):
            await post(connections, url)


@pytest.mark.parametrize("answer", [b"", OK[:-1]])
async def test_the_time_is_kept(connections: Connections, answer: bytes) -> None:
    """Before the headers and within the body."""
    async with server(answer) as (url, _):
        with pytest.raises(TimeoutError):
            await post(connections, url, 0.05)


@pytest.mark.parametrize("waiting", [True, False])
async def test_the_end_of_the_pool_breaks_what_is_read(connections: Connections, waiting: bool) -> None:
    """A node that leaves closes its connections: whoever waits for more of an answer, or asks for it then, is told."""
    async with server(OK[:-1]) as (url, _):
        exchange = Exchange()
        prepared = Prepared(url, {}, verify=True)
        await exchange.post(connections.connector(), prepared, b"{}", 30.0, 5.0)
        assert await exchange.content.readany() == b"{"
        rest = asyncio.create_task(exchange.read())
        if waiting:
            await asyncio.sleep(0)
        await connections.close()
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await rest
        exchange.close()


async def test_a_header_with_a_line_break_is_not_sent() -> None:
    """It would be a second header, or a second request."""
    with pytest.raises(UpstreamError) as caught:
        prepare("b", URL("http://h/"), {"X-Key": "secret\r\nX-Other: 1"}, verify=True)
    assert "secret" not in str(caught.value)
