"""Shapes of exo's second version."""

from __future__ import annotations

from typing import Any

import pytest

from exo_node.api.exo import shapes
from exo_node.api.exo.downloads import Download
from exo_node.errors import InvalidRequest

SHARDS = [
    {"node_id": "b", "start_layer": 0, "end_layer": 5, "n_layers": 8},
    {"node_id": "a", "start_layer": 5, "end_layer": 8, "n_layers": 8},
]
VIEW = {"id": "i", "model": "org/m", "state": "ready", "error": None, "shards": SHARDS}


def test_an_instance_and_back() -> None:
    """What a preview tells is what `POST /instance` reads: model, id, nodes in ring order."""
    made = shapes.instance(VIEW)
    inner = made["MlxRingInstance"]
    assert inner["shardAssignments"]["nodeToRunner"] == {"b": "i-0", "a": "i-1"}
    assert inner["shardAssignments"]["runnerToShard"]["i-1"] == {
        "PipelineShardMetadata": {
            "modelCard": {"modelId": "org/m"},
            "deviceRank": 1,
            "worldSize": 2,
            "startLayer": 5,
            "endLayer": 8,
            "nLayers": 8,
        }
    }
    assert shapes.wanted_instance({"instance": made}) == ("org/m", "i", ("b", "a"))
    assert shapes.model_of(inner["shardAssignments"]["runnerToShard"]["i-1"]) == "org/m"


def broken(**changes: Any) -> dict[str, Any]:
    assigned = {**shapes.instance(VIEW)["MlxRingInstance"]["shardAssignments"], **changes}
    return {"MlxRingInstance": {"instanceId": "i", "shardAssignments": assigned}}


@pytest.mark.parametrize(
    ("instance", "param"),
    [
        (None, "instance"),
        ({}, "instance"),
        ({"MlxJacclInstance": {}}, "instance"),
        ({"MlxRingInstance": 5}, "instance.MlxRingInstance"),
        ({"MlxRingInstance": {"instanceId": "i"}}, "shardAssignments"),
        (broken(modelId=""), "modelId"),
        (broken(modelId="\ud83d"), "modelId"),
        (broken(runnerToShard=[]), "runnerToShard"),
        (broken(nodeToRunner={"a": "i-1"}), "runnerToShard"),
        (broken(runnerToShard={"i-0": {"TensorShardMetadata": {}}}), "shardMetadata"),
        (broken(runnerToShard={"i-0": {"PipelineShardMetadata": {"deviceRank": "0"}}}), "runnerToShard"),
    ],
)
def test_wrong_instances(instance: Any, param: str) -> None:
    """Each tells what is wrong."""
    with pytest.raises(InvalidRequest) as caught:
        shapes.wanted_instance({"instance": instance})
    assert caught.value.param == param


def test_runners() -> None:
    """Ready, loading, or failed with the reason."""
    failed = {**VIEW, "id": "f", "state": "failed", "error": "lost", "shards": SHARDS[:1]}
    loading = {**VIEW, "id": "l", "state": "loading", "shards": SHARDS[:1]}
    assert shapes.runners([VIEW, failed, loading]) == {
        "i-0": {"RunnerReady": {}},
        "i-1": {"RunnerReady": {}},
        "f-0": {"RunnerFailed": {"errorMessage": "lost"}},
        "l-0": {"RunnerLoading": {}},
    }


def test_previews() -> None:
    """With the memory that each node gives, or with the reason why not."""
    planned = {"model": "org/m", "shards": SHARDS, "stage_bytes": [5, 7]}
    row = shapes.preview("org/m", planned, "i")
    assert (row["memory_delta_by_node"], row["error"]) == ({"b": 5, "a": 7}, None)
    assert row["instance"] == shapes.instance(VIEW)
    refused = shapes.preview("org/m", None, "", "too large")
    assert (refused["instance"], refused["error"], refused["sharding"]) == (None, "too large", "Pipeline")


def test_downloads() -> None:
    """One that runs shows its rate and the time that is left; what has ended well is shown by what is held."""
    one = Download(model="org/m", node_id="a", began=10.0, done=30, total=100, first=10)
    shown = shapes.download(one, 12.0)
    assert shown is not None
    assert shown["DownloadOngoing"]["downloadProgress"] == {
        "total": {"inBytes": 100},
        "downloaded": {"inBytes": 30},
        "speed": 10.0,
        "etaMs": 7000,
    }
    one.state, one.error = "failed", "no disk"
    shown = shapes.download(one, 12.0)
    assert shown is not None
    assert shown["DownloadFailed"]["errorMessage"] == "no disk"
    one.state = "completed"
    assert shapes.download(one, 12.0) is None


def test_nodes() -> None:
    """exo's names for what we know of the cluster."""
    node = {"name": "box", "chip": "M4", "memory_total": 8, "memory_free": 5}
    topology = {"nodes": {"a": node}, "peer_graph": {"a": [{"from_id": "a", "to_id": "b", "description": ""}]}}
    assert shapes.nodes(topology) == {
        "topology": {"nodes": ["a"], "connections": {"a": {"b": []}}},
        "nodeIdentities": {"a": {"modelId": "box", "chipId": "M4", "friendlyName": "box"}},
        "nodeMemory": {"a": {"ramTotal": {"inBytes": 8}, "ramAvailable": {"inBytes": 5}}},
    }
