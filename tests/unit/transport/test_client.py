"""A peer's handle before and without a connection; with one: tests/integration/test_control_plane.py."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import weakref
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import grpc
import grpc.aio
import pytest

from exo_node.cluster.discovery import Endpoint
from exo_node.cluster.peer import connect_any
from exo_node.errors import PeerUnavailable
from exo_node.transport.client import GRPCPeerHandle, channel_options, opened
from exo_node.transport.generated.exo.v1 import node_pb2 as pb
from exo_node.transport.handshake import Party
from exo_node.types import NodeInfo
from tests.papers import identity, tls


def nobody() -> NodeInfo:
    raise AssertionError("not asked")


async def test_unconnected() -> None:
    """Nothing is opened before `connect`; using the handle says so, naming the address."""
    handle = GRPCPeerHandle("fe80::1%eth0", 80, identity=identity(Party("a", "b", "f", "1")), describe=nobody)
    assert not handle.is_connected()
    with pytest.raises(PeerUnavailable, match=r"\[fe80::1%eth0\]:80 is not connected"):
        await handle.call("HealthCheck", pb.HealthCheckRequest(), 1.0)
    with pytest.raises(PeerUnavailable):
        _ = handle.info
    assert not await handle.health_check()
    await handle.close()


async def test_a_dial_that_failed_leaves_nothing_behind() -> None:
    """Whoever else is to clean up, a garbage collection, comes late: a connection that is not freed opens itself once
    there is somebody who answers, and is kept."""
    us = identity(Party("a", "b", "f", "1"))
    make, made = us.tls.channel, list[weakref.ref[grpc.aio.Channel]]()

    def channel(address: str, name: str, options: Sequence[tuple[str, Any]]) -> grpc.aio.Channel:
        one = make(address, name, options)
        made.append(weakref.ref(one))
        return one

    us.tls.channel = channel  # type: ignore[method-assign]
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    gc.disable()
    try:
        with contextlib.suppress(PeerUnavailable):
            await connect_any(
                lambda host, port, node_id: GRPCPeerHandle(host, port, node_id, identity=us, describe=nobody),
                [Endpoint("127.0.0.1", port), Endpoint("127.0.0.2", port)],
                "them",
                30.0,
            )
        await asyncio.sleep(0.1)  # gRPC's own tasks end
        assert [one() for one in made] == [None, None]
    finally:
        gc.enable()


def test_no_proxy() -> None:
    """A proxy variable in the environment never catches connections between nodes."""
    assert ("grpc.enable_http_proxy", 0) in channel_options()


async def test_who_takes_a_connection_and_says_nothing_is_silent() -> None:
    """As a stopped process does; one that refuses a connection is there."""
    with closing(socket.create_server(("127.0.0.1", 0))) as stopped:
        address = f"127.0.0.1:{stopped.getsockname()[1]}"
        async with tls("us").channel(address, "them", channel_options(silence_s=1.0)) as channel:
            assert await opened(channel, 0.1) is grpc.ChannelConnectivity.CONNECTING
    async with tls("us").channel(address, "them", channel_options(silence_s=1.0)) as channel:
        assert await opened(channel, 60.0) is grpc.ChannelConnectivity.TRANSIENT_FAILURE
