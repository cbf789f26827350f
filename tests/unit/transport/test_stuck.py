"""Connections over loopback that take nothing, and what is done about them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from exo_node.transport.client import channel_options, opened
from exo_node.transport.server import NEVER_MS, bind, create_server
from exo_node.transport.stuck import LOOKS, StuckConnections, _connections, _taken, stop_server
from tests.papers import papers, tls

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is looked for")
PIECE = bytes(2**16)


@contextlib.contextmanager
def connected(*, clock: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Who writes without end, with that TCP_USER_TIMEOUT, and who does not read."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        writer = socket.create_connection(server.getsockname())
        reader, _ = server.accept()
    with writer, reader:
        writer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, clock)
        writer.setblocking(False)
        fill(writer)
        settle(writer)
        yield writer, reader


def fill(writer: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            writer.send(PIECE)


def settle(writer: socket.socket) -> None:
    """Until nothing more is taken: the reader's system takes some of what waits with TCP's first probe, after 0.2 s."""
    before, since = _taken(writer), time.monotonic()
    while time.monotonic() - since < 0.5:
        time.sleep(0.02)
        if (now := _taken(writer)) != before:
            before, since = now, time.monotonic()


def drain(reader: socket.socket) -> None:
    reader.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while reader.recv(2**20):
            pass


def is_over(writer: socket.socket) -> bool:
    try:
        writer.send(b"x")
    except BlockingIOError:
        return False
    except BrokenPipeError:
        return True
    return False


def test_who_takes_nothing_for_so_many_looks_is_cut_off() -> None:
    """Not sooner, and not who takes a little between two looks, nor what is not gRPC's."""
    looking = StuckConnections()
    ours, slow, others = connected(clock=NEVER_MS), connected(clock=NEVER_MS), connected(clock=60_000)
    with ours as (stuck, _), slow as (busy, reader), others as (other, _):
        for _ in range(3):
            assert looking.look(3) == 0
            drain(reader)
            fill(busy)
        assert looking.look(3) == 1
        assert [is_over(one) for one in (stuck, busy, other)] == [True, False, False]


def test_who_has_all_is_left_alone() -> None:
    """However long nothing is said."""
    looking = StuckConnections()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as idle:
        idle.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, NEVER_MS)
        assert [looking.look(0) for _ in range(3)] == [0] * 3


def test_without_a_file_left_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look itself needs one; the next look may have it."""

    def refused(_: object) -> list[str]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "listdir", refused)
    with connected(clock=NEVER_MS):
        assert StuckConnections().look(0) == 0


@pytest.mark.parametrize("told", [bytes(232), bytes(104)])
def test_where_the_system_does_not_tell_what_was_taken_nobody_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, told: bytes
) -> None:
    """Sandboxes that are Linux by name (gVisor) leave the count at 0, old kernels have none; a busy connection has
    something on its way at every look."""

    class Mute(socket.socket):
        def getsockopt(self, level: int, option: int, length: int = 0) -> Any:
            asked = (level, option) == (socket.IPPROTO_TCP, socket.TCP_INFO)
            return told[:length] if asked else super().getsockopt(level, option)

    looking = StuckConnections()
    with connected(clock=NEVER_MS) as (writer, _):
        monkeypatch.setattr(socket, "socket", Mute)
        assert [looking.look(1) for _ in range(3)] == [0] * 3
        assert not is_over(writer)


async def test_connections_of_grpc_are_found() -> None:
    """On either side; a server stops."""
    server = create_server()
    port = bind(server, "127.0.0.1", 0, tls("them").server_credentials())
    await server.start()
    before = {name for name, _ in _connections()}
    async with tls("us").channel(f"127.0.0.1:{port}", "them", channel_options(silence_s=1.0)) as channel:
        assert await opened(channel, 30.0) is grpc.ChannelConnectivity.READY
        found = [one.getsockname()[1] == port for name, one in _connections() if name not in before]
        assert sorted(found) == [False, True]
    await stop_server(server, 0.0)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One of HTTP/2 (RFC 9113, 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def text(value: str) -> bytes:
    return bytes((len(value),)) + value.encode()  # HPACK (RFC 7541, 5.2)


def call_and_read_nothing(port: int, folder: Path) -> ssl.SSLSocket:
    """A call of /pour/Out by somebody who allows 2 GiB to be sent at once."""
    mine = papers("us")
    (folder / "papers.pem").write_text(mine.key + mine.certificate)
    context = ssl.create_default_context(cadata="".join(mine.roots.values()))
    context.load_cert_chain(folder / "papers.pem")
    context.set_alpn_protocols(["h2"])
    connection = context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="them")
    headers = {":method": "POST", ":scheme": "https", ":path": "/pour/Out", ":authority": "them", "te": "trailers"}
    headers["content-type"] = "application/grpc"
    most = (2**31 - 1).to_bytes(4, "big")
    connection.sendall(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(4, 0, 0, b"\0\4" + most)
        + frame(8, 0, 0, (2**31 - 1 - 65_535).to_bytes(4, "big"))
        + frame(1, 4, 1, b"".join(b"\0" + text(name) + text(value) for name, value in headers.items()))
        + frame(0, 1, 1, bytes(5))
    )
    return connection


@pytest.mark.parametrize("stops", [False, True])
async def test_a_call_that_takes_nothing_ends(tmp_path: Path, stops: bool) -> None:
    """While the server runs, and when it stops, which would else wait for it."""
    ended, last = asyncio.Event(), asyncio.get_running_loop().time()

    async def pour(request: bytes, context: Any) -> AsyncGenerator[bytes, None]:
        nonlocal last
        try:
            while True:
                yield bytes(2**20)
                last = asyncio.get_running_loop().time()
        finally:
            ended.set()

    server = create_server()
    handlers = {"Out": grpc.unary_stream_rpc_method_handler(pour)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("pour", handlers),))
    port = bind(server, "127.0.0.1", 0, tls("them").server_credentials())
    await server.start()
    with await asyncio.to_thread(call_and_read_nothing, port, tmp_path):
        begun = last
        while last == begun or asyncio.get_running_loop().time() - last < 0.1:  # noqa: ASYNC110 - until it is full
            await asyncio.sleep(0.05)
        assert not ended.is_set()
        if not stops:
            looking = StuckConnections()
            assert sum(looking.look() for _ in range(LOOKS + 1)) == 1
            while not ended.is_set():  # looks go on, as a node's do: a call that still took something then is next
                await asyncio.sleep(0.05)
                looking.look()
        await stop_server(server, 0.0)
        await ended.wait()
