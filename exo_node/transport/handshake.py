"""How two nodes prove to each other that they hold the same cluster key, as pure state machines.

    client                                   server
    Hello(ids, fingerprint, protocols, nonce) ->
                                             <- Challenge(ids, fingerprint, protocols, nonce, proof)
    Proof(proof, node) ->
                                             <- Welcome(session_id, protocol, node)

Both proofs are HMAC-SHA256 under a subkey of the cluster key over the whole exchange (both sides' ids, boot ids,
versions, protocol ranges and fresh nonces), with a label for each direction, so neither can be replayed or reflected.
The session's key is derived from the same and never sent. Peers of other clusters and protocols are refused by name.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field

from exo_node.errors import ClusterMismatch, InvalidRequest, ProtocolMismatch
from exo_node.transport.generated.exo.v1 import node_pb2 as pb

PROTOCOL_MIN = 1
PROTOCOL_MAX = 1
NONCE_BYTES = 32


@dataclass(frozen=True, slots=True)
class Party:
    """One side of a handshake. `fingerprint` is the cluster's public name."""

    node_id: str
    boot_id: str
    fingerprint: str
    version: str
    protocol_min: int = PROTOCOL_MIN
    protocol_max: int = PROTOCOL_MAX


@dataclass(frozen=True, slots=True)
class Session:
    """The result: whom we speak with, and a key that both sides know."""

    session_id: str
    peer: Party
    protocol: int
    key: bytes = field(repr=False)

    def proof(self, method: str) -> str:
        """What goes into the metadata `exo-proof` of a call of `method` ("/exo.v1.NodeService/Watch")."""
        return hmac.digest(self.key, b"call\0" + method.encode(), "sha256").hex()


class ClientHandshake:
    """The dialling side: `hello()`, then `prove(challenge)`, then `finish(welcome)`."""

    def __init__(self, me: Party, secret: bytes, *, nonce: bytes | None = None) -> None:
        self._me = me
        self._secret = secret
        self._nonce = secrets.token_bytes(NONCE_BYTES) if nonce is None else nonce
        self._peer: Party | None = None
        self._transcript = b""

    def hello(self) -> pb.Hello:
        return pb.Hello(
            node_id=self._me.node_id,
            boot_id=self._me.boot_id,
            cluster_fingerprint=self._me.fingerprint,
            protocol_min=self._me.protocol_min,
            protocol_max=self._me.protocol_max,
            version=self._me.version,
            nonce=self._nonce,
        )

    def prove(self, challenge: pb.Challenge) -> bytes:
        """Check the server's proof and return ours. Raises `ClusterMismatch`, `ProtocolMismatch`, `InvalidRequest`."""
        peer = _party(challenge)
        agree(self._me, peer)
        _check_nonce(peer, challenge.nonce)
        self._peer = peer
        self._transcript = transcript(self._me, self._nonce, peer, challenge.nonce)
        if not hmac.compare_digest(challenge.proof, _proof(self._secret, b"server", self._transcript)):
            raise ClusterMismatch(f"node {peer.node_id!r} could not prove that it holds this cluster's key")
        return _proof(self._secret, b"client", self._transcript)

    def finish(self, welcome: pb.Welcome) -> Session:
        if self._peer is None:
            raise InvalidRequest("a Welcome before the Challenge")
        protocol = agree(self._me, self._peer)
        if welcome.protocol != protocol or not welcome.session_id:
            raise ProtocolMismatch(
                f"node {self._peer.node_id!r} chose protocol {welcome.protocol} where {protocol} was agreed"
            )
        key = _session_key(self._secret, self._transcript, welcome.session_id)
        return Session(welcome.session_id, self._peer, protocol, key)


