"""One peer's life, on a fake network."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest

from exo_node.cluster import keeper as keeping
from exo_node.cluster.discovery import Endpoint, PeerGone, PeerSeen
from exo_node.cluster.keeper import Backoff, PeerKeeper
from exo_node.cluster.peer import PeerHandle
from exo_node.cluster.sightings import Sightings
from exo_node.cluster.states import State
from exo_node.errors import ClusterMismatch
from exo_node.types import NodeState
from tests.unit.cluster.fake_peers import FakeNetwork, FakeNode, node_info, soon


def announced(port: int = 1, boot_id: str = "b1") -> PeerSeen:
    return PeerSeen(source="mdns", key=boot_id, endpoints=(Endpoint("10.0.0.9", port),), node_id="bob", boot_id=boot_id)


@contextlib.asynccontextmanager
async def kept(network: FakeNetwork) -> AsyncGenerator[tuple[PeerKeeper, Sightings, list[bool]], None]:
    """A running keeper of "bob", the sightings that it reads, and whether bob was here at each publication."""
    sightings = Sightings("ann", lambda: ())
    sightings.apply(announced())
    published: list[bool] = []

    async def hear(told: NodeState, handle: PeerHandle) -> None: ...

    keeper = PeerKeeper(
        "bob", dial=network.dial, sightings=sightings, publish=lambda: published.append(keeper.is_here), hear=hear,
        silence_s=1.0,
    )  # fmt: skip
    task = asyncio.create_task(keeper.run())
    try:
        yield keeper, sightings, published
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_member_after_the_first_state() -> None:
    """A peer is a member when it has shaken hands and told its state; then its link is measured."""
    async with kept(FakeNetwork(bob=FakeNode(node_info("bob")))) as (keeper, _, _):
        await soon(lambda: keeper.is_here and keeper.link is not None and keeper.link.rtt_us)
        assert keeper.link is not None
        assert (keeper.link.address, keeper.link.bytes_per_s) == ("10.0.0.9", 8)


async def test_same_state_is_no_news() -> None:
    """A state told again is not published again: members would answer each other for ever."""
    bob = FakeNode(node_info("bob"))
    async with kept(FakeNetwork(bob=bob)) as (keeper, _, published):
        await soon(lambda: keeper.link is not None and keeper.link.rtt_us)
        before = len(published)
        bob.tell()
        bob.tell(shards=(("i", 0),))
        await soon(lambda: keeper.told is not None and keeper.told.shards)
        assert len(published) == before + 1


async def test_leave() -> None:
    """A peer that says goodbye is gone at once and not dialled again until it is announced anew."""
    bob = FakeNode(node_info("bob"))
    async with kept(FakeNetwork(bob=bob)) as (keeper, sightings, _):
        await soon(lambda: keeper.is_here)
        bob.tell(leaving=True)
        await soon(lambda: not keeper.is_here)
        assert keeper.state is State.GONE
        assert sightings.endpoints("bob") == []
        assert bob.connections == 1


async def test_short_break_is_repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    """When only the stream broke and the peer answers, it never stops being a member."""
    monkeypatch.setattr(keeping, "STEADY_S", 0.0)
    bob = FakeNode(node_info("bob"))
    async with kept(FakeNetwork(bob=bob)) as (keeper, _, published):
        await soon(lambda: keeper.is_here)
        bob.cut()
        await soon(lambda: bob.connections == 2 and keeper.state is State.ONLINE)
        assert all(published)


async def test_death_and_return_elsewhere() -> None:
    """A dead peer is lost; the same id at another address is a member again."""
    bob = FakeNode(node_info("bob"))
    network = FakeNetwork(bob=bob)
    async with kept(network) as (keeper, sightings, published):
        await soon(lambda: keeper.is_here)
        network.by_port = {2: FakeNode(node_info("bob", "b2", port=2))}
        bob.cut()
        await soon(lambda: published[-1] is False)
        sightings.apply(announced(2, "b2"))
        keeper.news.set()
        await soon(lambda: keeper.is_here)
        assert keeper.handle is not None
        assert keeper.handle.port == 2


async def test_restart_while_the_old_connection_hangs() -> None:
    """A later boot id ends a connection to a life that does not answer any more, and only such a one."""
    bob = FakeNode(node_info("bob"))
    network = FakeNetwork(bob=bob)
    async with kept(network) as (keeper, sightings, _):
        await soon(lambda: keeper.is_here)
        sightings.apply(announced(2, "b2"))
        keeper.news.set()
        await asyncio.sleep(0.05)
        assert keeper.is_here  # it still answers
        network.by_port = {2: FakeNode(node_info("bob", "b2", port=2))}
        bob.queues.clear()  # silent, unbroken
        keeper.news.set()
        await soon(lambda: keeper.is_here and keeper.handle is not None and keeper.handle.port == 2)


async def test_refused() -> None:
    """A peer that turns us down is no member, and the reason is kept."""
    bob = FakeNode(node_info("bob"), refuse=ClusterMismatch("not ours"))
    async with kept(FakeNetwork(bob=bob)) as (keeper, _, _):
        await soon(lambda: keeper.state is State.REFUSED)
        assert keeper.problem == "not ours"


async def test_forgotten() -> None:
    """When nobody announces a peer that does not answer, its keeper ends."""
    sightings = Sightings("ann", lambda: ())
    sightings.apply(announced())
    keeper = PeerKeeper(
        "bob", dial=FakeNetwork().dial, sightings=sightings, publish=lambda: None, hear=lambda *_: asyncio.sleep(0),
        silence_s=1.0,
    )  # fmt: skip
    running = asyncio.create_task(keeper.run())
    await soon(lambda: keeper.problem)
    sightings.apply(PeerGone(source="mdns", key="b1"))
    keeper.news.set()
    await asyncio.wait_for(running, 30)


def test_backoff() -> None:
    """Pauses grow to 2 s and no further: a node that comes back is found within 5 s."""
    backoff = Backoff()
    pauses = [backoff.next() for _ in range(10)]
    assert pauses[0] <= 0.2
    assert max(pauses) <= 2.0 < pauses[-1] * 1.5
