"""The certificate of the API's port: what is refused before anything is served. A served one: tests/integration."""

from __future__ import annotations

from pathlib import Path

import pytest

from exo_node.config import load_settings
from exo_node.errors import ConfigurationError
from exo_node.http_tls import client_context, digest, server_context
from tests.papers import papers


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_text("some words before\n" + papers("localhost").certificate)
    key.write_text(papers("localhost").key)
    return certificate, key


def test_good_files(files: tuple[Path, Path]) -> None:
    """Certificate and key are taken; no ticket is sent that would look like an answer."""
    assert server_context(*files).num_tickets == 0
    assert len(digest(files[0])) == 64


def test_files_that_are_no_good(files: tuple[Path, Path], tmp_path: Path) -> None:
    """Each problem names its flag and file, in one line, without what is in the file."""
    certificate, key = files
    with pytest.raises(ConfigurationError, match=r"--tls-key .*nowhere: cannot be read: No such file"):
        server_context(certificate, tmp_path / "nowhere")
    other = tmp_path / "other.pem"
    other.write_text(papers("elsewhere").key)
    for wrong in ((certificate, other), (key, key), (certificate, certificate)):
        with pytest.raises(ConfigurationError, match="do not go together") as caught:
            server_context(*wrong)
        assert "PRIVATE" not in caught.value.message
    with pytest.raises(ConfigurationError, match="no certificate in PEM"):
        digest(key)
    with pytest.raises(ConfigurationError, match="--cacert"):
        client_context(key)


@pytest.mark.parametrize("given", ["tls_cert", "tls_key"])
def test_one_without_the_other(given: str, tmp_path: Path) -> None:
    """A certificate without its key serves nobody: said before anything starts."""
    with pytest.raises(ConfigurationError, match="needs --tls-"):
        load_settings({given: "x.pem"}, {"EXO_HOME": str(tmp_path)})