class ServerHandshake:
    """The answering side: `challenge(hello)`, then `finish(proof)`."""

    def __init__(self, me: Party, secret: bytes, *, nonce: bytes | None = None) -> None:
        self._me = me
        self._secret = secret
        self._nonce = secrets.token_bytes(NONCE_BYTES) if nonce is None else nonce
        self._peer: Party | None = None
        self._transcript = b""

    def challenge(self, hello: pb.Hello) -> pb.Challenge:
        """Raises `ClusterMismatch`, `ProtocolMismatch`, `InvalidRequest`; gives no proof to another cluster."""
        peer = _party(hello)
        agree(self._me, peer)
        _check_nonce(peer, hello.nonce)
        self._peer = peer
        self._transcript = transcript(peer, hello.nonce, self._me, self._nonce)
        return pb.Challenge(
            node_id=self._me.node_id,
            boot_id=self._me.boot_id,
            cluster_fingerprint=self._me.fingerprint,
            protocol_min=self._me.protocol_min,
            protocol_max=self._me.protocol_max,
            version=self._me.version,
            nonce=self._nonce,
            proof=_proof(self._secret, b"server", self._transcript),
        )

    def finish(self, proof: bytes) -> Session:
        """Check the client's proof; the session's id goes into the Welcome."""
        if self._peer is None:
            raise InvalidRequest("a Proof before the Hello")
        if not hmac.compare_digest(proof, _proof(self._secret, b"client", self._transcript)):
            raise ClusterMismatch(f"node {self._peer.node_id!r} could not prove that it holds this cluster's key")
        session_id = secrets.token_hex(16)
        key = _session_key(self._secret, self._transcript, session_id)
        return Session(session_id, self._peer, agree(self._me, self._peer), key)


def agree(me: Party, peer: Party) -> int:
    """The protocol version that both speak. Raises `ClusterMismatch` or `ProtocolMismatch` with both sides' facts."""
    if not hmac.compare_digest(me.fingerprint.encode(), peer.fingerprint.encode()):
        raise ClusterMismatch(
            f"node {peer.node_id!r} belongs to cluster {peer.fingerprint[:8]}, node {me.node_id!r} to "
            f"{me.fingerprint[:8]}; `exo key` on one and `exo join CODE` on the other make them one cluster"
        )
    protocol = min(me.protocol_max, peer.protocol_max)
    if protocol < max(me.protocol_min, peer.protocol_min):
        raise ProtocolMismatch(
            f"node {peer.node_id!r} (exo {peer.version}) speaks protocol {peer.protocol_min}-{peer.protocol_max}, "
            f"node {me.node_id!r} (exo {me.version}) speaks {me.protocol_min}-{me.protocol_max}; update the older one"
        )
    return protocol


def transcript(client: Party, client_nonce: bytes, server: Party, server_nonce: bytes) -> bytes:
    """Everything both sides said, each field with its length before it, so that no two exchanges read the same."""
    parts: list[bytes] = [b"exo handshake v1"]
    for party, nonce in ((client, client_nonce), (server, server_nonce)):
        parts += [party.node_id.encode(), party.boot_id.encode(), party.fingerprint.encode(), party.version.encode()]
        parts += [str(party.protocol_min).encode(), str(party.protocol_max).encode(), nonce]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _party(message: pb.Hello | pb.Challenge) -> Party:
    if not message.node_id or not message.boot_id:
        raise InvalidRequest("handshake without node_id or boot_id", param="node_id")
    return Party(
        message.node_id,
        message.boot_id,
        message.cluster_fingerprint,
        message.version,
        message.protocol_min,
        message.protocol_max,
    )


def _check_nonce(peer: Party, nonce: bytes) -> None:
    if len(nonce) < NONCE_BYTES:
        raise InvalidRequest(f"node {peer.node_id!r} sent a nonce of {len(nonce)} bytes, {NONCE_BYTES} are needed")


def _proof(secret: bytes, label: bytes, exchange: bytes) -> bytes:
    return hmac.digest(secret, label + b"\0" + exchange, "sha256")


def _session_key(secret: bytes, exchange: bytes, session_id: str) -> bytes:
    return hmac.digest(secret, b"session\0" + session_id.encode() + b"\0" + exchange, "sha256")
