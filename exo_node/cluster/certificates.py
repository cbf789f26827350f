"""The cluster's certificate authority, which is the cluster key in another shape, and the certificates that it signs.

One key, one authority: its private key is derived from the cluster key, its name holds the fingerprint. Two nodes'
copies of its certificate differ in the signature (ECDSA draws a random number); what counts, key and name, is the same.
So every member signs for itself, and no private key but the cluster's is ever written to a disk.

Certificates are valid from 1970 to 9999 (a machine without a battery starts in 1970): what ends them is another key.

`cryptography` costs a process 12 MB: `python -m` of this file is a child that signs and ends (issuing.py).
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from exo_node.cluster.keys import ClusterKey
from exo_node.types import Papers

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

PURPOSE = b"exo certificate authority v1"
# The order of P-256 (FIPS 186-5). 48 bytes modulo it are uniform but for 2^-128 (FIPS 186-5, A.2.1). Ed25519 fails in
# grpcio: NO_COMMON_SIGNATURE_ALGORITHMS.
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
SCALAR_BYTES = 48
AUTHORITY = "exo cluster "  # and the fingerprint: the issuer's name in every certificate (transport/tls.py reads it)
BEGIN, END = datetime.datetime(1970, 1, 2), datetime.datetime(9999, 12, 31, 23, 59, 59)


def authority(key: ClusterKey) -> ec.EllipticCurvePrivateKey:
    """The private key of the cluster's authority."""
    from cryptography.hazmat.primitives.asymmetric import ec

    scalar = int.from_bytes(key.subkey(PURPOSE, SCALAR_BYTES), "big") % (ORDER - 1) + 1
    return ec.derive_private_key(scalar, ec.SECP256R1())


def fingerprint(key: ClusterKey) -> str:
    """The cluster's public name: 32 hexadecimal digits of the hash of the authority's public key (SPKI)."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = authority(key).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(public).hexdigest()[:32]


def sign(key: ClusterKey, lists: Sequence[Sequence[str]]) -> list[Papers]:
    """A new private key and a certificate for each list of DNS names."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    issuer, name = authority(key), fingerprint(key)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, AUTHORITY + name)])
    # No certificate that may sign stands between the authority and a member's: `issuer` is the signer, always.
    root = _certificate(
        subject, subject, issuer.public_key(), issuer, x509.BasicConstraints(ca=True, path_length=0), ()
    )
    made = []
    for names in lists:
        own = ec.generate_private_key(ec.SECP256R1())
        leaf = _certificate(
            x509.Name([]), subject, own.public_key(), issuer, x509.BasicConstraints(ca=False, path_length=None), names
        )
        private = own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        made.append(Papers(name, leaf, private, {name: root}))
    return made


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: Any,
    signer: ec.EllipticCurvePrivateKey,
    constraints: x509.BasicConstraints,
    names: Sequence[str],
) -> str:
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding

    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(BEGIN)
        .not_valid_after(END)
        .add_extension(constraints, critical=True)
    )
    if names:
        # Critical, as RFC 5280 (4.2.1.6) wants it where the subject is empty.
        alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = builder.add_extension(alternatives, critical=True)
    return builder.sign(signer, SHA256()).public_bytes(Encoding.PEM).decode()


def main() -> None:
    """The child: standard input to standard output, both JSON."""
    asked = json.load(sys.stdin)
    made = sign(ClusterKey(bytes.fromhex(asked["key"])), asked["names"])
    fields = [
        {"fingerprint": one.fingerprint, "certificate": one.certificate, "key": one.key, "roots": dict(one.roots)}
        for one in made
    ]
    os.write(1, json.dumps(fields).encode())


if __name__ == "__main__":
    main()
