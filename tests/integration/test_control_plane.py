"""Handshake, sessions, control stream and errors over real gRPC on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from exo_node.errors import ConfigurationError, InvalidRequest, PeerUnavailable, ProtocolMismatch
from exo_node.transport.client import GRPCPeerHandle
from exo_node.transport.convert import TopologyView, node_to_pb
from exo_node.transport.generated.exo.v1 import node_pb2 as pb
from exo_node.transport.generated.exo.v1.node_pb2_grpc import NodeServiceStub
from exo_node.transport.handshake import Party
from exo_node.transport.server import bind, create_server
from exo_node.transport.tls import node_name
from exo_node.types import PeerLink
from tests.integration.control_plane import ControlNode, node_info, party
from tests.papers import identity, tls

HERE = Path(__file__).parent


@contextlib.contextmanager
def child_node(node_id: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A node's control plane in a process of its own: (process, port)."""
    command = [sys.executable, "-m", "tests.integration.control_plane", node_id]
    child = subprocess.Popen(command, cwd=HERE.parent.parent, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        yield child, int(child.stdout.readline())
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


async def connected(me: Party, port: int, node_id: str = "") -> GRPCPeerHandle:
    handle = GRPCPeerHandle("127.0.0.1", port, node_id, identity=identity(me), describe=lambda: node_info(me))
    await handle.connect()
    return handle


async def test_connect() -> None:
    """Two nodes shake hands; each learns who the other is, and the server from where the client came."""
    async with ControlNode(party("bob")).serving() as bob:
        handle = await connected(party("ann"), bob.port)
        assert handle.info == bob.info()
        assert await handle.health_check()
        assert bob.seen == [(node_info(party("ann")), "127.0.0.1")]
        await handle.close()
        assert not handle.is_connected()


class _AuthenticatedContext:
    """What `Handshake` asks of a call: whose certificate it is, and from where."""

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_subject_alternative_name": [node_name("ann").encode()]}

    def peer(self) -> str:
        return "ipv4:10.0.0.1:5678"


async def test_who_ends_the_call_at_the_welcome_is_known() -> None:
    """A client has all that it wants with the welcome; the server's handler may not get any further."""
    async with ControlNode(party("bob")).serving() as bob:
        ann, machine = party("ann"), identity(party("ann")).client_handshake()
        said: asyncio.Queue[pb.HandshakeMessage] = asyncio.Queue()

        async def requests() -> AsyncIterator[pb.HandshakeMessage]:
            while True:
                yield await said.get()

        assert bob.servicer is not None
        context: Any = _AuthenticatedContext()
        async with contextlib.aclosing(bob.servicer.Handshake(requests(), context)) as answers:
            said.put_nowait(pb.HandshakeMessage(hello=machine.hello()))
            challenge = (await anext(answers)).challenge
            proof = pb.Proof(proof=machine.prove(challenge), node=node_to_pb(node_info(ann)))
            said.put_nowait(pb.HandshakeMessage(proof=proof))
            assert (await anext(answers)).WhichOneof("message") == "welcome"
        assert bob.seen == [(node_info(ann), "10.0.0.1")]


async def test_other_protocol() -> None:
    """A node of a protocol that we do not speak is refused with both ranges and versions."""
    async with ControlNode(party("bob", protocol_min=7, protocol_max=8, version="9.9")).serving() as bob:
        with pytest.raises(ProtocolMismatch, match=r"speaks protocol 1-1.*exo 9\.9.*7-8"):
            await connected(party("ann"), bob.port)


async def test_no_session_no_call() -> None:
    """Without a session every call but the handshake is UNAUTHENTICATED, unary or streaming, forged or not."""
    async with ControlNode(party("bob")).serving() as bob:
        channel = tls("eve.exo").channel(f"127.0.0.1:{bob.port}", "bob.exo", ())
        stub = NodeServiceStub(channel)  # type: ignore[no-untyped-call]
        handle = await connected(party("ann"), bob.port)
        assert bob.servicer is not None
        session = next(iter(bob.servicer.sessions._sessions.values()))
        forged = grpc.aio.Metadata(("exo-session", session.session_id), ("exo-proof", session.proof("/other")))
        for metadata in (None, forged):
            for call in (stub.HealthCheck(pb.HealthCheckRequest(), metadata=metadata),
                         stub.UnloadShard(pb.UnloadShardRequest(), metadata=metadata)):  # fmt: skip
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in stub.Watch(pb.WatchRequest(), metadata=metadata):
                    pytest.fail("a state without a session")
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        await handle.close()
        await channel.close(None)


async def test_forgotten_session_is_renewed() -> None:
    """When the server forgot the session, calls and streams shake hands again by themselves, once for all of them."""
    async with ControlNode(party("bob")).serving() as bob:
        handle = await connected(party("ann"), bob.port)
        assert bob.servicer is not None
        bob.servicer.sessions.clear()
        assert await asyncio.gather(*(handle.health_check() for _ in range(5))) == [True] * 5
        assert len(bob.servicer.sessions) == 1
        bob.servicer.sessions.clear()
        watch = handle.watch()
        assert (await anext(watch)).node.node_id == "bob"
        await watch.aclose()
        await handle.close()


async def test_restarted_peer_is_another_peer() -> None:
    """A handle never silently goes on with a node that restarted on the same port."""
    async with ControlNode(party("bob")).serving() as bob:
        handle = await connected(party("ann"), bob.port)
        port = bob.port
    async with ControlNode(party("bob", boot_id="boot-2")).serving(port=port):
        with pytest.raises(PeerUnavailable, match="restarted"):
            for _ in range(50):  # the old channel may need a moment to reconnect
                try:
                    await handle.call("HealthCheck", pb.HealthCheckRequest(), 2.0)
                except PeerUnavailable as error:
                    if "restarted" in error.message:
                        raise
                    await asyncio.sleep(0.05)
    await handle.close()


async def test_watch() -> None:
    """The control stream gives the state now, at each change, and says when the peer leaves."""
    node = ControlNode(party("bob"))
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(node.serving())
        handle = await connected(party("ann"), node.port)
        watch = handle.watch()
        assert (await anext(watch)).links == ()
        node.links = (PeerLink("eve"),)
        node.changes.notify()
        assert (await anext(watch)).links == (PeerLink("eve"),)
        await asyncio.sleep(0.3)  # beats only: they are no states
        stopping = asyncio.create_task(stack.aclose())
        assert (await anext(watch)).leaving
        with pytest.raises(StopAsyncIteration):
            await anext(watch)
        await stopping
        await handle.close()


async def test_kill_is_noticed() -> None:
    """A `kill -9` of the peer breaks the control stream: nobody waits for the silence to be long enough."""
    with child_node("bob") as (child, port):
        handle = await connected(party("ann"), port)
        watch = handle.watch(silence=170.0)
        await anext(watch)
        child.kill()
        with pytest.raises(PeerUnavailable, match="bob"):
            await anext(watch)
        assert not await handle.health_check()
        await handle.close()


async def test_hang_is_noticed() -> None:
    """A peer that hangs (SIGSTOP) is given up after the silence that we grant."""
    with child_node("bob") as (child, port):
        handle = await connected(party("ann"), port)
        watch = handle.watch(silence=0.5)
        await anext(watch)
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(PeerUnavailable, match=r"said nothing for 0\.5 s"):
            await anext(watch)
        os.kill(child.pid, signal.SIGCONT)
        await handle.close()


async def test_topology_and_probe() -> None:
    """Topology is cut at the depth and without the visited nodes; a probe measures a link; a huge one is refused."""
    infos = {name: node_info(party(name)) for name in ("bob", "eve", "joe")}
    view = TopologyView(infos, {"bob": (PeerLink("eve"),), "eve": (PeerLink("joe"),)})
    async with ControlNode(party("bob"), view=view).serving() as bob:
        handle = await connected(party("ann"), bob.port)
        assert set((await handle.collect_topology(set(), max_depth=1)).nodes) == {"bob", "eve"}
        assert set((await handle.collect_topology({"eve"}, max_depth=4)).nodes) == {"bob", "joe"}
        link = await handle.probe_link(payload_bytes=2**16)
        assert link.to_id == "bob"
        assert link.rtt_us > 0 < link.bytes_per_s
        with pytest.raises(InvalidRequest, match="reply_bytes"):
            await handle.call("ProbeLink", pb.ProbeLinkRequest(reply_bytes=2**30), 5.0)
        await handle.close()


async def test_nobody_there() -> None:
    """A port where nobody listens is `PeerUnavailable` at once, naming the address."""
    async with ControlNode(party("bob")).serving() as bob:
        port = bob.port
    with pytest.raises(PeerUnavailable, match=f"127.0.0.1:{port}"):
        await connected(party("ann"), port)


async def test_port_in_use() -> None:
    """Two servers never share a port: the second is told which one is taken."""
    async with ControlNode(party("bob")).serving() as bob:
        with pytest.raises(ConfigurationError, match=f"--node-port {bob.port}"):
            bind(create_server(), "127.0.0.1", bob.port, tls("ann.exo").server_credentials())


async def test_a_closed_connection_is_no_cancellation() -> None:
    """Closing a connection fails the calls that run on it with `PeerUnavailable`, and cancels nobody who awaits them.

    Membership closes what it has lost while others, such as the task that renews leases, wait for an answer.
    """
    with child_node("b") as (child, port):
        handle = await connected(party("a"), port)
        states = handle.watch(60)
        await anext(states)
        os.kill(child.pid, signal.SIGSTOP)

        async def call() -> None:
            await handle.call("HealthCheck", pb.HealthCheckRequest(), 60)

        async def follow() -> None:
            async for _ in states:
                pass

        waiting = [asyncio.create_task(call()), asyncio.create_task(follow())]
        await asyncio.sleep(0.1)
        await handle.close()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [PeerUnavailable, PeerUnavailable]


async def test_a_process_that_hangs_ends_its_calls() -> None:
    """A call without a deadline to a stopped process, whose kernel goes on acknowledging, ends by the keepalive: an
    unanswered ping, well before gRPC's own 60 s."""
    with child_node("b") as (child, port):
        handle = await connected(party("a"), port)
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(PeerUnavailable):
            async with asyncio.timeout(45):
                await handle.call("HealthCheck", pb.HealthCheckRequest(), 600)
        await handle.close()
