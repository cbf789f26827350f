"""The authority that a cluster key is, and what it signs."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from exo_node.cluster.certificates import ORDER, PURPOSE, authority, fingerprint, sign
from exo_node.cluster.keys import ClusterKey
from exo_node.types import Papers

KEY, OTHER = ClusterKey(b"k" * 32), ClusterKey(b"o" * 32)


def certificate(papers: Papers) -> x509.Certificate:
    return x509.load_pem_x509_certificate(papers.certificate.encode())


def root(papers: Papers) -> x509.Certificate:
    return x509.load_pem_x509_certificate(papers.roots[papers.fingerprint].encode())


def test_the_authority_s_key_is_derived_as_written() -> None:
    """Scalar = HKDF-SHA256(key, purpose, 48 bytes) mod (n - 1) + 1 on P-256, by another implementation of HKDF."""
    raw = HKDF(SHA256(), 48, None, PURPOSE).derive(KEY.secret)
    wanted = int.from_bytes(raw, "big") % (ORDER - 1) + 1
    assert authority(KEY).private_numbers().private_value == wanted
    assert wanted < ORDER == ec.SECP256R1().group_order


def test_two_nodes_have_one_authority() -> None:
    """Signed on two machines: name and key of the authority are the same, so each one's copy verifies the other's."""
    (a,), (b,) = sign(KEY, [["a.exo"]]), sign(KEY, [["b.exo"]])
    assert root(a).subject == root(b).subject == certificate(a).issuer
    assert root(a).public_key() == root(b).public_key()
    assert a.fingerprint == b.fingerprint == fingerprint(KEY) != fingerprint(OTHER)
    certificate(b).verify_directly_issued_by(root(a))
    with pytest.raises((InvalidSignature, ValueError)):
        certificate(b).verify_directly_issued_by(root(sign(OTHER, [["b.exo"]])[0]))


def test_a_certificate_says_who_and_nothing_more() -> None:
    """Its names, no right to sign, a key of its own each time; valid on a machine whose clock starts in 1970."""
    first, second = sign(KEY, [["a.exo", "any.node.exo"], ["x.runner.exo"]])
    names = certificate(first).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a.exo", "any.node.exo"]
    assert not certificate(first).extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert root(first).extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert certificate(first).public_key() != certificate(second).public_key()
    assert certificate(first).not_valid_before_utc.year == 1970
    assert certificate(first).not_valid_after_utc.year == 9999
    assert "PRIVATE" not in repr(first)
