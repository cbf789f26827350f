"""The ring's gRPC calls with steps as `StepFrame`s: what the generated code does, but for the payload's copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio

from exo_node.transport.codec import StepFrame
from exo_node.transport.generated.exo.v1 import ring_pb2

SERVICE = ring_pb2.DESCRIPTOR.services_by_name["RingService"].full_name
STEPS = f"/{SERVICE}/Steps"


def open_steps(channel: grpc.aio.Channel, metadata: Sequence[tuple[str, str]]) -> Any:
    """A call of `Steps`, whose `write` takes a serialized step."""
    untyped: Any = channel  # grpc's types know neither: without a serializer bytes go as they are
    call = untyped.stream_unary(STEPS, response_deserializer=ring_pb2.StepsSummary.FromString)
    return call(metadata=metadata)


def add_ring_service(server: grpc.aio.Server, servicer: Any) -> None:
    """Serve a `RingServiceServicer`; its `Steps` is given an iterator of `StepFrame`s."""
    handlers = {
        "Fence": grpc.unary_unary_rpc_method_handler(
            servicer.Fence,
            request_deserializer=ring_pb2.FenceRequest.FromString,
            response_serializer=ring_pb2.FenceResponse.SerializeToString,
        ),
        "Configure": grpc.unary_unary_rpc_method_handler(
            servicer.Configure,
            request_deserializer=ring_pb2.ConfigureRequest.FromString,
            response_serializer=ring_pb2.ConfigureResponse.SerializeToString,
        ),
        "Steps": grpc.stream_unary_rpc_method_handler(
            servicer.Steps,
            request_deserializer=StepFrame.from_bytes,
            response_serializer=ring_pb2.StepsSummary.SerializeToString,
        ),
        "Generate": grpc.unary_stream_rpc_method_handler(
            servicer.Generate,
            request_deserializer=ring_pb2.GenerateRequest.FromString,
            response_serializer=ring_pb2.GenerateDelta.SerializeToString,
        ),
        "Stats": grpc.unary_unary_rpc_method_handler(
            servicer.Stats,
            request_deserializer=ring_pb2.StatsRequest.FromString,
            response_serializer=ring_pb2.RunnerStats.SerializeToString,
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
