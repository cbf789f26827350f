"""Certificates for tests: of the cluster that they play in, and of others."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from exo_node.cluster.certificates import fingerprint, sign
from exo_node.cluster.keys import ClusterKey
from exo_node.key_rotation import HANDSHAKE_PURPOSE
from exo_node.transport.handshake import Party
from exo_node.transport.identity import NodeIdentity
from exo_node.transport.tls import ANY_NODE, TlsIdentity, node_name
from exo_node.types import Papers

KEY = ClusterKey(b"k" * 32)
OTHER = ClusterKey(b"o" * 32)
FINGERPRINT = fingerprint(KEY)


@cache
def papers(*names: str, key: ClusterKey = KEY) -> Papers:
    """A certificate for these names."""
    (made,) = sign(key, [names])
    return made


def tls(*names: str, key: ClusterKey = KEY) -> TlsIdentity:
    """What a process of these names shows."""
    return TlsIdentity(papers(*names, key=key))


def identity(me: Party, key: ClusterKey = KEY) -> NodeIdentity:
    """A node as a daemon with that key makes it."""
    made = NodeIdentity(me)
    shown = papers(node_name(me.node_id), ANY_NODE, key=key)
    made.replace(shown, {shown.fingerprint: key.subkey(HANDSHAKE_PURPOSE)})
    return made


class Issuer:
    """Makes certificates as `KeyRing` does, here."""

    version = 0

    async def issue(self, lists: Sequence[Sequence[str]]) -> list[Papers]:
        return [papers(*names) for names in lists]
