"""What all discoveries together say now: which nodes are announced, and where. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from exo_node.cluster.discovery import DiscoveryEvent, Endpoint, PeerGone, PeerSeen, Source

# Learned from members rather than announced: true when said, and withdrawn by nobody.
HEARSAY: frozenset[Source] = frozenset({"greeting", "gossip"})


class Sightings:
    """Announcements by (source, key). Nodes of other clusters are listed, and are never among those to dial."""

    def __init__(self, node_id: str, fingerprints: Callable[[], Collection[str]]) -> None:
        """`node_id` is ours, `fingerprints` gives all names that our cluster goes by now."""
        self._node_id = node_id
        self._fingerprints = fingerprints
        self._seen: dict[tuple[Source, str], PeerSeen] = {}

    def apply(self, event: DiscoveryEvent) -> PeerSeen | None:
        """Take an event in; returns the announcement that it brought or withdrew, None if it changed nothing."""
        key = (event.source, event.key)
        if isinstance(event, PeerGone):
            return self._seen.pop(key, None)
        if self._seen.get(key) == event:
            return None
        self._seen.pop(key, None)  # so that the newest stands last
        self._seen[key] = event
        return event

    def is_ours(self, seen: PeerSeen) -> bool:
        return not seen.fingerprint or seen.fingerprint in self._fingerprints()

    def nodes(self) -> list[str]:
        """Ids to dial, without our own."""
        ids = (seen.node_id for seen in self._seen.values() if self.is_ours(seen))
        return [node_id for node_id in dict.fromkeys(ids) if node_id and node_id != self._node_id]

    def addresses_only(self) -> list[PeerSeen]:
        """Announcements of which only the address is known."""
        return [seen for seen in self._seen.values() if not seen.node_id]

    def endpoints(self, node_id: str) -> list[Endpoint]:
        """Where to dial a node, what was said last first."""
        found = [seen for seen in self._of(node_id) if self.is_ours(seen)]
        return list(dict.fromkeys(endpoint for seen in reversed(found) for endpoint in seen.endpoints))

    def boot_ids(self, node_id: str) -> list[str]:
        """The boot ids under which a node is announced, the newest last."""
        return list(dict.fromkeys(seen.boot_id for seen in self._of(node_id) if seen.boot_id))

    def lasting(self, node_id: str) -> bool:
        """Whether somebody who watches the network, or the user, says that the node is there."""
        return any(seen.source not in HEARSAY for seen in self._of(node_id))

    def foreign(self) -> list[PeerSeen]:
        """Nodes of other clusters."""
        return [seen for seen in self._seen.values() if not self.is_ours(seen)]

    def drop_hearsay(self, node_id: str) -> None:
        """Forget what was only learned from members: it has proved stale."""
        self._drop(key for key, seen in self._seen.items() if seen.node_id == node_id and key[0] in HEARSAY)

    def drop_boot(self, node_id: str, boot_id: str) -> None:
        """Forget announcements of a life that is over (caches may repeat them for many minutes)."""
        self._drop(
            key for key, seen in self._seen.items() if (seen.node_id, seen.boot_id) == (node_id, boot_id) and boot_id
        )

    def _of(self, node_id: str) -> list[PeerSeen]:
        return [seen for seen in self._seen.values() if seen.node_id == node_id]

    def _drop(self, keys: Iterable[tuple[Source, str]]) -> None:
        for key in list(keys):
            del self._seen[key]
