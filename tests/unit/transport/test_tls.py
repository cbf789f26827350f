"""What is read of certificates; connections are in tests/integration/test_trust.py."""

from __future__ import annotations

import dataclasses
import re
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

import exo_node
from exo_node.errors import PeerUnavailable
from exo_node.transport.tls import TlsIdentity, explain, issuer, node_name, runner_name
from tests.forgery import forged_papers, name, owner
from tests.papers import FINGERPRINT, KEY, OTHER, papers


def der(pem: str) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem)


def test_the_issuer_is_read_from_its_place() -> None:
    """Of ours the fingerprint; whatever else names an authority (subject, names) does not count."""
    ours, theirs = papers("a.exo"), papers("a.exo", key=OTHER)
    assert issuer(der(ours.certificate)) == FINGERPRINT
    assert issuer(der(theirs.certificate)) == theirs.fingerprint != FINGERPRINT
    posing = forged_papers(owner(OTHER, theirs.fingerprint), [f"exo cluster {FINGERPRINT}"], theirs,
                           subject=name(FINGERPRINT))  # fmt: skip
    assert FINGERPRINT.encode() in der(posing.certificate)
    assert issuer(der(posing.certificate)) == theirs.fingerprint
    unlike = forged_papers(owner(KEY, f"{FINGERPRINT} and more"), ["a.exo"], ours)
    assert issuer(der(unlike.certificate)) == ""


def test_a_serial_number_is_no_issuer() -> None:
    """A member chooses its certificate's serial number: as long as a name, with a name in it."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding

    from exo_node.cluster.certificates import BEGIN, END

    # cryptography allows 20 bytes: as much of a name as fits.
    serial = int.from_bytes(f"\x0cexo cluster {FINGERPRINT}".encode()[:19], "big")
    key = ec.generate_private_key(ec.SECP256R1())
    made = (
        x509.CertificateBuilder().subject_name(name(FINGERPRINT)).issuer_name(name("0" * 32))
        .public_key(key.public_key()).serial_number(serial).not_valid_before(BEGIN).not_valid_after(END)
        .sign(key, SHA256())
    )  # fmt: skip
    assert issuer(made.public_bytes(Encoding.DER)) == "0" * 32


@given(st.binary(max_size=200), st.integers(0, 600))
def test_garbage_has_no_issuer(noise: bytes, cut: int) -> None:
    """Anybody may show anything: no input is an error."""
    genuine = der(papers("a.exo").certificate)
    assert issuer(noise) == ""
    assert issuer(genuine[:cut]) in ("", FINGERPRINT)
    # What is put within the name is part of it: TLS has checked the signature before anybody asks.
    assert re.fullmatch("([0-9a-f]{32})?", issuer(genuine[:cut] + noise + genuine[cut:]))


def test_who_is_admitted() -> None:
    """Those whose key is trusted now; nobody without a certificate."""
    identity = TlsIdentity(papers("a.exo"))
    ours, theirs = (papers("b.exo", key=key).certificate.encode() for key in (KEY, OTHER))
    assert identity.admits(ours)
    assert not identity.admits(theirs)
    assert not identity.admits(b"")
    both = {**papers("a.exo").roots, **papers("a.exo", key=OTHER).roots}
    identity.replace(dataclasses.replace(papers("a.exo"), roots=both))
    assert identity.admits(theirs)
    assert identity.version == 1


def test_names() -> None:
    """A node's name can be no runner's and not everybody's: a node's id holds no dots."""
    assert len({node_name(""), node_name("any"), node_name("x"), runner_name("x")}) == 4
    with pytest.raises(RuntimeError):
        _ = TlsIdentity().papers


async def test_other_failures_stay_what_they_are() -> None:
    """A peer that is away is not asked for its certificate."""
    error = PeerUnavailable("node bob cannot be reached: Connection refused")
    assert await explain(error, "127.0.0.1", 1, me="ann", wanted="bob", papers=papers("a.exo")) is error


def test_there_is_no_port_and_no_channel_without_tls() -> None:
    """Guard of every guard: no line of the package opens an insecure one."""
    root = Path(exo_node.__file__).parent
    found = [path for path in root.rglob("*.py") if re.search(r"insecure_(channel|port)\(", path.read_text())]
    assert [path for path in found if "generated" not in path.parts] == []
