"""The stream of steps over a real server: ours, and what protobuf's own code makes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from exo_node.transport.codec import StepFrame, put_payload, take_payload
from exo_node.transport.generated.exo.v1 import ring_pb2
from exo_node.transport.generated.exo.v1.ring_pb2_grpc import (
    RingServiceServicer,
    RingServiceStub,
    add_RingServiceServicer_to_server,
)
from exo_node.transport.step_stream import add_ring_service, open_steps

DATA = bytes(range(240))


class Listener(RingServiceServicer):
    """Keeps what comes in as (step, payload)."""

    def __init__(self) -> None:
        self.got: list[tuple[int, bytes]] = []

    async def Steps(self, request_iterator: AsyncIterator[Any], context: Any) -> ring_pb2.StepsSummary:
        assert dict(context.invocation_metadata())["key"] == "value"
        async for one in request_iterator:
            if isinstance(one, StepFrame):
                payload = take_payload(one)
                self.got.append((one.message.step, b"" if payload is None else bytes(payload.data)))
            else:
                self.got.append((one.step, one.data))
        return ring_pb2.StepsSummary(steps=len(self.got))

    async def Stats(self, request: ring_pb2.StatsRequest, context: Any) -> ring_pb2.RunnerStats:
        return ring_pb2.RunnerStats(stage=3)


@pytest.mark.parametrize("server_is_ours", [True, False])
@pytest.mark.parametrize("client_is_ours", [True, False])
async def test_steps_arrive_whichever_side_knows_our_framing(server_is_ours: bool, client_is_ours: bool) -> None:
    """A step with a payload and one without, in order; the other calls are as generated."""
    server, listener = grpc.aio.server(), Listener()
    if server_is_ours:
        add_ring_service(server, listener)
    else:
        add_RingServiceServicer_to_server(listener, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = RingServiceStub(channel)  # type: ignore[no-untyped-call]
            frame = StepFrame(ring_pb2.StepMessage(step=1))
            put_payload(frame, "float16", (6, 20), DATA)
            steps = [frame.to_bytes(), StepFrame(ring_pb2.StepMessage(step=2)).to_bytes()]
            call = (
                open_steps(channel, [("key", "value")]) if client_is_ours else stub.Steps(metadata=[("key", "value")])
            )
            for step in steps:
                await call.write(step if client_is_ours else ring_pb2.StepMessage.FromString(step))
            await call.done_writing()
            assert (await call).steps == 2
            assert listener.got == [(1, DATA), (2, b"")]
            assert (await stub.Stats(ring_pb2.StatsRequest())).stage == 3
    finally:
        await server.stop(None)
