"""The handshake as state machines: no socket."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_node.errors import ClusterMismatch, InvalidRequest, ProtocolMismatch
from exo_node.transport.generated.exo.v1 import node_pb2 as pb
from exo_node.transport.handshake import ClientHandshake, Party, ServerHandshake, Session, agree, transcript

SECRET = b"k" * 32
ANN = Party("ann", "boot-a", "f" * 32, "0.1.0")
BOB = Party("bob", "boot-b", "f" * 32, "0.1.0")


def shake(client: ClientHandshake, server: ServerHandshake) -> tuple[Session, Session]:
    proof = client.prove(server.challenge(client.hello()))
    theirs = server.finish(proof)
    return client.finish(pb.Welcome(session_id=theirs.session_id, protocol=theirs.protocol)), theirs


def test_both_sides_agree() -> None:
    """Two holders of the key end with one session: same id, same key, each knowing the other."""
    ours, theirs = shake(ClientHandshake(ANN, SECRET), ServerHandshake(BOB, SECRET))
    assert (ours.session_id, ours.key, ours.protocol) == (theirs.session_id, theirs.key, theirs.protocol)
    assert (ours.peer, theirs.peer) == (BOB, ANN)
    assert ours.proof("/a") == theirs.proof("/a") != ours.proof("/b")
    assert ours.key.hex() not in repr(ours)


def test_every_session_has_its_own_key() -> None:
    """The same two nodes never get the same key twice."""
    keys = {shake(ClientHandshake(ANN, SECRET), ServerHandshake(BOB, SECRET))[0].key for _ in range(3)}
    assert len(keys) == 3


def test_wrong_key_on_the_server() -> None:
    """A server that only copied the fingerprint is found out by the client."""
    with pytest.raises(ClusterMismatch, match="'bob' could not prove"):
        shake(ClientHandshake(ANN, SECRET), ServerHandshake(BOB, b"x" * 32))


def test_wrong_key_on_the_client() -> None:
    """A client that only copied the fingerprint is found out by the server."""
    client, server = ClientHandshake(ANN, SECRET), ServerHandshake(BOB, SECRET)
    server.challenge(client.hello())
    with pytest.raises(ClusterMismatch, match="'ann' could not prove"):
        server.finish(b"x" * 32)


def test_reflected_proof() -> None:
    """The server's own proof sent back to it proves nothing."""
    server = ServerHandshake(BOB, SECRET)
    challenge = server.challenge(ClientHandshake(ANN, SECRET).hello())
    with pytest.raises(ClusterMismatch):
        server.finish(challenge.proof)


def test_replayed_proof() -> None:
    """A proof of an earlier exchange does not fit the next one's nonce."""
    client = ClientHandshake(ANN, SECRET, nonce=b"n" * 32)
    proof = client.prove(ServerHandshake(BOB, SECRET).challenge(client.hello()))
    server = ServerHandshake(BOB, SECRET)
    server.challenge(client.hello())
    with pytest.raises(ClusterMismatch):
        server.finish(proof)


def test_other_cluster() -> None:
    """Another cluster is named on both sides before any proof is given."""
    other = dataclasses.replace(BOB, fingerprint="0" * 32)
    with pytest.raises(ClusterMismatch, match="'ann' belongs to cluster ffffffff, node 'bob' to 00000000"):
        ServerHandshake(other, SECRET).challenge(ClientHandshake(ANN, SECRET).hello())


def test_other_protocol() -> None:
    """Disjoint protocol ranges are refused with both ranges and both versions."""
    newer = dataclasses.replace(BOB, protocol_min=3, protocol_max=4, version="9.0")
    with pytest.raises(ProtocolMismatch, match=r"\(exo 9\.0\) speaks protocol 3-4.*\(exo 0\.1\.0\) speaks 1-1"):
        agree(ANN, newer)
    assert agree(dataclasses.replace(ANN, protocol_max=5), dataclasses.replace(BOB, protocol_max=3)) == 3


def test_tampered_versions_break_the_proof() -> None:
    """Whoever changes a field on the way (to force an old protocol) makes the proof invalid."""
    client, server = ClientHandshake(dataclasses.replace(ANN, protocol_max=2), SECRET), ServerHandshake(BOB, SECRET)
    hello = client.hello()
    hello.protocol_max = 1
    with pytest.raises(ClusterMismatch):
        client.prove(server.challenge(hello))


def test_order() -> None:
    """Messages out of order are the peer's fault, said so."""
    with pytest.raises(InvalidRequest):
        ServerHandshake(BOB, SECRET).finish(b"")
    with pytest.raises(InvalidRequest):
        ClientHandshake(ANN, SECRET).finish(pb.Welcome())
    with pytest.raises(InvalidRequest, match="nonce"):
        ServerHandshake(BOB, SECRET).challenge(pb.Hello(node_id="a", boot_id="b", cluster_fingerprint="f" * 32,
                                                        protocol_min=1, protocol_max=1))  # fmt: skip


texts = st.text(max_size=6)
parties = st.builds(Party, texts, texts, texts, texts, st.integers(1, 12), st.integers(1, 12))


@given(parties, parties, st.binary(max_size=3), st.binary(max_size=3))
def test_transcripts_differ(a: Party, b: Party, nonce: bytes, other: bytes) -> None:
    """Different exchanges never read the same, however the fields are cut."""
    same = (a, nonce) == (b, other)
    assert same == (transcript(a, nonce, BOB, b"") == transcript(b, other, BOB, b""))
