"""The cluster as a graph of facts: who is there and how they reach each other. Pure; changed only by `apply(event)`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from exo_node.cluster.device import DeviceCapabilities
from exo_node.types import NodeInfo, PeerLink


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """A node is there, or said something new of itself."""

    node: NodeInfo


@dataclass(frozen=True, slots=True)
class NodeGone:
    node_id: str


@dataclass(frozen=True, slots=True)
class LinksSeen:
    """All links of one node, as it told them."""

    node_id: str
    links: tuple[PeerLink, ...]


@dataclass(frozen=True, slots=True)
class LinkMeasured:
    """One link of `node_id`, by probe or by a fresh connection."""

    node_id: str
    link: PeerLink


Event = NodeSeen | NodeGone | LinksSeen | LinkMeasured


@dataclass(frozen=True, slots=True)
class Topology:
    """Immutable: `apply` gives the next one. Links to nodes that are not there are kept out of every view."""

    active_node_id: str
    nodes: Mapping[str, NodeInfo] = field(default_factory=dict)
    _links: Mapping[str, Mapping[str, PeerLink]] = field(default_factory=dict)

    def apply(self, event: Event) -> Topology:
        nodes, links = dict(self.nodes), dict(self._links)
        match event:
            case NodeSeen(node):
                nodes[node.node_id] = node
            case NodeGone(node_id):
                nodes.pop(node_id, None)
                links.pop(node_id, None)
            case LinksSeen(node_id, told):
                links[node_id] = {link.to_id: link for link in told}
            case LinkMeasured(node_id, link):
                links[node_id] = {**links.get(node_id, {}), link.to_id: link}
        return Topology(self.active_node_id, nodes, links)

    def links(self, node_id: str) -> tuple[PeerLink, ...]:
        """The links of a node to nodes that are there, by id."""
        found = self._links.get(node_id, {}) if node_id in self.nodes else {}
        return tuple(found[to_id] for to_id in sorted(found) if to_id in self.nodes)

    def link(self, from_id: str, to_id: str) -> PeerLink | None:
        return next((link for link in self.links(from_id) if link.to_id == to_id), None)

    def to_json(self) -> dict[str, Any]:
        """exo's shape: `nodes` by id (model, chip, memory in MiB, flops in TFLOP/s, and ours), `peer_graph` with
        from_id/to_id/description a link (and what was measured), `active_node_id`."""
        return {
            "nodes": {node_id: _node(self.nodes[node_id]) for node_id in sorted(self.nodes)},
            "peer_graph": {
                node_id: [
                    {
                        "from_id": node_id,
                        "to_id": link.to_id,
                        "description": link.description or link.address,
                        "rtt_us": link.rtt_us or None,
                        "bytes_per_s": link.bytes_per_s or None,
                    }
                    for link in self.links(node_id)
                ]
                for node_id in sorted(self.nodes)
            },
            "active_node_id": self.active_node_id,
        }


def _node(node: NodeInfo) -> dict[str, Any]:
    return {
        **DeviceCapabilities.of(node).to_dict(),
        "name": node.name,
        "version": node.version,
        "addresses": list(node.addresses),
        "grpc_port": node.grpc_port,
        "api_port": node.api_port,
        "engines": list(node.engines),
        "blas": node.blas,
        "memory_total_bytes": node.memory_total,
        "memory_free_bytes": node.memory_free,
        "devices": [
            {"id": device.id, "kind": device.kind, "name": device.name, "memory_total_bytes": device.memory_total}
            for device in node.devices
        ],
    }
