"""What an attacker makes of certificates: anything but the cluster's own signature."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from exo_node.cluster.certificates import AUTHORITY, BEGIN, END, authority
from exo_node.cluster.keys import ClusterKey
from exo_node.types import Papers


@dataclass(frozen=True)
class Signer:
    """A private key with the name under which it signs, and the certificates that lead from it to a root."""

    key: Any
    name: x509.Name
    chain: str = ""


def name(fingerprint: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, AUTHORITY + fingerprint)])


def owner(key: ClusterKey, fingerprint: str) -> Signer:
    """Who holds a cluster's key, under any cluster's name."""
    return Signer(authority(key), name(fingerprint))


def stranger(fingerprint: str) -> Signer:
    """Who holds no key, and calls himself our authority."""
    return Signer(ec.generate_private_key(ec.SECP256R1()), name(fingerprint))


def member(papers: Papers) -> Signer:
    """Who signs with the key of a member's (or a runner's) certificate, as if it were an authority's."""
    key: Any = load_pem_private_key(papers.key.encode(), None)
    return Signer(key, x509.load_pem_x509_certificate(papers.certificate.encode()).subject, papers.certificate)


def forge(
    signer: Signer,
    names: Sequence[str],
    *,
    end: datetime.datetime = END,
    subject: x509.Name | None = None,
    can_sign: bool = False,
) -> tuple[Any, str]:
    """(private key, certificate and its chain as PEM)."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]) if subject is None else subject)
        .issuer_name(signer.name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(BEGIN)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(can_sign, None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), True)
    made = builder.sign(signer.key, SHA256())
    return key, made.public_bytes(Encoding.PEM).decode() + signer.chain


def forged_papers(signer: Signer, names: Sequence[str], genuine: Papers, **changes: Any) -> Papers:
    """Papers with a certificate that `signer` made; the rest is as in the `genuine` ones."""
    key, certificate = forge(signer, names, **changes)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return Papers(genuine.fingerprint, certificate, private, genuine.roots)
