"""Attacks on the gRPC ports of nodes and runners. Each is stopped by one guard, which is named in its test."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from exo_node.cluster.keys import ClusterKey
from exo_node.errors import ClusterMismatch, ExoError, PeerUnavailable, ProtocolMismatch, Unauthorized, WrongNode
from exo_node.transport.client import GRPCPeerHandle
from exo_node.transport.generated.exo.v1 import node_pb2 as pb
from exo_node.transport.generated.exo.v1 import ring_pb2
from exo_node.transport.generated.exo.v1.node_pb2_grpc import NodeServiceStub
from exo_node.transport.handshake import ClientHandshake, Party
from exo_node.transport.ring_client import RingClient
from exo_node.transport.tls import ANY_NODE, TlsIdentity, node_name, runner_name
from exo_node.types import Papers
from tests.forgery import forge, forged_papers, member, name, owner, stranger
from tests.integration.control_plane import ControlNode, node_info, party
from tests.integration.runners import INSTANCE, TOKEN, Ring, model_folder, ring
from tests.papers import FINGERPRINT, KEY, OTHER, identity, papers, tls

ANN = node_name("ann")


@pytest.fixture(scope="module")
def genuine() -> Papers:
    return papers(ANN, ANY_NODE)


@contextlib.asynccontextmanager
async def bob() -> AsyncGenerator[ControlNode, None]:
    async with ControlNode(party("bob")).serving() as node:
        yield node


async def knock(node: ControlNode, shown: TlsIdentity | None) -> None:
    """Send a Hello to the node as who shows these papers (None: in plain text). Raises what a stranger gets."""
    address = f"127.0.0.1:{node.port}"
    channel: Any = grpc.aio.insecure_channel(address) if shown is None else shown.channel(address, "bob.exo", ())
    async with channel:
        call = NodeServiceStub(channel).Handshake(timeout=20)  # type: ignore[no-untyped-call]
        with contextlib.suppress(asyncio.InvalidStateError):
            await call.write(pb.HandshakeMessage(hello=ClientHandshake(party("ann"), b"").hello()))
        assert (await call.read()).WhichOneof("message") == "challenge"


async def refused(node: ControlNode, shown: TlsIdentity | None) -> None:
    """The connection ends before a word is said; nothing reached the servicer, and members go on."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await knock(node, shown)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not node.seen


async def test_a_member_is_let_in(genuine: Papers) -> None:
    """The other tests' way in works for who holds a certificate."""
    async with bob() as node:
        await knock(node, TlsIdentity(genuine))


async def test_plain_text(genuine: Papers) -> None:
    """Guard: `add_secure_port`."""
    async with bob() as node:
        await refused(node, None)


async def test_no_certificate(genuine: Papers) -> None:
    """Guard: `require_client_authentication`."""

    class Nameless(TlsIdentity):
        def channel(self, address: str, name: str, options: Any) -> grpc.aio.Channel:
            roots = "".join(genuine.roots.values()).encode()
            return grpc.aio.secure_channel(
                address, grpc.ssl_channel_credentials(roots), options=[("grpc.ssl_target_name_override", name)]
            )

    async with bob() as node:
        await refused(node, Nameless(genuine))


async def test_another_cluster_s_certificate(genuine: Papers) -> None:
    """Guard: the roots are our authority alone."""
    other = papers(ANN, ANY_NODE, key=OTHER)
    async with bob() as node:
        await refused(node, TlsIdentity(dataclasses.replace(other, roots=genuine.roots)))


FORGERIES = ("our name", "our key's other name", "expired", "by a runner", "by a runner in between")


