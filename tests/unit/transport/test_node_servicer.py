"""The pure parts of the control plane's server side."""

from __future__ import annotations

import pytest

from exo_node.transport.convert import TopologyView
from exo_node.transport.generated.exo.v1 import node_pb2 as pb
from exo_node.transport.node_servicer import _material, remote_ip, within
from exo_node.types import PeerLink


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


@pytest.mark.parametrize(("depth", "reached"), [(0, "a"), (1, "ab"), (2, "abc"), (2**32 - 1, "abc")])
def test_as_far_as_is_asked(depth: int, reached: str) -> None:
    """So many links away and no more; a number beyond every cluster costs nothing (2**32 looks take a minute)."""
    view = TopologyView(links={"a": (PeerLink("b"),), "b": (PeerLink("a"), PeerLink("c")), "c": (), "d": ()})
    assert "".join(sorted(within(view, "a", (), depth).links)) == reached
    assert sorted(within(view, "a", {"b"}, depth).links) == sorted(set(reached) - {"b"})
