"""A node whose API speaks HTTPS, and the commands of its machine and of others."""

from __future__ import annotations

import ipaddress
import json
import ssl
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from exo_node.cli.main import dispatch
from exo_node.cluster.certificates import BEGIN, END
from tests.integration.harness import NodeProcess


def self_signed(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, as many are made at home."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder().subject_name(who).issuer_name(who).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(BEGIN).not_valid_after(END)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, SHA256())
    )  # fmt: skip
    certificate, private = folder / f"{name}.pem", folder / f"{name}.key"
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, private


@dataclass
class Served:
    node: NodeProcess
    certificate: Path
    other: Path

    @property
    def port(self) -> str:
        return self.node.api.rpartition(":")[2]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("https")
    (certificate, key), (other, _) = self_signed(folder, "node"), self_signed(folder, "other")
    arguments = ["--discovery-module", "none", "--tls-cert", str(certificate), "--tls-key", str(key)]
    node = NodeProcess(folder / "home", *arguments)
    try:
        yield Served(node.wait_ready(), certificate, other)
    finally:
        node.stop()


def test_only_tls_is_spoken(served: Served) -> None:
    """Who trusts the certificate is answered, who does not ends the handshake, plain text gets nothing."""
    assert served.node.api.startswith("https://127.0.0.1:")
    trusting = ssl.create_default_context(cafile=str(served.certificate))
    with urllib.request.urlopen(f"{served.node.api}/health", context=trusting) as answer:
        assert json.loads(answer.read())["status"] == "ok"
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(f"{served.node.api}/health", context=ssl.create_default_context())
    with pytest.raises(OSError):
        urllib.request.urlopen(served.node.api.replace("https", "http") + "/health")


def test_commands_of_the_same_machine(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They know that very certificate from the run file; a node that shows another one is not spoken with."""
    monkeypatch.setenv("EXO_HOME", str(served.node.home))
    assert dispatch(["status"]) == 0
    assert served.node.api in capsys.readouterr().out
    assert dispatch(["run", "demo", "--prompt", "What is exo?"]) == 0
    assert "Exo turns your own computers" in capsys.readouterr().out
    (path,) = (served.node.home / "run").glob("*.json")
    genuine = path.read_text()
    try:
        path.write_text(json.dumps({**json.loads(genuine), "certificate": "0" * 64}))
        assert dispatch(["status", "--api-port", served.port]) == 1
        assert "does not show the certificate" in capsys.readouterr().err
    finally:
        path.write_text(genuine)


def test_commands_of_other_machines(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--cacert` says whom to trust; without it, or with another one, nothing is sent."""
    monkeypatch.setenv("EXO_HOME", str(tmp_path))
    where = ["status", "--host", "127.0.0.1", "--api-port", served.port]
    assert dispatch([*where, "--cacert", str(served.certificate)]) == 0
    capsys.readouterr()
    assert dispatch([*where, "--cacert", str(served.other)]) == 1
    assert "certificate verify failed" in capsys.readouterr().err.lower()
    assert dispatch(where) == 1


def test_a_node_that_a_command_starts(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the certificate in config.toml `exo run` starts a node that speaks HTTPS, and speaks it with that one."""
    monkeypatch.setenv("EXO_HOME", str(tmp_path))
    key = served.certificate.with_suffix(".key")
    (tmp_path / "config.toml").write_text(f'tls_cert = "{served.certificate}"\ntls_key = "{key}"\n')
    assert dispatch(["run", "demo", "--prompt", "What is exo?"]) == 0
    assert "Exo turns your own computers" in capsys.readouterr().out
