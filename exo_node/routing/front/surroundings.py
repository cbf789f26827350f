"""What the front needs of the rest of the node. Contract only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from exo_node.routing.call import Upstream
from exo_node.routing.catalog.names import LocalModel
from exo_node.routing.upstream.peer_upstream import Peer
from exo_node.types import SharedDeployment


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """`local_models` and `peers` (node id -> what that node shares) are asked at every call and must be quick.

    `fetchable`: a model that the ring could fetch under that name. `peer` raises `PeerUnavailable`.
    """

    node_id: str
    ring: Upstream
    local_models: Callable[[], Sequence[LocalModel]]
    fetchable: Callable[[str], LocalModel | None]
    peers: Callable[[], Mapping[str, Sequence[SharedDeployment]]]
    peer: Callable[[str], Peer]