@pytest.mark.parametrize("attack", FORGERIES)
async def test_forged_certificates(genuine: Papers, attack: str) -> None:
    """Guards: signature, issuer's name, end of validity; against who signs with a runner's key `ca=False` and
    the authority's path length, each of which is enough."""
    runner = papers(runner_name(INSTANCE))
    past = datetime.datetime(2020, 1, 1)
    between = dataclasses.replace(member(runner), name=name(FINGERPRINT))
    forged = {
        "our name": lambda: forged_papers(stranger(FINGERPRINT), [ANN, ANY_NODE], genuine),
        "our key's other name": lambda: forged_papers(owner(KEY, "0" * 32), [ANN, ANY_NODE], genuine),
        "expired": lambda: forged_papers(owner(KEY, FINGERPRINT), [ANN, ANY_NODE], genuine, end=past),
        "by a runner": lambda: forged_papers(member(runner), [ANN, ANY_NODE], genuine),
        "by a runner in between": lambda: forged_papers(between, [ANN, ANY_NODE], genuine),
    }[attack]()
    async with bob() as node:
        await refused(node, TlsIdentity(forged))


def test_nobody_stands_between_the_authority_and_a_member() -> None:
    """Guard: `path_length=0`. Who holds a dropped key cannot sign under the name of the one that followed it."""
    import ssl

    old = papers(ANN, key=OTHER)
    key, certificate = forge(owner(OTHER, old.fingerprint), [], subject=name(FINGERPRINT), can_sign=True)
    signer = dataclasses.replace(owner(OTHER, FINGERPRINT), key=key, chain=certificate)
    forged = forged_papers(signer, [ANN], old)
    assert handshake(old, old) == "verified"
    with pytest.raises(ssl.SSLCertVerificationError, match="path length"):
        handshake(forged, old)


def handshake(server: Papers, client: Papers) -> str:
    """A TLS handshake in memory, in which the client checks the server."""
    import ssl
    import tempfile

    sides = []
    with tempfile.TemporaryDirectory() as folder:
        chain, key, roots = (Path(folder) / one for one in ("chain", "key", "roots"))
        chain.write_text(server.certificate)
        key.write_text(server.key)
        roots.write_text("".join(client.roots.values()))
        ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ours.load_verify_locations(roots)
        theirs.load_cert_chain(chain, key)
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [ours.wrap_bio(a, b, server_hostname=ANN), theirs.wrap_bio(b, a, server_side=True)]
    while sides:
        for side in list(sides):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
                sides.remove(side)
    return "verified"


# -- as a member speaks ---------------------------------------------------------------------------------------------


def handle(
    me: Party, node: ControlNode, node_id: str = "", shown: Papers | None = None, key: ClusterKey = KEY
) -> GRPCPeerHandle:
    made = identity(me, key)
    if shown is not None:
        made.tls.replace(shown)
    return GRPCPeerHandle("127.0.0.1", node.port, node_id, identity=made, describe=lambda: node_info(me))


async def test_a_node_with_another_key_is_told_so_by_name() -> None:
    """TLS ends it before a word is said; the error names both clusters all the same, and what to do."""
    async with bob() as node:
        with pytest.raises(ClusterMismatch) as caught:
            await handle(party("ann"), node, key=OTHER).connect()
        assert f"node 'bob' at 127.0.0.1:{node.port} belongs to cluster {FINGERPRINT[:8]}" in caught.value.message
        assert f"node 'ann' to {papers(key=OTHER).fingerprint[:8]}" in caught.value.message
        assert "exo join CODE" in caught.value.message
        assert not node.seen


async def test_a_server_that_took_our_name_proves_nothing(genuine: Papers) -> None:
    """Guard: the client's roots. A server that shows a certificate of our authority's name and no signature of it."""
    node = ControlNode(party("bob"))
    node.identity.tls.replace(forged_papers(stranger(FINGERPRINT), ["bob.exo", ANY_NODE], genuine))
    async with node.serving():
        with pytest.raises(ClusterMismatch, match="cannot prove that it holds this cluster's key"):
            await handle(party("ann"), node, "bob").connect()


async def test_another_member_answers_at_a_node_s_address() -> None:
    """Guard: the target's name. A member is not taken for the one that was dialled."""
    async with bob() as node:
        with pytest.raises(WrongNode, match="answers node 'bob', not 'eve'"):
            await handle(party("ann"), node, "eve").connect()


async def test_what_speaks_no_tls() -> None:
    """A port of something else, or of an exo-node without TLS, is told apart from another cluster's."""

    async def chat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(chat, "127.0.0.1", 0)
    async with server:
        node = ControlNode(party("bob"), port=server.sockets[0].getsockname()[1])
        with pytest.raises(ProtocolMismatch, match="speaks no TLS"):
            await handle(party("ann"), node).connect()


