"""The runner's queues on the event loop: steps on their way out, and deltas on their way to callers.

None of them has a limit of its own and none makes the writer wait: what may be in flight is the head's budget, what may
wait for a reader is bounded by max_tokens (ARCHITECTURE 3.4).
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from exo_node.errors import ExoError, PeerUnavailable
from exo_node.ring.messages import Epoch
from exo_node.ring.sequences import Notice
from exo_node.transport.client import channel_options, opened
from exo_node.transport.ring_client import EPOCH_KEY, MAX_STEP, TOKEN_KEY
from exo_node.transport.route import route
from exo_node.transport.server import pings
from exo_node.transport.status import METADATA_KEY, to_exo
from exo_node.transport.step_stream import open_steps
from exo_node.transport.tls import TlsIdentity


class Mailbox:
    """Notices for one caller. `put` never waits; `take` returns all there are, at least one."""

    def __init__(self, epoch: Epoch) -> None:
        self.epoch = epoch
        self._notices: deque[Notice] = deque()
        self._filled = asyncio.Event()

    def put(self, notice: Notice) -> None:
        self._notices.append(notice)
        self._filled.set()

    async def take(self) -> list[Notice]:
        await self._filled.wait()
        self._filled.clear()
        taken = list(self._notices)
        self._notices.clear()
        return taken


class Outbound:
    """The stream of one epoch to the next stage. It opens with the first step; when it ends otherwise than by `close`,
    `on_lost(error)` is called once, and so it is when the next stage answers no ping for `silence_s` seconds.

    A ping waits until what was written before it has left. So there is another connection to the next stage on which
    nothing but pings is sent, and it ends when the stage hangs or is cut off. It is opened before it is needed: C code
    answers pings, whatever a busy engine does to the stage's Python, but Python takes part in opening it.
    """

    def __init__(
        self,
        *,
        epoch: Epoch,
        next_stage: int,
        address: str,
        token: str,
        tls: TlsIdentity,
        name: str,
        silence_s: float,
        on_lost: Callable[[Epoch, int, ExoError], None],
    ) -> None:
        self.epoch = epoch
        self._next_stage = next_stage
        self._address = address
        self._metadata = ((TOKEN_KEY, token), (EPOCH_KEY, str(epoch)))
        self._tls = tls
        self._name = name  # in the next runner's certificate
        self._on_lost = on_lost
        self._silence_s = silence_s
        self._options = channel_options(MAX_STEP, silence_s)
        self._queue: deque[bytes] = deque()
        self._filled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._writing_since = math.inf  # by the loop's clock; without end while no step is

    def put(self, step: bytes) -> None:
        """Hand over a serialized step; loop thread only."""
        if self._closing:
            return
        self._queue.append(step)
        self._filled.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End the stream; steps that were not written are discarded."""
        self._closing = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        await route(self._address, self._silence_s)
        async with self._tls.channel(self._address, self._name, self._options) as channel:
            writing = asyncio.create_task(self._write(channel))
            guard = asyncio.create_task(self._guard())
            try:
                await asyncio.wait((writing, guard), return_when=asyncio.FIRST_COMPLETED)
                error = writing.result() if writing.done() else self._gone("it takes no step and answers no ping")
            finally:
                for task in (writing, guard):
                    task.cancel()
                await asyncio.gather(writing, guard, return_exceptions=True)
        if not self._closing:
            self._closing = True
            self._on_lost(self.epoch, self._next_stage, error)

    async def _write(self, channel: grpc.aio.Channel) -> ExoError:
        """Write steps for as long as the stream lives; what ended it."""
        clock = asyncio.get_running_loop().time
        call = open_steps(channel, self._metadata)
        watch = asyncio.create_task(call.code())  # resolves when the stream ends, however it does
        watch.add_done_callback(lambda _: self._filled.set())
        try:
            while not watch.done():
                while self._queue:
                    self._writing_since = clock()
                    await call.write(self._queue.popleft())
                self._writing_since = math.inf
                self._filled.clear()
                if not watch.done():
                    await self._filled.wait()
            await call  # raises the status; a normal end is as wrong, for only we may end the stream
            return self._gone("it ended the stream")
        except grpc.aio.AioRpcError as caught:
            return self._translate(caught)
        except asyncio.InvalidStateError:  # write() on a stream that has just ended
            return self._gone((await call.code()).name)
        finally:
            watch.cancel()
            call.cancel()

    async def _guard(self) -> None:
        """Returns when a step has waited to be taken for half of the silence, and the next stage answers no ping.

        A ping that is lost may be late: the connection is opened once more before that is believed, within the silence.
        """
        clock = asyncio.get_running_loop().time
        part = self._silence_s / 8
        options = list({**dict(self._options), **dict(pings(round(4000 * part), round(2000 * part)))}.items())
        timeout = 6 * part
        while True:
            async with self._tls.channel(self._address, self._name, options) as channel:
                state = await opened(channel, timeout)
                if state is grpc.ChannelConnectivity.READY:
                    await channel.wait_for_state_change(state)
            waits = clock() - self._writing_since
            timeout = 6 * part
            if state is grpc.ChannelConnectivity.READY:
                timeout = min(timeout, max(2 * part, 7 * part - waits))
            elif state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:  # who refuses is there
                await asyncio.sleep(part)
            elif waits > 4 * part:
                return

    def _translate(self, error: grpc.aio.AioRpcError) -> ExoError:
        """The error that the next stage sent; where it sent none, it is gone."""
        trailing: Any = error.trailing_metadata() or ()
        if any(key == METADATA_KEY for key, _ in trailing):
            return to_exo(error, self._address)
        return self._gone(" ".join((error.details() or error.code().name).split())[:200])

    def _gone(self, how: str) -> PeerUnavailable:
        return PeerUnavailable(f"stage {self._next_stage} of the ring ({self._address}) is gone: {how}")
