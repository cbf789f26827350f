"""A caller's view of one runner: the calls of `RingService`. No numpy, no framework: the daemon uses this."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import grpc

from exo_node.errors import PeerUnavailable
from exo_node.transport.client import EOF, SILENCE_S, channel_options, opened
from exo_node.transport.generated.exo.v1 import ring_pb2
from exo_node.transport.generated.exo.v1.ring_pb2_grpc import RingServiceStub
from exo_node.transport.route import route
from exo_node.transport.status import calling
from exo_node.transport.tls import Line, TlsIdentity, runner_name

TOKEN_KEY = "exo-instance-token"  # metadata of every call: the instance's secret in hex
EPOCH_KEY = "exo-epoch"  # metadata of Steps: "counter/coordinator", so that an idle stream is known too
MAX_STEP = 128 * 2**20  # a chunk of 2048 rows of 8192 float32 is 64 MiB, and a step has decode rows beside it
CONFIGURE_TIMEOUT_S = 30.0  # a runner answers once its running step is done, and a long prefill chunk may be running
STATS_TIMEOUT_S = 5.0


class RingClient:
    """One runner at `address` (host:port). Every error is an `ExoError`; every message is the generated one.

    The connection opens with the first call, so a client must be made where an event loop runs.
    """

    def __init__(
        self, address: str, token: bytes, tls: TlsIdentity, instance_id: str, silence_s: float = SILENCE_S
    ) -> None:
        """Only a runner of that instance is spoken with; calls fail when it answers no ping for `silence_s` seconds."""
        self.address = address
        self._options = channel_options(MAX_STEP, silence_s)
        self._tls = tls
        self._name = runner_name(instance_id)
        self._silence_s = silence_s
        self._version = -1
        self._line: Line | None = None
        self._closed = False
        self._retired: list[Line] = []
        self._metadata = ((TOKEN_KEY, token.hex()),)

    async def fence(
        self, request: ring_pb2.FenceRequest, timeout: float = CONFIGURE_TIMEOUT_S
    ) -> ring_pb2.FenceResponse:
        """End the runner's epoch; it waits for the Configure of `request.epoch` then. Answers with the KV that it
        holds, once its engine has left the step that runs. A stale epoch raises `RingBroken` (409)."""
        async with self._use() as stub:
            with calling(self.address):
                response: ring_pb2.FenceResponse = await stub.Fence(request, timeout=timeout, metadata=self._metadata)
        return response

    async def configure(
        self, request: ring_pb2.ConfigureRequest, timeout: float = CONFIGURE_TIMEOUT_S
    ) -> ring_pb2.ConfigureResponse:
        """Start an epoch on this runner: followers first, the head last. A stale epoch raises `RingBroken` (409)."""
        async with self._use() as stub:
            with calling(self.address):
                response: ring_pb2.ConfigureResponse = await stub.Configure(
                    request, timeout=timeout, metadata=self._metadata
                )
        return response

    async def reach(self, timeout: float) -> None:
        """Wait until the runner answers at all: one that is stopped takes connections and says nothing.

        Raises `PeerUnavailable` after `timeout` seconds.
        """
        if await opened((await self._open()).channel, timeout) is not grpc.ChannelConnectivity.READY:
            raise PeerUnavailable(f"the runner at {self.address} does not answer")

    async def generate(self, request: ring_pb2.GenerateRequest) -> AsyncGenerator[ring_pb2.GenerateDelta, None]:
        """The deltas of one generation by the head. Closing the generator cancels it on every shard."""
        async with self._use() as stub:
            call = stub.Generate(request, metadata=self._metadata)
            try:
                while True:
                    with calling(self.address):
                        delta = await call.read()
                    if delta is EOF:
                        return
                    yield delta
            finally:
                call.cancel()

    async def stats(self, timeout: float = STATS_TIMEOUT_S) -> ring_pb2.RunnerStats:
        """What the runner holds and has done; on the head also the last round trips."""
        async with self._use() as stub:
            with calling(self.address):
                stats: ring_pb2.RunnerStats = await stub.Stats(
                    ring_pb2.StatsRequest(), timeout=timeout, metadata=self._metadata
                )
        return stats

    async def close(self) -> None:
        """Close the connection for good; calls that still run are cancelled."""
        self._closed = True
        lines = [*self._retired, *([] if self._line is None else [self._line])]
        self._line, self._retired = None, []
        for line in lines:
            await line.close()

    @contextlib.asynccontextmanager
    async def _use(self) -> AsyncGenerator[Any, None]:
        """The stub of a connection that shows our present papers; what runs on an older one may end there."""
        async with (await self._open()).use() as stub:
            yield stub

    async def _open(self) -> Line:
        if self._line is None and not self._closed:
            await route(self.address, self._silence_s)
        if self._closed:
            raise PeerUnavailable(f"the connection to the runner at {self.address} was closed")
        if self._line is not None and self._version != self._tls.version:
            old, self._line = self._line, None
            self._retired.append(old)
            await old.retire()
        if self._line is None:
            self._version = self._tls.version
            channel = self._tls.channel(self.address, self._name, self._options)
            self._line = Line(channel, RingServiceStub(channel))  # type: ignore[no-untyped-call]
        return self._line
