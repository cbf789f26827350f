"""How servers are made and bound."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from exo_node.errors import ConfigurationError
from exo_node.transport.server import (
    MAX_CONTROL,
    MAX_RECEIVE,
    bind,
    create_server,
    grpc_target,
    server_options,
    target_of,
)
from tests.papers import tls


def test_target() -> None:
    """IPv6 goes in brackets, its scope kept."""
    assert target_of("10.0.0.1", 80) == "10.0.0.1:80"
    assert target_of("fe80::1%eth0", 80) == "[fe80::1%eth0]:80"
    assert grpc_target("[fe80::1%20]:80") == "[fe80::1%2520]:80"


def test_ports_are_never_shared() -> None:
    """`so_reuseport` is off: with it a second server would silently take half of the first one's calls."""
    assert ("grpc.so_reuseport", 0) in server_options()


async def test_bind() -> None:
    """A free port is told; an address that is not ours is refused with flag, port and address."""
    server, credentials = create_server(), tls("ann.exo").server_credentials()
    assert bind(server, "127.0.0.1", 0, credentials) > 0
    with pytest.raises(ConfigurationError, match=r"--node-port 5\d*: cannot listen on 203\.0\.113\.1:5"):
        bind(server, "203.0.113.1", 5555, credentials)
    await server.stop(None)


def test_limits_are_of_both_directions() -> None:
    """A daemon takes little from a caller that nobody knows yet, and may still send a tokenizer of 30 MB."""
    options = dict(server_options(MAX_CONTROL))
    assert options["grpc.max_receive_message_length"] == MAX_CONTROL < 8 * 2**20
    assert options["grpc.max_send_message_length"] == MAX_RECEIVE


async def test_strangers_connections_are_few_and_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who opens connections and shakes no hands has a bounded number of them, for a short time."""
    monkeypatch.setattr("exo_node.transport.server.MAX_CONNECTIONS", 2)
    for handshake_ms in (60_000, 200):
        monkeypatch.setattr("exo_node.transport.server.HANDSHAKE_MS", handshake_ms)
        server = create_server()
        port = bind(server, "127.0.0.1", 0, tls("ann.exo").server_credentials())
        await server.start()
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        ending = [*held] if handshake_ms < 60_000 else [await asyncio.open_connection("127.0.0.1", port)]
        for reader, _ in ending:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        for _, writer in held:
            writer.close()
        await server.stop(None)
