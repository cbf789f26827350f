"""TLS of the HTTP port (`--tls-cert`, `--tls-key`), and how commands on the same machine know that very certificate."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

from exo_node.errors import ConfigurationError, PeerUnavailable


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """For the API's port. Raises `ConfigurationError` naming the flag and the file."""
    for flag, path in (("--tls-cert", certificate), ("--tls-key", key)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise ConfigurationError(f"{flag} {path}: cannot be read: {error.strerror}") from error
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.num_tickets = 0  # connections are kept; and a ticket would look like an answer to who waits for one
    try:
        # An empty password: an encrypted key is an error, not a question on the terminal of a daemon.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ConfigurationError(
            f"--tls-cert {certificate} and --tls-key {key} do not go together ({error}): give the certificate with its "
            "chain, and its key without a password, as PEM"
        ) from error
    return context


def digest(certificate: Path) -> str:
    """SHA-256 of the first certificate of a PEM file, in hex. Raises `ConfigurationError`."""
    try:
        text = certificate.read_text("ascii")
        first = text[text.index(ssl.PEM_HEADER) : text.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)]
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).hexdigest()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{certificate}: no certificate in PEM: {error}") from error


def client_context(authorities: Path | None) -> ssl.SSLContext:
    """For a command: trusts who is signed by one of these, or, without them, nobody yet (`check_digest` follows)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authorities is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        context.load_verify_locations(authorities)
    except (ssl.SSLError, OSError) as error:
        raise ConfigurationError(f"--cacert {authorities}: no certificates in PEM: {error}") from error
    return context


def check_digest(connection: ssl.SSLSocket, wanted: str, url: str) -> None:
    """Raises `PeerUnavailable` where the other side showed another certificate than the one that is known."""
    shown = connection.getpeercert(binary_form=True) or b""
    if hashlib.sha256(shown).hexdigest() != wanted:
        raise PeerUnavailable(f"what answers at {url} does not show the certificate of the node that was started there")
