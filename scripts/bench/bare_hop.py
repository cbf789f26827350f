"""A bare ring of grpc.aio streams: the least that a hop with an executor hand-over costs on this machine.

Every process but the first is a relay: it reads a message from its stream, has one worker thread compute for a while
(numpy matrix products, which release the GIL as an engine does), and writes the message to the next. Nothing of
exo_node is used. `measure()` returns microseconds per hop: the trip's time less what the workers computed, over the
number of hops: the same arithmetic that scripts/bench/ring.py applies to our runners' reports.
"""

from __future__ import annotations

import asyncio
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
import numpy as np

SWITCH_INTERVAL_S = 1e-4  # as in our runners: beside a busy thread the default costs milliseconds
OPTIONS = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 64 << 20)]
METHOD = "/bench.Bare/Steps"


def compute(seconds: float, matrix: np.ndarray) -> int:
    """Keep a worker thread busy; returns nanoseconds spent."""
    begin = time.perf_counter_ns()
    while time.perf_counter_ns() - begin < seconds * 1e9:
        matrix @ matrix
    return time.perf_counter_ns() - begin


class Relay:
    """One process of the ring. `following` is the next one's address; None for the head."""

    def __init__(self, work_s: float) -> None:
        self.work_s = work_s
        self.pool = ThreadPoolExecutor(1)
        self.matrix = np.ones((64, 64), np.float32)
        self.inbox: asyncio.Queue[bytes] = asyncio.Queue()
        self.server = grpc.aio.server(options=OPTIONS)
        handler = grpc.stream_unary_rpc_method_handler(self._steps)
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Bare", {"Steps": handler}),))
        self.port = self.server.add_insecure_port("127.0.0.1:0")

    async def _steps(self, messages: AsyncIterator[bytes], context: object) -> bytes:
        async for message in messages:
            self.inbox.put_nowait(message)
        return b""

    async def work(self) -> int:
        return await asyncio.get_running_loop().run_in_executor(self.pool, compute, self.work_s, self.matrix)


def _connect(address: str) -> tuple[Any, Any]:
    """A channel and an open stream on it; bytes go as they are."""
    channel: Any = grpc.aio.insecure_channel(address, options=OPTIONS)
    return channel, channel.stream_unary(METHOD)()


async def relay(following: str, work_s: float) -> None:
    one = Relay(work_s)
    await one.server.start()
    _, call = _connect(following)
    print(one.port, flush=True)
    while True:
        message = await one.inbox.get()
        spent = await one.work()
        await call.write(message + struct.pack("<Q", spent))


async def _head(stages: int, payload: int, work_s: float, trips: int, warmup: int) -> list[float]:
    head = Relay(work_s)
    await head.server.start()
    following, children = f"127.0.0.1:{head.port}", []
    try:
        for _ in range(stages - 1):
            child = subprocess.Popen(  # noqa: ASYNC220 - before anything is measured
                [sys.executable, __file__, following, str(work_s)], stdout=subprocess.PIPE, text=True
            )
            children.append(child)
            assert child.stdout is not None
            following = f"127.0.0.1:{int(await asyncio.to_thread(child.stdout.readline))}"
        channel, call = _connect(following)
        body, found = bytes(payload), []
        for trip in range(trips + warmup):
            spent = await head.work()
            begin = time.perf_counter_ns()
            await call.write(body)
            answer = await head.inbox.get()
            total = time.perf_counter_ns() - begin
            computed = sum(struct.unpack(f"<{stages - 1}Q", answer[payload:]))
            assert spent >= 0
            if trip >= warmup:
                found.append((total - computed) / 1000 / stages)
        call.cancel()
        await channel.close()
        await head.server.stop(None)
        return found
    finally:
        for child in children:
            child.kill()
            child.wait()


def measure(stages: int, payload: int, work_s: float, trips: int, warmup: int = 50) -> list[float]:
    """Microseconds per hop of each trip round a ring of `stages` processes."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return asyncio.run(_head(stages, payload, work_s, trips, warmup))


if __name__ == "__main__":
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    asyncio.run(relay(sys.argv[1], float(sys.argv[2])))
