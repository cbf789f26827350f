"""Connections from this node to the runners of an instance."""

from __future__ import annotations

from exo_node.ring.connecting import join_host_port
from exo_node.ring.members import ClusterView
from exo_node.transport.ring_client import RingClient
from exo_node.types import Instance


def dial(cluster: ClusterView, instance: Instance, stage: int, silence_s: float) -> RingClient:
    """To the runner of a stage: our own way to its node, the port that its node told.

    Raises `PeerUnavailable` where its node is gone. `silence_s`: see `RingClient`.
    """
    port = int(instance.addresses[stage].rpartition(":")[2])
    host = cluster.address(cluster.node_id, instance.assignments[stage].node_id)
    return RingClient(join_host_port(host, port), instance.token, cluster.tls, instance.instance_id, silence_s)
