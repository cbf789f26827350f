"""Who a node is, before, while and after its cluster's key changes."""

from __future__ import annotations

import dataclasses

import pytest

from exo_node.errors import ClusterMismatch
from exo_node.transport.generated.exo.v1 import node_pb2 as pb
from exo_node.transport.handshake import Party, Session
from exo_node.transport.identity import NodeIdentity
from tests.papers import FINGERPRINT, OTHER, identity, papers

NEW = papers(key=OTHER).fingerprint


def changing(name: str, shown: str) -> NodeIdentity:
    """A node that trusts both keys and shows a certificate of one of them."""
    made = identity(Party(name, "boot", "", "1"))
    mine = papers(f"{name}.exo") if shown == FINGERPRINT else papers(f"{name}.exo", key=OTHER)
    roots = {**papers().roots, **papers(key=OTHER).roots}
    made.replace(dataclasses.replace(mine, roots=roots), {FINGERPRINT: b"old", NEW: b"new"})
    return made


def shake(client: NodeIdentity, server: NodeIdentity) -> Session:
    ours = client.client_handshake()
    hello = ours.hello()
    theirs = server.server_handshake(hello.cluster_fingerprint)
    session = theirs.finish(ours.prove(theirs.challenge(hello)))
    return ours.finish(pb.Welcome(session_id=session.session_id, protocol=session.protocol))


@pytest.mark.parametrize("client", [FINGERPRINT, NEW])
@pytest.mark.parametrize("server", [FINGERPRINT, NEW])
def test_between_the_steps_of_a_rotation_all_understand_each_other(client: str, server: str) -> None:
    """Whichever of the two keys each side shows: the server answers by the caller's."""
    assert shake(changing("ann", client), changing("bob", server)).peer.node_id == "bob"


def test_other_keys_are_refused_by_name() -> None:
    """A caller of a cluster that we do not go by is answered by our own name."""
    bob = changing("bob", NEW)
    assert set(bob.fingerprints) == {FINGERPRINT, NEW}
    stranger = NodeIdentity(Party("eve", "boot", "", "1"))
    stranger.replace(dataclasses.replace(papers(), fingerprint="0" * 32, roots={}), {"0" * 32: b"x"})
    with pytest.raises(ClusterMismatch, match=f"'eve' belongs to cluster 00000000, node 'bob' to {NEW[:8]}"):
        shake(stranger, bob)
