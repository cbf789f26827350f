"""Settings -> discoveries. zeroconf is imported only where mDNS is wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from exo_node.cluster.discovery import Announcement, Discovery
from exo_node.cluster.manual import ManualDiscovery, StaticPeers
from exo_node.errors import ConfigurationError


def discoveries(
    module: Literal["mdns", "manual", "none"],
    *,
    node_id: str,
    announce: Callable[[], Announcement],
    peers: Sequence[str] = (),
    config_path: Path | None = None,
    listen: str = "",
) -> tuple[Discovery, ...]:
    """What `--discovery-module`, `--peer` and `--discovery-config-path` ask for. Raises `ConfigurationError`.

    `announce` is read when mDNS starts, so the ports may be unknown until then.
    """
    found: list[Discovery] = [StaticPeers(peers)] if peers else []
    if module == "mdns":
        from exo_node.cluster.mdns import MdnsDiscovery

        found.append(MdnsDiscovery(announce, listen=listen))
    elif module == "manual":
        if config_path is None:
            raise ConfigurationError("--discovery-module manual needs the peers file: --discovery-config-path FILE")
        found.append(ManualDiscovery(config_path, node_id=node_id))
    return tuple(found)
