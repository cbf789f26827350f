"""The pure parts of the control plane's server side."""

from __future__ import annotations

import pytest

from exo_node.transport.generated.exo.v1 import node_pb2 as pb
from exo_node.transport.node_servicer import _material, remote_ip


@pytest.mark.parametrize(
    ("peer", "ip"),
    [
        ("ipv4:10.0.0.1:5678", "10.0.0.1"),
        ("ipv6:[fd00::1]:5678", "fd00::1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:5678", "fe80::1%eth0"),
        ("ipv6:[::ffff:10.0.0.1]:5678", "10.0.0.1"),
        ("unix:/tmp/x", ""),
    ],
)
def test_remote_ip(peer: str, ip: str) -> None:
    """gRPC's names of peers as IP literals, mapped IPv4 unmapped, scopes kept."""
    assert remote_ip(peer) == ip


def test_small_changes_of_memory_are_not_material() -> None:
    """A few megabytes more or less do not make members talk; a reservation, or anything else, does."""

    def state(free: int, name: str = "n") -> pb.NodeState:
        return pb.NodeState(node=pb.NodeDescription(memory_free=free, name=name))

    assert _material(state(10**10)) == _material(state(10**10 + 10**6))
    assert _material(state(10**10)) != _material(state(8 * 10**9))
    assert _material(state(10**10)) != _material(state(10**10, "m"))
