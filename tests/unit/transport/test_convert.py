"""Our words across the wire format."""

from __future__ import annotations

import pytest

from exo_node.errors import InvalidRequest
from exo_node.transport import convert
from exo_node.transport.convert import TopologyView
from exo_node.types import Assignment, Device, Instance, NodeInfo, NodeState, PeerLink, Shard, SharedDeployment

NODE = NodeInfo(
    node_id="ann",
    boot_id="b1",
    name="Ann's box",
    version="0.1.0",
    addresses=("10.0.0.1", "fe80::1%eth0"),
    grpc_port=5000,
    api_port=52415,
    engines=("mlx", "tinygrad"),
    devices=(Device("CPU", "cpu", "some chip", 2**34, 2**33),),
    memory_total=2**34,
    memory_free=2**33,
    chip="some chip",
    blas="openblas",
)
INSTANCE = Instance(
    instance_id="i1",
    model_id="m",
    digest="d",
    assignments=(
        Assignment("ann", Shard("m", 0, 4, 8), "mlx", "CPU"),
        Assignment("bob", Shard("m", 4, 8, 8), "x", "y"),
    ),
    addresses=("10.0.0.1:1", "10.0.0.2:2"),
    coordinator="ann",
    epoch=3,
    context=2048,
    slots=8,
    state="ready",
    token=b"secret",
    error="",
)
STATE = NodeState(
    node=NODE,
    instances=(INSTANCE,),
    links=(PeerLink("bob", "eth", 120, 10**9, "10.0.0.2"),),
    leaving=True,
    shards=(("i1", 0),),
    deployments=(
        SharedDeployment(
            id="openai/gpt-4o",
            model_name="gpt-4",
            litellm_model="openai/gpt-4o",
            provider="openai",
            upstream_model="gpt-4o",
            capabilities=("tools",),
            context=128000,
            price_input=2.5,
            price_output=10.0,
            price_cached=1.25,
            price_per_request=0.5,
            timeout_s=7.0,
            stream_timeout_s=0.0,
            price_per_image=0.04,
        ),
        SharedDeployment(
            id="ollama/x",
            model_name="x",
            litellm_model="ollama/x",
            provider="ollama",
            upstream_model="x",
            price_input=0.0,
        ),
    ),
)


def test_state() -> None:
    """A node's state, with its instances and links, comes back equal."""
    assert convert.state_from_pb(convert.state_to_pb(STATE)) == STATE


def test_topology() -> None:
    """A topology comes back equal."""
    view = TopologyView({"ann": NODE}, {"ann": (PeerLink("bob", "eth", 1, 2),)})
    assert convert.topology_from_pb(convert.topology_to_pb(view)) == view


def test_peers_nonsense_is_refused() -> None:
    """An unknown state or device, a missing id, an impossible shard: `InvalidRequest`, not a crash."""
    instance = convert.instance_to_pb(INSTANCE)
    instance.state = "dancing"
    with pytest.raises(InvalidRequest, match="dancing"):
        convert.instance_from_pb(instance)
    node = convert.node_to_pb(NODE)
    node.devices[0].kind = "abacus"
    with pytest.raises(InvalidRequest, match="abacus"):
        convert.node_from_pb(node)
    node.node_id = ""
    with pytest.raises(InvalidRequest, match="node_id"):
        convert.node_from_pb(node)
    shard = convert.shard_to_pb(Shard("m", 0, 1, 2))
    shard.end_layer = 9
    with pytest.raises(InvalidRequest, match="layer range"):
        convert.shard_from_pb(shard)
