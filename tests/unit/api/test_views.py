"""JSON shapes of nodes, instances and models."""

from __future__ import annotations

import json

from exo_node.api.views import instance_view, model_view, topology_view
from exo_node.types import Assignment, Device, Instance, ModelCard, NodeInfo, Shard

NODE = NodeInfo(
    node_id="a",
    boot_id="b",
    name="box",
    version="0.1.0",
    addresses=("127.0.0.1",),
    grpc_port=1,
    api_port=2,
    engines=("mlx",),
    devices=(Device("CPU", "cpu", "some cpu", 8, 4),),
    memory_total=8_000_000_000,
    memory_free=4_000_000_000,
)
INSTANCE = Instance(
    instance_id="i",
    model_id="demo",
    digest="d",
    assignments=(Assignment("a", Shard("demo", 0, 8, 8), "mlx", "CPU"),),
    addresses=("127.0.0.1:9",),
    coordinator="a",
    epoch=1,
    context=512,
    slots=8,
    state="ready",
    token=b"secret-of-the-data-plane",
)


def test_topology_has_exos_shape() -> None:
    """nodes by id with exo's capabilities, peer_graph, active_node_id; plus instances with shards and engines."""
    topology = json.loads(json.dumps(topology_view([NODE], {"a": [("b", "mdns")]}, "a", [INSTANCE])))
    assert topology["nodes"]["a"]["memory"] == 8000
    assert topology["peer_graph"] == {"a": [{"from_id": "a", "to_id": "b", "description": "mdns"}]}
    assert topology["active_node_id"] == "a"
    assert topology["instances"][0]["shards"] == [
        {"node_id": "a", "engine": "mlx", "device": "CPU", "start_layer": 0, "end_layer": 8, "n_layers": 8}
    ]


def test_an_instance_keeps_its_secret() -> None:
    """The data plane's token and addresses never reach the API."""
    assert "secret" not in json.dumps(instance_view(INSTANCE))


def test_model_view() -> None:
    """A model is OpenAI's object plus what we know; its path on disk stays here."""
    view = model_view(ModelCard("demo", 5, "exo", 512, True, "/home/me/demo", ("d",)))
    assert (view["id"], view["object"], view["created"], view["owned_by"]) == ("demo", "model", 5, "exo")
    assert (view["context_length"], view["loaded"], view["aliases"]) == (512, True, ["d"])
    assert "/home/me" not in json.dumps(view)
    hub = model_view(ModelCard("org/Tiny-Chat", 5, "org", 512, False, "", ()))
    assert (hub["name"], hub["hugging_face_id"]) == ("Tiny-Chat", "org/Tiny-Chat")