@pytest.mark.parametrize("shown", ["eve", "runner"])
async def test_a_member_cannot_speak_as_another(shown: str) -> None:
    """Guard: `check_speaker`. A certificate is for its own name only, a runner's for no node's at all."""
    names = (node_name("eve"), ANY_NODE) if shown == "eve" else (runner_name(INSTANCE),)
    async with bob() as node:
        with pytest.raises(Unauthorized, match="certificate is not of node 'ann'"):
            await handle(party("ann"), node, shown=papers(*names)).connect()
        assert not node.seen


async def test_a_recorded_handshake_is_worth_nothing() -> None:
    """Guard: the proof covers the server's nonce. A proof that a member once gave does not open a second session."""
    async with bob() as node:
        channel = tls(ANN).channel(f"127.0.0.1:{node.port}", "bob.exo", ())
        stub: Any = NodeServiceStub(channel)  # type: ignore[no-untyped-call]
        machine = identity(party("ann")).client_handshake()
        recorded: list[pb.HandshakeMessage] = []
        for attempt in range(2):
            call = stub.Handshake(timeout=20)
            await call.write(pb.HandshakeMessage(hello=machine.hello()))
            challenge = (await call.read()).challenge
            if not attempt:
                recorded.append(pb.HandshakeMessage(proof=pb.Proof(proof=machine.prove(challenge))))
            await call.write(recorded[0])
            if not attempt:
                assert (await call.read()).WhichOneof("message") == "welcome"
                continue
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        await channel.close(None)


# -- runners --------------------------------------------------------------------------------------------------------


async def test_runners_let_nobody_in_who_is_no_member_of_the_instance(tmp_path: Path) -> None:
    """Guards: TLS as on nodes' ports; the instance's token; the instance's name in the runner's certificate."""
    async with ring(model_folder(tmp_path), 1) as made:
        address = made.clients[0].address
        stranger_s = RingClient(address, TOKEN, tls(ANN, key=OTHER), INSTANCE)
        no_token = RingClient(address, b"guess", tls(ANN), INSTANCE)
        other_instance = RingClient(address, TOKEN, tls(ANN), "instance-2")
        refusals = ((stranger_s, PeerUnavailable), (no_token, Unauthorized), (other_instance, PeerUnavailable))
        for client, error in refusals:
            with pytest.raises(error):
                await client.stats()
            await client.close()
        plain: Any = grpc.aio.insecure_channel(address)
        async with plain:
            call = plain.unary_unary("/exo.v1.RingService/Stats")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(ring_pb2.StatsRequest().SerializeToString(), metadata=(("exo-instance-token", TOKEN.hex()),))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await alive(made)


async def alive(made: Ring) -> None:
    await made.clients[0].stats()


# -- after the key has changed -----------------------------------------------------------------------------------------


async def test_a_dropped_key_opens_nothing_and_keeps_nothing_open() -> None:
    """Guard: `Gate`. TLS checks a connection when it opens: one that an old key opened is refused call by call, its
    streams end, and it cannot shake hands anew; new connections with that key fail as a stranger's."""
    async with bob() as node:
        old = handle(party("ann"), node)
        await old.connect()
        watch = old.watch(silence=60)
        await anext(watch)
        assert await old.health_check()
        both = papers("bob.exo", ANY_NODE, key=OTHER)
        trusted = {**both.roots, **node.identity.tls.papers.roots}
        node.identity.tls.replace(dataclasses.replace(both, roots=trusted))
        assert await old.health_check()  # both are trusted: nothing happens
        assert node.gate.sweep() == 0
        node.identity.tls.replace(both)
        assert node.gate.sweep() == 1
        with pytest.raises(ExoError):
            async for _ in watch:
                pass
        with pytest.raises(Unauthorized, match="trusted no more"):
            await old.call("ProbeLink", pb.ProbeLinkRequest(), 20)
        await old.close()
        with pytest.raises(ClusterMismatch):
            await old.connect()
