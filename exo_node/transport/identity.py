"""Who this node is to its peers: its names, its papers, and the secrets of the keys that it trusts."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

from exo_node.transport.handshake import ClientHandshake, Party, ServerHandshake
from exo_node.transport.tls import TlsIdentity
from exo_node.types import Papers


class NodeIdentity:
    """Everything about a node that its cluster's key decides, and the rotation of that key changes."""

    def __init__(self, me: Party) -> None:
        """The fingerprint of `me` does not count; the papers' does, once there are any."""
        self.tls = TlsIdentity()
        self._me = me
        self._secrets: Mapping[str, bytes] = {}

    @property
    def node_id(self) -> str:
        return self._me.node_id

    @property
    def boot_id(self) -> str:
        return self._me.boot_id

    @property
    def fingerprint(self) -> str:
        """The cluster of the certificate that we show."""
        return self.tls.papers.fingerprint

    @property
    def fingerprints(self) -> Collection[str]:
        """All names that our cluster goes by: two while its key changes."""
        return self._secrets.keys()

    @property
    def party(self) -> Party:
        return dataclasses.replace(self._me, fingerprint=self.fingerprint)

    def replace(self, papers: Papers, secrets: Mapping[str, bytes]) -> None:
        """`secrets`: for the handshake, by fingerprint; of every key whose authority is in the papers."""
        self._secrets = dict(secrets)
        self.tls.replace(papers)

    def client_handshake(self) -> ClientHandshake:
        return ClientHandshake(self.party, self._secrets[self.fingerprint])

    def server_handshake(self, theirs: str) -> ServerHandshake:
        """For a caller of the cluster `theirs`: answers by that name where we go by it too."""
        name = theirs if theirs in self._secrets else self.fingerprint
        return ServerHandshake(dataclasses.replace(self._me, fingerprint=name), self._secrets[name])
