"""Nodes, instances, models as JSON (pure): what /v1/topology, /v1/instances, /v1/models show and the CLI reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from exo_node.store import SpendRow
from exo_node.types import Assignment, Instance, ModelCard, NodeInfo

MEBIBYTE = 1024 * 1024


def node_view(node: NodeInfo) -> dict[str, Any]:
    """`model`, `chip`, `memory` (MB) are exo v1's device capabilities; the rest is ours, in bytes."""
    return {
        "model": node.name,
        "chip": node.chip,
        "memory": node.memory_total // 1_000_000,
        "name": node.name,
        "version": node.version,
        "addresses": list(node.addresses),
        "grpc_port": node.grpc_port,
        "api_port": node.api_port,
        "engines": list(node.engines),
        "blas": node.blas,
        "memory_total": node.memory_total,
        "memory_free": node.memory_free,
        "devices": [
            {
                "id": device.id,
                "kind": device.kind,
                "name": device.name,
                "memory_total": device.memory_total,
                "memory_free": device.memory_free,
            }
            for device in node.devices
        ],
    }


def instance_view(instance: Instance) -> dict[str, Any]:
    """An instance without its secret; `shards` in ring order, the head first."""
    return {
        "id": instance.instance_id,
        "object": "instance",
        "model": instance.model_id,
        "digest": instance.digest,
        "state": instance.state,
        "error": instance.error or None,
        "coordinator": instance.coordinator,
        "epoch": instance.epoch,
        "context": instance.context,
        "slots": instance.slots,
        "quantize": instance.quantize or None,
        "draft_model": instance.draft_model or None,
        "shards": [shard_view(assignment) for assignment in instance.assignments],
        "spares": [{"stage": one.stage, **shard_view(one.assignment)} for one in instance.spares],
    }


def shard_view(assignment: Assignment) -> dict[str, Any]:
    """A shard, or one that is only planned."""
    return {
        "node_id": assignment.node_id,
        "engine": assignment.engine,
        "device": assignment.device,
        "start_layer": assignment.shard.start_layer,
        "end_layer": assignment.shard.end_layer,
        "n_layers": assignment.shard.n_layers,
    }


def topology_view(
    nodes: Iterable[NodeInfo],
    links: Mapping[str, Sequence[tuple[str, str]]],
    active_node_id: str,
    instances: Iterable[Instance],
    strangers: Iterable[tuple[str, str, str]] = (),
    problems: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """exo v1's topology plus `instances`. `links[a]` lists (id of a peer of a, description of the link).

    `strangers`: (node id, cluster, address) of nodes of other clusters; `problems`: why others are no members.
    """
    return {
        "nodes": {node.node_id: node_view(node) for node in nodes},
        "peer_graph": {
            from_id: [{"from_id": from_id, "to_id": to_id, "description": about} for to_id, about in peers]
            for from_id, peers in links.items()
        },
        "active_node_id": active_node_id,
        "instances": [instance_view(instance) for instance in instances],
        "other_clusters": [
            {"node_id": node_id, "cluster": cluster, "address": address} for node_id, cluster, address in strangers
        ],
        "problems": dict(problems or {}),
    }


def model_view(card: ModelCard) -> dict[str, Any]:
    """OpenAI's model object, what exo's tools read (`name`, the last part, and the last two), and what else we know."""
    size = None if card.size is None else max(1, card.size // MEBIBYTE)
    return {
        "id": card.id,
        "object": "model",
        "created": card.created,
        "owned_by": card.owned_by,
        "name": card.id.rpartition("/")[2],
        "context_length": card.context_length,
        "loaded": card.loaded,
        "aliases": list(card.aliases),
        "hugging_face_id": card.id,
        "storage_size_megabytes": size,
    }


def model_views(card: ModelCard) -> list[dict[str, Any]]:
    """The model, then its copies."""
    row = model_view(card)
    return [row, *({**row, "id": copy, "name": copy, "aliases": []} for copy in card.copies)]


def spend_view(row: SpendRow) -> dict[str, Any]:
    """A call of the spend log; `cost` null where it used tokens and no price of them is known."""
    shown = asdict(row)
    if not row.cost_known and not row.cost:
        shown["cost"] = None
    return shown


def external_model_view(row: Mapping[str, Any]) -> dict[str, Any]:
    """A model of a provider, with the same fields as a local one."""
    rest = {"created": 0, "owned_by": row.get("provider", ""), "context_length": None, "loaded": False, "aliases": []}
    return {"id": row["id"], "object": "model", "name": row["id"], **rest, **row}
