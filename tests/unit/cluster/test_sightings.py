"""What all discoveries together say."""

from __future__ import annotations

from typing import Any

from exo_node.cluster.discovery import Endpoint, PeerGone, PeerSeen
from exo_node.cluster.sightings import Sightings

OURS, THEIRS = "f" * 32, "0" * 32


def seen(source: Any, key: str, port: int, **fields: Any) -> PeerSeen:
    fields = {"node_id": "bob", "boot_id": "b1", "fingerprint": OURS, **fields}
    return PeerSeen(source=source, key=key, endpoints=(Endpoint("10.0.0.1", port),), **fields)


def ports(sightings: Sightings, node_id: str = "bob") -> list[int]:
    return [endpoint.port for endpoint in sightings.endpoints(node_id)]


def test_newest_first_and_withdrawn() -> None:
    """Addresses said last are dialled first; what is withdrawn is not dialled."""
    sightings = Sightings("ann", lambda: [OURS])
    sightings.apply(seen("mdns", "x", 1))
    sightings.apply(seen("manual", "bob", 2))
    assert ports(sightings) == [2, 1]
    sightings.apply(seen("mdns", "x", 3))
    assert ports(sightings) == [3, 2]
    assert sightings.apply(PeerGone(source="manual", key="bob")) is not None
    assert sightings.apply(PeerGone(source="manual", key="bob")) is None
    assert ports(sightings) == [3]


def test_repeats_change_nothing() -> None:
    """The same announcement again is no news."""
    sightings = Sightings("ann", lambda: [OURS])
    assert sightings.apply(seen("mdns", "x", 1)) is not None
    assert sightings.apply(seen("mdns", "x", 1)) is None


def test_foreigners() -> None:
    """Nodes of other clusters are listed, and neither dialled nor mixed with ours."""
    sightings = Sightings("ann", lambda: [OURS])
    sightings.apply(seen("mdns", "x", 1, fingerprint=THEIRS))
    assert (sightings.nodes(), ports(sightings), len(sightings.foreign())) == ([], [], 1)
    sightings.apply(seen("mdns", "y", 2))
    assert (sightings.nodes(), ports(sightings)) == (["bob"], [2])


def test_ourselves_and_mere_addresses() -> None:
    """Our own announcement is nobody to dial; an address without an id is kept apart."""
    sightings = Sightings("ann", lambda: [OURS])
    sightings.apply(seen("mdns", "x", 1, node_id="ann"))
    sightings.apply(PeerSeen(source="peer", key="h:1", endpoints=(Endpoint("h", 1),)))
    assert sightings.nodes() == []


def test_restart_and_hearsay() -> None:
    """A former life can be forgotten alone; so can what was only heard of."""
    sightings = Sightings("ann", lambda: [OURS])
    sightings.apply(seen("mdns", "x", 1))
    sightings.apply(seen("mdns", "y", 2, boot_id="b2"))
    sightings.apply(seen("gossip", "bob", 3, boot_id="b2"))
    assert sightings.boot_ids("bob") == ["b1", "b2"]
    sightings.drop_boot("bob", "b1")
    assert ports(sightings) == [3, 2]
    sightings.drop_hearsay("bob")
    assert ports(sightings) == [2]
