"""A ring of real runner processes without daemons, asked over gRPC: the benches that set up what a daemon decides."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_nodes as bench_nodes  # puts the repository on the path
from delay_proxy import DelayProxy

from exo_node.errors import PeerUnavailable
from exo_node.transport.generated.exo.v1 import ring_pb2
from exo_node.transport.ring_client import RingClient
from tests.integration import runners


@dataclass
class BenchRing:
    """`hops[i].delay`: seconds from stage i to the next; empty where none are simulated."""

    clients: list[RingClient]
    hops: list[DelayProxy]

    async def stamps(self, prompt: Sequence[int], tokens: int, request_id: str) -> tuple[list[float], list[int]]:
        """(when each token came, by this process's clock; the tokens) of a greedy generation."""
        stamps: list[float] = []
        ids: list[int] = []
        async for delta in self.clients[0].generate(runners.request(prompt, tokens, request_id)):
            stamps += [time.perf_counter()] * len(delta.ids)
            ids += delta.ids
        return stamps, ids

    async def head(self) -> ring_pb2.RunnerStats:
        return await self.clients[0].stats()


async def _configure(client: RingClient, message: ring_pb2.ConfigureRequest, attempts: int = 20) -> None:
    """On a busy machine a connection may take longer than a client waits for it: nothing has been sent then."""
    for attempt in range(attempts):
        try:
            await client.configure(message)
            return
        except PeerUnavailable:
            if attempt == attempts - 1:
                raise
            await asyncio.sleep(0.2)


@asynccontextmanager
async def runner_ring(
    model: Path, layers: int, stages: int, *, slots: int, context: int, max_chunk: int, delays: bool, **changes: Any
) -> AsyncIterator[BenchRing]:
    """`layers` of the model over `stages` processes, in even parts; `changes` as in `runners.config`."""
    sizes = {"slots": slots, "context": context, "max_chunk": max_chunk, "kv_tokens": slots * context}
    cut = [layers * stage // stages for stage in range(stages + 1)]
    shards = [{"start_layer": a, "end_layer": b, "n_layers": layers} for a, b in itertools.pairwise(cut)]
    configs = [
        runners.config(model, at, stages, **{**sizes, **changes, "shard": shard}) for at, shard in enumerate(shards)
    ]
    started = await asyncio.gather(*map(runners.start, configs))
    if failed := [one.events[-1] for one in started if one.events[-1]["event"] != "ready"]:
        raise SystemExit(f"a runner failed: {failed[0]}")
    hops = [DelayProxy(started[(at + 1) % stages].address) for at in range(stages)] if delays else []
    made = runners.Ring(list(started), [runners.dial(one.address) for one in started])
    try:
        addresses = [await hop.start() for hop in hops]
        for stage in reversed(range(stages)):
            message = made.configuration(stage, 1)
            message.slots, message.context, message.max_chunk = slots, context, max_chunk
            message.kv_tokens, message.wire_dtype = slots * context, "float32"
            if hops:
                message.next_address = addresses[stage]
            await _configure(made.clients[stage], message)
        yield BenchRing(made.clients, hops)
    finally:
        for client in made.clients:
            await client.close()
        for one in started:
            assert one.process.stdin is not None
            one.process.stdin.close()
        await asyncio.gather(*(one.ended() for one in started))
        for hop in hops:
            await hop.close()
