"""The peers file and `--peer`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from exo_node.cluster.discovery import DiscoveryEvent, Endpoint, PeerGone, PeerSeen
from exo_node.cluster.manual import ManualDiscovery, StaticPeers, parse_endpoint, parse_peers
from exo_node.errors import ConfigurationError

CAPABILITIES = {"model": "Mac", "chip": "M2", "memory": 8192, "flops": {"fp32": 1.0, "fp16": 2.0, "int8": 4.0}}


def test_exos_shape() -> None:
    """A peers file of exo is read as it is."""
    text = json.dumps({"peers": {"bob": {"address": "10.0.0.2", "port": 5678, "device_capabilities": CAPABILITIES}}})
    assert parse_peers(text, "f") == {"bob": Endpoint("10.0.0.2", 5678)}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("{", "is no JSON"),
        ("[]", "peers must be an object"),
        ({"peers": {}, "extra": 1}, "extra is not known"),
        ({"peers": {"bob": 1}}, "peers.bob must be an object"),
        ({"peers": {"bob": {"port": 1}}}, "peers.bob.address"),
        ({"peers": {"bob": {"address": "a b", "port": 1}}}, "peers.bob.address"),
        ({"peers": {"bob": {"address": "h", "port": "1"}}}, "peers.bob.port"),
        ({"peers": {"bob": {"address": "h", "port": 70000}}}, "peers.bob.port"),
        ({"peers": {"bob": {"address": "h", "port": True}}}, "peers.bob.port"),
        ({"peers": {"bob": {"address": "h", "port": 1, "adress": 2}}}, "peers.bob.adress is not known"),
        (
            {"peers": {"bob": {"address": "h", "port": 1, "device_capabilities": {**CAPABILITIES, "chip": 3}}}},
            "peers.bob.device_capabilities.chip",
        ),
    ],
)
def test_mistakes_are_named(data: Any, words: str) -> None:
    """A mistake gives one line with the file and the field."""
    text = data if isinstance(data, str) else json.dumps(data)
    with pytest.raises(ConfigurationError, match=words) as caught:
        parse_peers(text, "peers.json")
    assert "peers.json" in caught.value.message
    assert "\n" not in caught.value.message


async def test_changes_of_the_file(tmp_path: Path) -> None:
    """Peers added, moved and removed are told; a broken file is reported and changes nothing; we are not our peer."""
    path = tmp_path / "peers.json"

    def write(**peers: int) -> None:
        path.write_text(json.dumps({"peers": {n: {"address": "10.0.0.1", "port": port} for n, port in peers.items()}}))

    write(ann=1, bob=2)
    discovery = ManualDiscovery(path, node_id="ann", poll_s=0.01)
    await discovery.start()
    events = discovery.events()

    def fact(event: DiscoveryEvent) -> tuple[str, int]:
        return event.key, event.endpoints[0].port if isinstance(event, PeerSeen) else 0

    assert fact(await anext(events)) == ("bob", 2)
    path.write_text("{")
    write(bob=33, eve=44)
    assert {fact(await anext(events)), fact(await anext(events))} == {("bob", 33), ("eve", 44)}
    write(eve=44)
    assert await anext(events) == PeerGone(source="manual", key="bob")


async def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there at the start is an error that names it."""
    with pytest.raises(ConfigurationError, match=r"nowhere\.json"):
        await ManualDiscovery(tmp_path / "nowhere.json", node_id="ann").start()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1:80", Endpoint("10.0.0.1", 80)),
        ("host.local:80", Endpoint("host.local", 80)),
        ("[fe80::1%eth0]:80", Endpoint("fe80::1%eth0", 80)),
    ],
)
def test_endpoint(text: str, expected: Endpoint) -> None:
    """HOST:PORT with names, IPv4 and IPv6; printed as it is written."""
    assert parse_endpoint(text, "--peer") == expected
    assert str(expected) == text


@pytest.mark.parametrize("text", ["", "host", "host:", ":80", "host:0", "host:99999", "fe80::1:80", "host:http"])
def test_bad_endpoint(text: str) -> None:
    """What is no HOST:PORT is refused with the flag's name."""
    with pytest.raises(ConfigurationError, match="--peer"):
        StaticPeers([text])
