"""Mutual TLS on every gRPC port: what this process shows, whom it lets in, and what a refusal means.

A certificate is signed by the cluster's authority (cluster/certificates.py) and names a node or a runner. TLS itself
checks chain and name when a connection opens; `admits` is for those that were open before a key was dropped.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import grpc
import grpc.aio

from exo_node.errors import ClusterMismatch, ExoError, ProtocolMismatch, Unauthorized, WrongNode
from exo_node.transport.server import grpc_target
from exo_node.types import Papers

ANY_NODE = "any.node.exo"  # every node's certificate has it too: for a peer of which only the address is known
EXPLAIN_TIMEOUT_S = 2.0
_ISSUER = re.compile(rb"exo cluster ([0-9a-f]{32})\Z")
_NODE = re.compile(rb"\x82.([A-Za-z0-9-]{1,42})\.exo", re.DOTALL)  # a dNSName (RFC 5280, 4.2.1.6) in DER
_HINTS = ("handshake failed", "verification", "verify", "Socket closed")  # in gRPC's words for a failed connection


def node_name(node_id: str) -> str:
    """The DNS name in a node's certificate; without an id the one that they all have."""
    return f"{node_id}.exo" if node_id else ANY_NODE


def runner_name(instance_id: str) -> str:
    return f"{instance_id}.runner.exo"


class TlsIdentity:
    """The papers of this process. `version` grows when they are replaced: connections made before show the old ones."""

    def __init__(self, papers: Papers | None = None) -> None:
        self._papers = papers
        self.version = 0

    @property
    def papers(self) -> Papers:
        if self._papers is None:
            raise RuntimeError("this process has no certificate yet")
        return self._papers

    def replace(self, papers: Papers) -> None:
        """Show and believe these from now on: in every connection that opens, on ports that are open too."""
        self._papers = papers
        self.version += 1

    def admits(self, certificate: bytes) -> bool:
        """Whether the key that signed this PEM, whose chain TLS has checked, is trusted now."""
        return issuer(_der(certificate)) in self.papers.roots

    def is_present(self, certificate: bytes) -> bool:
        """Whether this PEM, whose chain TLS has checked, is of the very key that we show, and not of one that goes."""
        return issuer(_der(certificate)) == self.papers.fingerprint

    def channel(self, address: str, name: str, options: Sequence[tuple[str, Any]]) -> grpc.aio.Channel:
        """A channel to `address` (host:port), where a certificate for `name` must be shown."""
        papers = self.papers
        credentials = grpc.ssl_channel_credentials(_roots(papers), papers.key.encode(), papers.certificate.encode())
        return grpc.aio.secure_channel(
            grpc_target(address), credentials, options=[*options, ("grpc.ssl_target_name_override", name)]
        )

    def server_credentials(self) -> grpc.ServerCredentials:
        """For a port: always the present papers, and no client without a certificate of a trusted key."""
        served = self.version

        def present() -> Any:  # at each connection, by a thread of gRPC; None means as before
            nonlocal served
            if served == self.version:
                return None
            served = self.version
            return _server_configuration(self.papers)

        make: Callable[..., grpc.ServerCredentials] = vars(grpc)["dynamic_ssl_server_credentials"]  # not in the stubs
        return make(_server_configuration(self.papers), present, require_client_authentication=True)


class Line:
    """A channel and its stub. Once retired it is closed as soon as no call runs on it."""

    def __init__(self, channel: grpc.aio.Channel, stub: Any) -> None:
        self.channel = channel
        self.stub = stub
        self._calls = 0
        self._retired = False

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncGenerator[Any, None]:
        """The stub, for one call."""
        self._calls += 1
        try:
            yield self.stub
        finally:
            self._calls -= 1
            await self._tidy()

    async def retire(self) -> None:
        self._retired = True
        await self._tidy()

    async def _tidy(self) -> None:
        if self._retired and not self._calls:
            await self.close()

    async def close(self) -> None:
        """Now; calls that run are cancelled."""
        await self.channel.close(None)


