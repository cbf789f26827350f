"""Our words to and from their protobuf messages. Nothing else knows both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

from exo_node.errors import InvalidRequest
from exo_node.transport.generated.exo.v1 import node_pb2 as pb
from exo_node.types import Assignment, Device, Instance, NodeInfo, NodeState, PeerLink, Shard, SharedDeployment, Spare

DEVICE_KINDS = ("cpu", "metal", "cuda", "amd")
InstanceState = Literal["loading", "ready", "failed"]


@dataclass(frozen=True, slots=True)
class TopologyView:
    """What a node knows of the cluster: nodes by id, and each node's links."""

    nodes: Mapping[str, NodeInfo] = field(default_factory=dict)
    links: Mapping[str, tuple[PeerLink, ...]] = field(default_factory=dict)


def node_to_pb(node: NodeInfo) -> pb.NodeDescription:
    return pb.NodeDescription(
        node_id=node.node_id,
        boot_id=node.boot_id,
        name=node.name,
        version=node.version,
        addresses=node.addresses,
        grpc_port=node.grpc_port,
        api_port=node.api_port,
        engines=node.engines,
        devices=[
            pb.DeviceDescription(
                id=d.id, kind=d.kind, name=d.name, memory_total=d.memory_total, memory_free=max(0, d.memory_free)
            )
            for d in node.devices
        ],
        memory_total=node.memory_total,
        memory_free=max(0, node.memory_free),
        chip=node.chip,
        blas=node.blas,
    )


def node_from_pb(message: pb.NodeDescription) -> NodeInfo:
    """Raises `InvalidRequest` for a description without an id or with a device of no known kind."""
    if not message.node_id:
        raise InvalidRequest("a node description without node_id", param="node_id")
    return NodeInfo(
        node_id=message.node_id,
        boot_id=message.boot_id,
        name=message.name,
        version=message.version,
        addresses=tuple(message.addresses),
        grpc_port=message.grpc_port,
        api_port=message.api_port,
        engines=tuple(message.engines),
        devices=tuple(_device(device) for device in message.devices),
        memory_total=message.memory_total,
        memory_free=message.memory_free,
        chip=message.chip,
        blas=message.blas,
    )


def _device(message: pb.DeviceDescription) -> Device:
    if message.kind not in DEVICE_KINDS:
        raise InvalidRequest(f"device {message.id!r} is of unknown kind {message.kind!r}", param="kind")
    kind = cast(Literal["cpu", "metal", "cuda", "amd"], message.kind)
    return Device(message.id, kind, message.name, message.memory_total, message.memory_free)


def shard_to_pb(shard: Shard) -> pb.ShardDescription:
    return pb.ShardDescription(
        model_id=shard.model_id, start_layer=shard.start_layer, end_layer=shard.end_layer, n_layers=shard.n_layers
    )


def shard_from_pb(message: pb.ShardDescription) -> Shard:
    """Raises `InvalidRequest` for a range that is none."""
    try:
        return Shard(message.model_id, message.start_layer, message.end_layer, message.n_layers)
    except ValueError as error:
        raise InvalidRequest(str(error), param="shard") from error


def assignment_to_pb(assignment: Assignment) -> pb.AssignmentDescription:
    return pb.AssignmentDescription(
        node_id=assignment.node_id,
        shard=shard_to_pb(assignment.shard),
        engine=assignment.engine,
        device=assignment.device,
    )


def assignment_from_pb(message: pb.AssignmentDescription) -> Assignment:
    return Assignment(message.node_id, shard_from_pb(message.shard), message.engine, message.device)


def instance_to_pb(instance: Instance) -> pb.InstanceDescription:
    return pb.InstanceDescription(
        instance_id=instance.instance_id,
        model_id=instance.model_id,
        digest=instance.digest,
        assignments=[assignment_to_pb(assignment) for assignment in instance.assignments],
        addresses=instance.addresses,
        coordinator=instance.coordinator,
        epoch=instance.epoch,
        context=instance.context,
        slots=instance.slots,
        state=instance.state,
        token=instance.token,
        error=instance.error,
        quantize=instance.quantize,
        kv_tokens=instance.kv_tokens,
        draft_model=instance.draft_model,
        spares=[
            pb.SpareDescription(stage=one.stage, assignment=assignment_to_pb(one.assignment)) for one in instance.spares
        ],
        min_nodes=instance.min_nodes,
    )


