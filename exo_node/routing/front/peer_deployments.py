"""Peers' deployments as the registry wants them, made anew only for a peer that tells others than before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from exo_node.routing.catalog.listing import of_peer
from exo_node.routing.deployment import Deployment
from exo_node.types import SharedDeployment


class PeerDeployments:
    """Call it for those of this moment; `peers` as `Surroundings.peers`, asked at every call."""

    def __init__(self, peers: Callable[[], Mapping[str, Sequence[SharedDeployment]]]) -> None:
        self._peers = peers
        self._told: dict[str, Sequence[SharedDeployment]] = {}
        self._made: dict[str, tuple[Deployment, ...]] = {}
        self._all: tuple[Deployment, ...] = ()

    def __call__(self) -> tuple[Deployment, ...]:
        told, before = dict(self._peers()), self._told
        if list(told) == list(before) and all(rows is before[node] for node, rows in told.items()):
            return self._all
        kept = self._made
        self._made = {
            node: kept[node] if rows is before.get(node) else tuple(of_peer(one, node) for one in rows)
            for node, rows in told.items()
        }
        self._told, self._all = told, tuple(one for rows in self._made.values() for one in rows)
        return self._all