def _roots(papers: Papers) -> bytes:
    return "".join(papers.roots.values()).encode()


def _server_configuration(papers: Papers) -> Any:
    make: Callable[..., Any] = vars(grpc)["ssl_server_certificate_configuration"]
    return make([(papers.key.encode(), papers.certificate.encode())], _roots(papers))


def peer_certificate(context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    """The PEM that the caller showed; empty on a connection without TLS."""
    return b"".join(context.auth_context().get("x509_pem_cert", ()))


def check_speaker(context: grpc.aio.ServicerContext[Any, Any], node_id: str) -> None:
    """Raises `Unauthorized` where the caller's certificate is not that of node `node_id`."""
    names = context.auth_context().get("x509_subject_alternative_name", ())
    if node_name(node_id).encode() not in names:
        shown = ", ".join(sorted(name.decode(errors="replace") for name in names)) or "none"
        raise Unauthorized(
            f"this connection's certificate is not of node {node_id!r} (it names {shown})", code="not_it"
        )


def issuer(der: bytes) -> str:
    """The fingerprint of the authority that signed a certificate; "" where it is none of ours.

    Reads the issuer's place in the structure (RFC 5280, 4.1) and no other: whoever is a member chooses all the rest.
    """
    try:
        _, body, _ = _element(der, 0)  # Certificate
        _, body, _ = _element(body, 0)  # TBSCertificate
        tag, _, position = _element(body, 0)  # [0] version, or the serial number right away
        if tag == 0xA0:
            _, _, position = _element(body, position)
        _, _, position = _element(body, position)  # signature algorithm
        _, name, _ = _element(body, position)
    except IndexError:
        return ""
    found = _ISSUER.search(name)
    return found[1].decode() if found else ""


def _element(data: bytes, position: int) -> tuple[int, bytes, int]:
    """(tag, content, where the next one begins) of a DER element. Raises `IndexError` where the data ends too early."""
    tag, length, start = data[position], data[position + 1], position + 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[position + 2 : start], "big")
    if start + length > len(data):
        raise IndexError(position)
    return tag, data[start : start + length], start + length


def _der(pem: bytes) -> bytes:
    return base64.b64decode(b"".join(line for line in pem.splitlines() if not line.startswith(b"-----")))


async def explain(error: ExoError, host: str, port: int, *, me: str, wanted: str, papers: Papers) -> ExoError:
    """What a failed connection of node `me` to node `wanted` ("" = any) is about: TLS fails before any word is said.

    Looks at the certificate that is shown there, without trust in it. Gives `error` where that tells nothing.
    """
    if not any(hint in error.message for hint in _HINTS):
        return error
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        async with asyncio.timeout(EXPLAIN_TIMEOUT_S):
            shown = await _look(host, port)
    except ssl.SSLError:
        return ProtocolMismatch(f"what answers at {where} speaks no TLS: run the same exo version everywhere")
    except (OSError, TimeoutError):
        return error
    names = [name.decode() for name in _NODE.findall(shown)]
    theirs, who = issuer(shown), f"node {names[0]!r} at {where}" if names else f"what answers at {where}"
    if not theirs:
        return ClusterMismatch(f"{who} shows no certificate of an exo cluster")
    if theirs not in papers.roots:
        return ClusterMismatch(
            f"{who} belongs to cluster {theirs[:8]}, node {me!r} to {papers.fingerprint[:8]}; "
            "`exo key` on one and `exo join CODE` on the other make them one cluster"
        )
    if wanted and names and wanted not in names:
        return WrongNode(f"at {where} answers node {names[0]!r}, not {wanted!r}")
    if "handshake failed" in error.message:  # not merely ended: what is shown there is no good
        return ClusterMismatch(f"{who} names our cluster, but cannot prove that it holds this cluster's key")
    return error


async def _look(host: str, port: int) -> bytes:
    """The certificate (DER) that a server shows to anybody. Nothing is sent to it, and nothing else is believed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=ANY_NODE)
    try:
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.transport.abort()
    return bytes(shown or b"")
