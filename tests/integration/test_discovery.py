"""Nodes find each other, join, leave, die and come back: real mDNS, real gRPC, loopback and network namespaces."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from pathlib import Path

import pytest

from exo_node.cluster.discovery import Announcement, Discovery, PeerGone, PeerSeen
from exo_node.cluster.keys import ClusterKey
from exo_node.cluster.manual import StaticPeers
from exo_node.cluster.mdns import MdnsDiscovery
from exo_node.cluster.membership import ClusterMembers
from exo_node.cluster.sources import discoveries
from exo_node.errors import PeerUnavailable
from exo_node.transport.handshake import Party
from tests.integration.control_plane import ControlNode, party
from tests.papers import FINGERPRINT, KEY, OTHER

ROOT = Path(__file__).parents[2]
CHILD = """
import asyncio, sys
from tests.integration.test_discovery import child
asyncio.run(child(*sys.argv[1:]))
"""


def announcement(node: ControlNode) -> Announcement:
    me = node.identity.party
    return Announcement(
        node_id=me.node_id, boot_id=me.boot_id, fingerprint=me.fingerprint, version=me.version,
        protocol_min=1, protocol_max=1, grpc_port=node.port, api_port=0,
    )  # fmt: skip


Sources = Callable[[ControlNode], Sequence[Discovery]]


def mdns(node: ControlNode) -> Sequence[Discovery]:
    return discoveries("mdns", node_id=node.me.node_id, announce=lambda: announcement(node))


@contextlib.asynccontextmanager
async def member(
    me: Party,
    sources: Sources,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    silence_s: float = 2.0,
    key: ClusterKey = KEY,
) -> AsyncGenerator[tuple[ClusterMembers, ControlNode], None]:
    """A node with everything of the cluster room, as the daemon joins it."""
    node = ControlNode(me, key)
    members: list[ClusterMembers] = []
    node.on_peer = lambda info, ip: members[0].greet(info, ip)
    node.own_links = lambda: members[0].links()
    async with node.serving(host, port):
        mine = ClusterMembers(
            me=node.identity,
            dial=node.handle,
            changed=node.changes.notify,
            discoveries=sources(node),
            silence_s=silence_s,
        )
        members.append(mine)
        running = asyncio.create_task(mine.run())
        try:
            yield mine, node
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            assert node.servicer is not None
            await node.servicer.leave()
            await mine.close()


async def until(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Seconds until `condition` held. The bound is generous: nothing fails on a clock."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > seconds:
            pytest.fail(f"{what}: not within {seconds} s")
        await asyncio.sleep(0.005)
    return time.monotonic() - begun


async def child(node_id: str, boot_id: str, port: str = "0", host: str = "127.0.0.1") -> None:
    """A member in a process of its own: prints its peers whenever they change."""
    async with member(party(node_id, boot_id), mdns, host=host, port=int(port)) as (members, node):
        print(json.dumps({"port": node.port}), flush=True)
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        last: list[str] | None = None
        while not stop.is_set():
            now = sorted(members.states())
            if now != last:
                print(json.dumps({"peers": now}), flush=True)
                last = now
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.01)


@contextlib.contextmanager
def spawned(*arguments: str, prefix: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    command = [*prefix, sys.executable, "-c", CHILD, *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


async def test_three_nodes_find_each_other_by_mdns() -> None:
    """Three nodes on one host see each other by multicast alone, over loopback, and measure their links."""
    async with contextlib.AsyncExitStack() as stack:
        all_members = [
            (await stack.enter_async_context(member(party(name), mdns)))[0] for name in ("ann", "bob", "eve")
        ]
        await until(lambda: all(len(one.states()) == 2 for one in all_members), 10, "three nodes")
        assert {link.address for one in all_members for link in one.links()} == {"127.0.0.1"}
        await until(lambda: all(link.rtt_us for one in all_members for link in one.links()), 10, "probes")
        assert await all_members[0].peer("bob").health_check(2.0)


async def test_clean_exit() -> None:
    """A node that leaves is gone at the others at once, and calls to it say so."""
    async with member(party("ann"), mdns) as (ann, _):
        async with member(party("bob"), mdns):
            await until(lambda: "bob" in ann.states(), 10, "bob")
        await until(lambda: not ann.states(), 10, "bob's leave")
        with pytest.raises(PeerUnavailable, match="bob is not connected"):
            ann.peer("bob")


async def test_kill_and_return() -> None:
    """`kill -9` breaks the control stream (no waiting for silence); the same id under another port is usable again."""
    async with member(party("ann"), mdns, silence_s=60.0) as (ann, _):
        with spawned("bob", "boot-1") as bob:
            await until(lambda: "bob" in ann.states(), 20, "bob")
            bob.kill()
            await until(lambda: not ann.states(), 10, "bob's death")
        with spawned("bob", "boot-2") as bob:
            assert bob.stdout is not None
            port = json.loads(await asyncio.to_thread(bob.stdout.readline))["port"]
            await until(lambda: "bob" in ann.states(), 20, "bob's return")
            assert ann.states()["bob"].node.boot_id == "boot-2"
            assert ann.peer("bob").port == port


async def test_hung_peer() -> None:
    """A node that hangs is lost after the silence that we grant, and back when it goes on."""
    async with member(party("ann"), mdns, silence_s=0.6) as (ann, _):
        with spawned("bob", "boot-1") as bob:
            await until(lambda: "bob" in ann.states(), 20, "bob")
            os.kill(bob.pid, signal.SIGSTOP)
            await until(lambda: not ann.states(), 10, "the hang")
            os.kill(bob.pid, signal.SIGCONT)
            await until(lambda: "bob" in ann.states(), 20, "bob's recovery")


async def test_other_cluster_is_listed_and_never_dialled() -> None:
    """Nodes of two clusters on one network see, list and do not touch each other."""
    async with (
        member(party("ann"), mdns) as (ann, ann_node),
        member(party("eve"), mdns, key=OTHER) as (
            eve,
            eve_node,
        ),
    ):

        def met(members: ClusterMembers, other: str) -> bool:
            return other in {seen.node_id for seen in members.foreign()}  # with whoever else is on this network

        await until(lambda: met(ann, "eve") and met(eve, "ann"), 10, "the foreigner")
        assert not ann.states() and not eve.states()
        for node in (ann_node, eve_node):
            assert node.servicer is not None
            assert len(node.servicer.sessions) == 0


async def test_peers_by_address() -> None:
    """`--peer HOST:PORT` on one side is enough for both, and for peers of that peer; host names are resolved."""
    async with member(party("ann"), lambda _: ()) as (ann, ann_node):

        def to_ann(_: ControlNode) -> Sequence[Discovery]:
            return (StaticPeers([f"localhost:{ann_node.port}"]),)

        async with member(party("bob"), to_ann) as (bob, _), member(party("eve"), to_ann) as (eve, _):
            everyone = (ann, bob, eve)
            await until(lambda: all(len(one.states()) == 2 for one in everyone), 15, "all by one address")
        await until(lambda: not ann.states(), 10, "all gone")


async def test_peer_that_is_not_there_yet() -> None:
    """A peer named by address may start later, and restart; its absence is told in one line."""
    async with member(party("bob"), lambda _: ()) as (_, node):
        port = node.port
    async with member(party("ann"), lambda _: (StaticPeers([f"127.0.0.1:{port}"]),)) as (ann, _):
        await until(lambda: bool(ann.problems()), 10, "the problem")
        assert "\n" not in next(iter(ann.problems().values()))
        for boot_id in ("boot-1", "boot-2"):
            async with member(party("bob", boot_id), lambda _: (), port=port):
                await until(lambda: "bob" in ann.states(), 15, boot_id)
                assert ann.states()["bob"].node.boot_id == boot_id
            await until(lambda: not ann.states(), 10, "gone")


async def test_manual_file(tmp_path: Path) -> None:
    """The peers file in exo's shape joins nodes, and is read again when it changes."""
    path = tmp_path / "peers.json"
    path.write_text('{"peers": {}}')

    def from_file(node: ControlNode) -> Sequence[Discovery]:
        return discoveries("manual", node_id=node.me.node_id, announce=lambda: announcement(node), config_path=path)

    async with member(party("ann"), from_file) as (ann, _), member(party("bob"), lambda _: ()) as (_, node):
        capabilities = {"model": "x", "chip": "y", "memory": 1, "flops": {"fp32": 0, "fp16": 0, "int8": 0}}
        bob = {"address": "127.0.0.1", "port": node.port, "device_capabilities": capabilities}
        path.write_text(json.dumps({"peers": {"bob": bob, "ann": bob}}))
        await until(lambda: "bob" in ann.states(), 10, "bob of the file")


