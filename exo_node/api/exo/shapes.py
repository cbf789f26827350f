"""Instances, runners, downloads, placements in the shapes of exo's second version; its request for an instance. Pure.

Names and nesting are exo's (`src/exo/shared/types`): a union's member is an object with one key, its type's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from exo_node.api.exo.downloads import Download
from exo_node.api.fields import bad, checked_object, checked_text

# Every ring of ours is one: a pipeline over the network, whatever engine each shard runs on.
INSTANCE, SHARD = "MlxRingInstance", "PipelineShardMetadata"
META, SHARDING = "MlxRing", "Pipeline"
_RUNNER = {"loading": "RunnerLoading", "ready": "RunnerReady", "failed": "RunnerFailed"}


def runner_id(instance_id: str, stage: int) -> str:
    return f"{instance_id}-{stage}"


def instance(view: Mapping[str, Any]) -> dict[str, Any]:
    """Of an instance's view, or of a planned one with an `id`."""
    shards: Sequence[Mapping[str, Any]] = view["shards"]
    ids = [runner_id(view["id"], stage) for stage in range(len(shards))]
    to_runner: dict[str, str] = {}
    for ident, shard in zip(ids, shards, strict=True):
        to_runner.setdefault(shard["node_id"], ident)
    return {
        INSTANCE: {
            "instanceId": view["id"],
            "shardAssignments": {
                "modelId": view["model"],
                "runnerToShard": {
                    ident: shard_metadata(view["model"], shard, rank, len(shards))
                    for rank, (ident, shard) in enumerate(zip(ids, shards, strict=True))
                },
                "nodeToRunner": to_runner,
            },
        }
    }


def shard_metadata(model: str, shard: Mapping[str, Any], rank: int = 0, size: int = 1) -> dict[str, Any]:
    layers = {"startLayer": shard["start_layer"], "endLayer": shard["end_layer"], "nLayers": shard["n_layers"]}
    return {SHARD: {"modelCard": {"modelId": model}, "deviceRank": rank, "worldSize": size, **layers}}


def runners(views: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The state of every runner, by its id."""
    found: dict[str, Any] = {}
    for view in views:
        state = {_RUNNER[view["state"]]: {"errorMessage": view["error"]} if view["state"] == "failed" else {}}
        found |= {runner_id(view["id"], stage): state for stage in range(len(view["shards"]))}
    return found


def preview(model: str, planned: Mapping[str, Any] | None, ident: str, error: str | None = None) -> dict[str, Any]:
    """A row of `/instance/previews`: a placement (`planned` is `ClusterPort.preview`'s), or why there is none."""
    row = {"model_id": model, "sharding": SHARDING, "instance_meta": META, "error": error}
    if planned is None:
        return {**row, "instance": None, "memory_delta_by_node": None}
    delta: dict[str, int] = {}
    for shard, size in zip(planned["shards"], planned["stage_bytes"], strict=True):
        delta[shard["node_id"]] = delta.get(shard["node_id"], 0) + size
    return {**row, "instance": instance({**planned, "id": ident}), "memory_delta_by_node": delta}


def completed(node_id: str, model: str, size: int, *, read_only: bool) -> dict[str, Any]:
    """A model that a node holds. `read_only`: nobody deletes its files through this API."""
    where = {"nodeId": node_id, "shardMetadata": _some_shard(model)}
    return {"DownloadCompleted": {**where, "total": {"inBytes": size}, "readOnly": read_only}}


def download(one: Download, now: float) -> dict[str, Any] | None:
    """One that runs or has failed; None for the others: what is complete is shown as what the node holds."""
    where = {"nodeId": one.node_id, "shardMetadata": _some_shard(one.model)}
    if one.state == "failed":
        return {"DownloadFailed": {**where, "errorMessage": one.error}}
    if one.state != "running":
        return None
    left = one.left_s(now)
    progress = {
        "total": {"inBytes": one.total},
        "downloaded": {"inBytes": one.done},
        "speed": one.rate(now),
        "etaMs": 0 if left is None else int(left * 1000),
    }
    return {"DownloadOngoing": {**where, "downloadProgress": progress}}


def _some_shard(model: str) -> dict[str, Any]:
    """A whole model's: what is fetched is always all of it."""
    return {SHARD: {"modelCard": {"modelId": model}, "deviceRank": 0, "worldSize": 1}}


def nodes(topology: Mapping[str, Any]) -> dict[str, Any]:
    """What exo's state says of the cluster."""
    known: Mapping[str, Mapping[str, Any]] = topology["nodes"]
    links: Mapping[str, Sequence[Mapping[str, Any]]] = topology["peer_graph"]
    return {
        "topology": {
            "nodes": list(known),
            "connections": {one: {link["to_id"]: [] for link in found} for one, found in links.items()},
        },
        "nodeIdentities": {
            one: {"modelId": node["name"], "chipId": node["chip"], "friendlyName": node["name"]}
            for one, node in known.items()
        },
        "nodeMemory": {
            one: {"ramTotal": {"inBytes": node["memory_total"]}, "ramAvailable": {"inBytes": node["memory_free"]}}
            for one, node in known.items()
        },
    }


def wanted_instance(body: Mapping[str, Any]) -> tuple[str, str, tuple[str, ...]]:
    """(model, id, nodes in ring order) of `{"instance": ...}` as a preview gave it. Raises `InvalidRequest`.

    The cut into layers is made anew, from the memory that is free then.
    """
    given = checked_object(body.get("instance"), "instance")
    if len(given) != 1:
        raise bad("instance", f"must have one key, the instance's kind, has {len(given)}")
    name, inner = next(iter(given.items()))
    if name != INSTANCE:
        raise bad("instance", f"must be a {INSTANCE}, got {name[:40]!r}", code="unsupported_parameter")
    inner = checked_object(inner, f"instance.{name}")
    assigned = checked_object(inner.get("shardAssignments"), "shardAssignments")
    model, ident = _text(assigned.get("modelId"), "modelId"), _text(inner.get("instanceId"), "instanceId")
    shards = checked_object(assigned.get("runnerToShard"), "runnerToShard")
    at = {str(runner): node for node, runner in checked_object(assigned.get("nodeToRunner"), "nodeToRunner").items()}
    ranked: dict[int, str] = {}
    for runner, shard in shards.items():
        rank = _shard(shard).get("deviceRank")
        if type(rank) is not int or rank in ranked or runner not in at:
            raise bad("runnerToShard", f"{runner[:60]!r} needs a deviceRank of its own, and a node in nodeToRunner")
        ranked[rank] = at[runner]
    return model, ident, tuple(ranked[rank] for rank in sorted(ranked))


def model_of(shard: Any) -> str:
    """The model of a shard's metadata. Raises `InvalidRequest`."""
    card = checked_object(_shard(shard).get("modelCard"), "modelCard")
    return _text(card.get("modelId"), "modelId")


def _shard(value: Any) -> Mapping[str, Any]:
    given = checked_object(value, "shardMetadata")
    if list(given) != [SHARD]:
        raise bad("shardMetadata", f"must be a {SHARD}", code="unsupported_parameter")
    return checked_object(given[SHARD], SHARD)


def _text(value: Any, param: str) -> str:
    if not isinstance(value, str) or not value:
        raise bad(param, "must be a non-empty string", code="invalid_type")
    return checked_text(value, param)
