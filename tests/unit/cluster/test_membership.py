"""Who is in the cluster, on a fake network."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator

import pytest

from exo_node.cluster import membership
from exo_node.cluster.discovery import Endpoint, PeerSeen
from exo_node.cluster.membership import ClusterMembers
from exo_node.errors import PeerUnavailable
from exo_node.types import PeerLink
from tests.unit.cluster.fake_peers import FakeNetwork, FakeNode, node_info, soon


@dataclasses.dataclass(frozen=True)
class Ann:
    node_id: str = "ann"
    boot_id: str = "a1"
    fingerprint: str = "f"
    fingerprints: tuple[str, ...] = ("f",)


@contextlib.asynccontextmanager
async def running(network: FakeNetwork) -> AsyncGenerator[ClusterMembers, None]:
    members = ClusterMembers(me=Ann(), dial=network.dial, changed=lambda: None)
    task = asyncio.create_task(members.run())
    await asyncio.sleep(0)
    try:
        yield members
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await members.close()


def seen(node_id: str, port: int, fingerprint: str = "f", boot_id: str = "b1") -> PeerSeen:
    return PeerSeen(
        source="mdns", key=f"{node_id}-{boot_id}", endpoints=(Endpoint("10.0.0.9", port),), node_id=node_id,
        boot_id=boot_id, fingerprint=fingerprint,
    )  # fmt: skip


async def test_announced_node_becomes_a_member() -> None:
    """An announced node is dialled; its state, link and connection can be had; then `wait_for` returns."""
    async with running(FakeNetwork(bob=FakeNode(node_info("bob")))) as members:
        members.notice(seen("bob", 1))
        assert await members.wait_for(1, 30)
        assert set(members.states()) == {"bob"}
        assert members.peer("bob").address == "10.0.0.9"
        assert [link.to_id for link in members.links()] == ["bob"]
        assert not await members.wait_for(2, 0.01)


async def test_our_bug_in_following_one_peer_ends_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is in the log with its traceback, the others stay, and the peer is dialled anew."""
    monkeypatch.setattr(membership, "PAUSE_S", 0.0)
    bob, eve = FakeNode(node_info("bob")), FakeNode(node_info("eve", port=2))
    async with running(FakeNetwork(bob=bob, eve=eve)) as members:
        members.notice(seen("bob", 1))
        members.notice(seen("eve", 2))
        assert await members.wait_for(2, 30)
        eve.queues[-1].put_nowait(ValueError("a bug"))
        await soon(lambda: eve.connections == 2)
        assert await members.wait_for(2, 30)
        assert bob.connections == 1
    assert [str(one.exc_info[1]) for one in caplog.records if one.exc_info] == ["a bug"]


async def test_connections_outlive_the_tasks() -> None:
    """After `run` is cancelled connections can still be used (to unload instances), until `close`."""
    members = ClusterMembers(me=Ann(), dial=FakeNetwork(bob=FakeNode(node_info("bob"))).dial, changed=lambda: None)
    members.notice(seen("bob", 1))  # heard before the start
    task = asyncio.create_task(members.run())
    assert await members.wait_for(1, 30)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert members.peer("bob")
    await members.close()
    with pytest.raises(PeerUnavailable, match="bob is not connected"):
        members.peer("bob")


async def test_greeting_is_enough() -> None:
    """A member that dialled us is dialled back, at the address that it came from first."""
    async with running(FakeNetwork(bob=FakeNode(node_info("bob")))) as members:
        members.greet(node_info("bob"), "10.0.0.1")
        assert await members.wait_for(1, 30)
        assert members.peer("bob").address == "10.0.0.1"


async def test_hearsay() -> None:
    """A peer of a peer is dialled too."""
    eve = node_info("eve", port=2)
    bob = FakeNode(node_info("bob"), links=(PeerLink("eve", address="10.0.0.7"), PeerLink("ann")), nodes={"eve": eve})
    async with running(FakeNetwork(bob=bob, eve=FakeNode(eve))) as members:
        members.notice(seen("bob", 1))
        assert await members.wait_for(2, 30)
        assert members.peer("eve").address == "10.0.0.7"


async def test_foreigners_and_namesakes() -> None:
    """Another cluster's node is listed and not dialled; another daemon with our id is a problem to tell."""
    bob = FakeNode(node_info("bob"))
    async with running(FakeNetwork(bob=bob)) as members:
        members.notice(seen("bob", 1, fingerprint="0"))
        members.notice(seen("ann", 1, boot_id="other"))
        members.notice(seen("ann", 1, boot_id="a1"))
        await asyncio.sleep(0.02)
        assert [one.node_id for one in members.foreign()] == ["bob"]
        assert bob.connections == 0
        assert "--node-id" in "".join(members.problems().values())


async def test_address_of_a_namesake_or_ourselves() -> None:
    """An address that turns out to be ours is no peer."""
    network = FakeNetwork(us=FakeNode(node_info("ann", "a1")))
    async with running(network) as members:
        members.notice(PeerSeen(source="peer", key="h:1", endpoints=(Endpoint("10.0.0.9", 1),)))
        await soon(lambda: network.by_port[1].connections)
        await asyncio.sleep(0.02)
        assert not members.states()
        assert not members.problems()


def test_addresses() -> None:
    """A server bound to one address tells only that one."""
    members = ClusterMembers(me=Ann(), dial=FakeNetwork().dial, changed=lambda: None, listen="10.1.2.3")
    assert members.addresses() == ("10.1.2.3",)
