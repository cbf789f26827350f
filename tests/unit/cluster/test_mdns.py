"""Reading announcements, whoever made them."""

from __future__ import annotations

import pytest

from exo_node.cluster.discovery import Endpoint
from exo_node.cluster.mdns import read_service

GOOD = {
    "node_id": "bob", "boot_id": "b1", "cluster": "f" * 32, "version": "0.1", "protocol": "1-2", "grpc_port": "4711",
    "api_port": "52415", "host": "token",
}  # fmt: skip


def test_announcement() -> None:
    """All fields are read; a link-local address counts only with the interface on which it was heard."""
    seen = read_service("name", GOOD, ["10.0.0.2", "fe80::2", "fe80::2%4"], "other")
    assert seen is not None
    assert seen.endpoints == (Endpoint("10.0.0.2", 4711), Endpoint("fe80::2%4", 4711))
    assert (seen.node_id, seen.boot_id, seen.fingerprint, seen.protocol) == ("bob", "b1", "f" * 32, (1, 2))


def test_same_host() -> None:
    """A node of the same host is reached over loopback first."""
    seen = read_service("name", GOOD, ["10.0.0.2"], "token")
    assert seen is not None
    assert seen.endpoints == (Endpoint("127.0.0.1", 4711), Endpoint("10.0.0.2", 4711))


@pytest.mark.parametrize(
    "change",
    [
        {"node_id": ""},
        {"node_id": "bob\x1b[2J"},
        {"cluster": "ffff\n"},
        {"boot_id": None},
        {"grpc_port": "x"},
        {"grpc_port": "0"},
        {"grpc_port": "70000"},
        {"protocol": "1"},
    ],
)
def test_malformed(change: dict[str, str | None]) -> None:
    """Anybody may announce anything: what is malformed is left aside."""
    assert read_service("name", {**GOOD, **change}, ["10.0.0.2"], "token") is None
