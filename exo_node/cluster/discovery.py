"""How nodes learn of each other: what a discovery says, and what one is. Pure words; see mdns.py and manual.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal, Protocol

Source = Literal["mdns", "manual", "peer", "greeting", "gossip"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a node's gRPC server may be reached: an IP literal (with scope where link-local) or a host name."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSeen:
    """A node was announced, or announced anew. `endpoints` best first.

    `key` names the announcement within its source: a later one with the same key replaces it, `PeerGone` withdraws it.
    Empty `node_id`: only an address is known. Empty `boot_id`, `fingerprint`: not announced.
    """

    source: Source
    key: str
    endpoints: tuple[Endpoint, ...]
    node_id: str = ""
    boot_id: str = ""
    fingerprint: str = ""
    version: str = ""
    protocol: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerGone:
    """The announcement is withdrawn: a goodbye, an expiry, or a line taken out of the peers file."""

    source: Source
    key: str


DiscoveryEvent = PeerSeen | PeerGone


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What a node announces of itself."""

    node_id: str
    boot_id: str
    fingerprint: str
    version: str
    protocol_min: int
    protocol_max: int
    grpc_port: int
    api_port: int


class Discovery(Protocol):
    """A source of announcements. `stop` says goodbye where that is possible."""

    async def start(self) -> None:
        """Raises `ConfigurationError` when it cannot work at all."""
        ...

    async def stop(self) -> None: ...

    def events(self) -> AsyncIterator[DiscoveryEvent]:
        """Announcements as they come, for one reader."""
        ...