async def test_same_id_twice() -> None:
    """Two daemons with one id do not become peers of themselves; both are told."""
    async with member(party("ann", "boot-1"), mdns) as (one, _), member(party("ann", "boot-2"), mdns) as (two, _):
        await until(lambda: bool(one.problems() and two.problems()), 10, "the clash")
        assert not one.states() and not two.states()
        assert "--node-id" in next(iter(one.problems().values()))


async def test_goodbye() -> None:
    """At the discovery's own level: an announcement is seen, and withdrawn by a clean stop (not by expiry)."""
    ann, bob = (ControlNode(party(name), port=4711) for name in ("ann", "bob"))
    one, two = MdnsDiscovery(lambda: announcement(ann)), MdnsDiscovery(lambda: announcement(bob))
    await one.start()
    await two.start()
    events = one.events()

    async def first_of_bob() -> PeerSeen:
        while not isinstance(seen := await anext(events), PeerSeen) or seen.node_id != "bob":
            pass  # this network may have other nodes
        return seen

    async def withdrawn(key: str) -> None:
        while not isinstance(gone := await anext(events), PeerGone) or gone.key != key:
            pass

    seen = await asyncio.wait_for(first_of_bob(), 10)
    assert (seen.boot_id, seen.fingerprint) == ("boot-1", FINGERPRINT)
    assert seen.endpoints[0].port == 4711
    await two.stop()
    await asyncio.wait_for(withdrawn(seen.key), 10)
    await one.stop()


