"""A peer's handle before and without a connection; with one: tests/integration/test_control_plane.py."""

from __future__ import annotations

import pytest

from exo_node.errors import PeerUnavailable
from exo_node.transport.client import GRPCPeerHandle, channel_options
from exo_node.transport.generated.exo.v1 import node_pb2 as pb
from exo_node.transport.handshake import Party
from exo_node.types import NodeInfo
from tests.papers import identity


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


def test_no_proxy() -> None:
    """A proxy variable in the environment never catches connections between nodes."""
    assert ("grpc.enable_http_proxy", 0) in channel_options()