def instance_from_pb(message: pb.InstanceDescription) -> Instance:
    """Raises `InvalidRequest` for an unknown state."""
    if message.state not in get_args(InstanceState):
        raise InvalidRequest(f"instance {message.instance_id!r} is in unknown state {message.state!r}", param="state")
    return Instance(
        instance_id=message.instance_id,
        model_id=message.model_id,
        digest=message.digest,
        assignments=tuple(assignment_from_pb(assignment) for assignment in message.assignments),
        addresses=tuple(message.addresses),
        coordinator=message.coordinator,
        epoch=message.epoch,
        context=message.context,
        slots=message.slots,
        state=cast(InstanceState, message.state),
        token=message.token,
        error=message.error,
        quantize=message.quantize,
        kv_tokens=message.kv_tokens,
        draft_model=message.draft_model,
        spares=tuple(Spare(one.stage, assignment_from_pb(one.assignment)) for one in message.spares),
        min_nodes=message.min_nodes or 1,
    )


def link_to_pb(link: PeerLink) -> pb.PeerLink:
    rtt_us = min(link.rtt_us, 2**32 - 1)
    return pb.PeerLink(
        to_id=link.to_id,
        description=link.description,
        rtt_us=rtt_us,
        bytes_per_s=link.bytes_per_s,
        address=link.address,
    )


def link_from_pb(message: pb.PeerLink) -> PeerLink:
    return PeerLink(message.to_id, message.description, message.rtt_us, message.bytes_per_s, message.address)


def state_to_pb(state: NodeState) -> pb.NodeState:
    return pb.NodeState(
        node=node_to_pb(state.node),
        instances=[instance_to_pb(instance) for instance in state.instances],
        links=[link_to_pb(link) for link in state.links],
        leaving=state.leaving,
        shards=[pb.HostedShard(instance_id=instance_id, stage=stage) for instance_id, stage in state.shards],
        deployments=[deployment_to_pb(deployment) for deployment in state.deployments],
        draining=state.draining,
        removed=state.removed,
    )


def state_from_pb(message: pb.NodeState) -> NodeState:
    return NodeState(
        node=node_from_pb(message.node),
        instances=tuple(instance_from_pb(instance) for instance in message.instances),
        links=tuple(link_from_pb(link) for link in message.links),
        leaving=message.leaving,
        shards=tuple((shard.instance_id, shard.stage) for shard in message.shards),
        deployments=tuple(deployment_from_pb(deployment) for deployment in message.deployments),
        draining=message.draining,
        removed=tuple(message.removed),
    )


def deployment_to_pb(deployment: SharedDeployment) -> pb.DeploymentDescription:
    return pb.DeploymentDescription(
        id=deployment.id,
        model_name=deployment.model_name,
        litellm_model=deployment.litellm_model,
        provider=deployment.provider,
        upstream_model=deployment.upstream_model,
        capabilities=deployment.capabilities,
        context=deployment.context,
        price_input=deployment.price_input,
        price_output=deployment.price_output,
        price_cached=deployment.price_cached,
        price_per_request=deployment.price_per_request,
        timeout_s=deployment.timeout_s,
        stream_timeout_s=deployment.stream_timeout_s,
        price_per_image=deployment.price_per_image,
    )


def deployment_from_pb(message: pb.DeploymentDescription) -> SharedDeployment:
    return SharedDeployment(
        id=message.id,
        model_name=message.model_name,
        litellm_model=message.litellm_model,
        provider=message.provider,
        upstream_model=message.upstream_model,
        capabilities=tuple(message.capabilities),
        context=message.context,
        price_input=message.price_input if message.HasField("price_input") else None,
        price_output=message.price_output if message.HasField("price_output") else None,
        price_cached=message.price_cached if message.HasField("price_cached") else None,
        price_per_request=message.price_per_request,
        timeout_s=message.timeout_s if message.HasField("timeout_s") else None,
        stream_timeout_s=message.stream_timeout_s if message.HasField("stream_timeout_s") else None,
        price_per_image=message.price_per_image,
    )


def topology_to_pb(view: TopologyView) -> pb.TopologyView:
    return pb.TopologyView(
        nodes={node_id: node_to_pb(node) for node_id, node in view.nodes.items()},
        peer_graph={
            node_id: pb.PeerLinks(links=[link_to_pb(link) for link in links]) for node_id, links in view.links.items()
        },
    )


def topology_from_pb(message: pb.TopologyView) -> TopologyView:
    return TopologyView(
        nodes={node_id: node_from_pb(node) for node_id, node in message.nodes.items()},
        links={
            node_id: tuple(link_from_pb(link) for link in links.links) for node_id, links in message.peer_graph.items()
        },
    )