# -- network namespaces --------------------------------------------------------------------------------------------


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextlib.contextmanager
def namespaces(count: int) -> Iterator[list[str]]:
    """Empty network namespaces; skips the test, with the reason, where they cannot be made."""
    names = [f"exo-{os.getpid()}-{i}" for i in range(count)]
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
    except (OSError, subprocess.CalledProcessError) as error:
        remove(names)
        pytest.skip(f"may not make network namespaces here: {error}")
    try:
        yield names
    finally:
        remove(names)


def remove(names: Sequence[str]) -> None:
    for name in names:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def inside(name: str) -> list[str]:
    return ["ip", "netns", "exec", name]


async def peers_of(process: subprocess.Popen[str], expected: list[str], seconds: float) -> float:
    """Seconds until the process has told exactly these peers."""
    assert process.stdout is not None
    begun = time.monotonic()
    async with asyncio.timeout(seconds):
        while True:
            line = await asyncio.to_thread(process.stdout.readline)
            if not line:
                pytest.fail(f"the node ended: {process.wait()}")
            if json.loads(line).get("peers") == expected:
                return time.monotonic() - begun


async def test_only_loopback() -> None:
    """In a namespace that has nothing but `lo`, two nodes find each other."""
    with (
        namespaces(1) as (name,),
        spawned("ann", "a", prefix=inside(name)) as ann,
        spawned("bob", "b", prefix=inside(name)) as bob,
    ):
        await peers_of(ann, ["bob"], 20)
        await peers_of(bob, ["ann"], 20)


@pytest.mark.parametrize("family", ["ipv4", "ipv6 link-local only"])
async def test_two_hosts(family: str) -> None:
    """Two hosts on one link find each other by mDNS alone, over IPv4 or over nothing but IPv6 link-local addresses; one
    that is pulled off the link is lost, and comes back when it is plugged in again."""
    with namespaces(2) as names:
        a, b = names
        ip("-n", a, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", b)
        for number, name in enumerate(names, 1):
            if family == "ipv4":
                ip("-n", name, "addr", "add", f"10.99.0.{number}/24", "dev", "eth0")
                ip("-n", name, "link", "set", "eth0", "addrgenmode", "none")
            ip("-n", name, "link", "set", "eth0", "up")
        with (
            spawned("ann", "a", "0", "::", prefix=inside(a)) as ann,
            spawned("bob", "b", "0", "::", prefix=inside(b)) as bob,
        ):
            # With IPv6 the kernel first checks the new address for duplicates, for about 2 s.
            await peers_of(ann, ["bob"], 30)
            await peers_of(bob, ["ann"], 30)
            ip("-n", b, "link", "set", "eth0", "down")
            await peers_of(ann, [], 30)
            ip("-n", b, "link", "set", "eth0", "up")
            await peers_of(ann, ["bob"], 30)
