"""`throughput.py --waiting`: real runner processes whose stages wait a while instead of computing.

Two cores compute at most two stages at once; a stage that waits needs none, so here all eight can be busy.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

import common as common  # puts the repository on the path

from exo_node.transport.ring_client import RingClient
from tests.integration import runners

STAGES = 8
STEP_S = 0.02


async def _stream(client: RingClient, number: int, tokens: int) -> list[float]:
    """When each token came, by this process's clock."""
    stamps: list[float] = []
    message = runners.request([number % 90, 1 + number // 90, 5], tokens, request_id=f"w{number}")
    async for delta in client.generate(message):
        stamps += [time.perf_counter()] * len(delta.ids)
    return stamps


async def _run(folder: Path, streams: int, tokens: int) -> tuple[list[list[float]], list[float], int]:
    model = runners.model_folder(folder, num_hidden_layers=STAGES, fake_step_seconds=STEP_S)
    sizes = {"slots": streams, "kv_tokens": streams * runners.CONTEXT, "speculation": False}
    shards = [{"start_layer": stage, "end_layer": stage + 1, "n_layers": STAGES} for stage in range(STAGES)]
    started = await asyncio.gather(
        *(runners.start(runners.config(model, i, STAGES, shard=shards[i], **sizes)) for i in range(STAGES))
    )
    made = runners.Ring(list(started), [RingClient(one.address, runners.TOKEN) for one in started])
    try:
        for stage in reversed(range(STAGES)):
            message = made.configuration(stage, 1)
            message.slots = streams
            message.kv_tokens = streams * runners.CONTEXT
            await made.clients[stage].configure(message)
        alone = await _stream(made.clients[0], 999, 6)  # the calibration: one stream, each stage by itself
        hops = (await made.stats())[0].hops
        steps = [report.engine_us / 1e6 for hop in hops for report in hop.reports]
        assert len(alone) == 6
        decoding = [asyncio.create_task(_stream(made.clients[0], n, tokens)) for n in range(streams)]
        batches = 0
        while not all(task.done() for task in decoding):
            batches = max(batches, (await made.clients[0].stats()).scheduling.micro_batches)
            await asyncio.sleep(0.5)
        return [task.result() for task in decoding], steps, batches
    finally:
        for client in made.clients:
            await client.close()
        for one in started:
            assert one.process.stdin is not None
            one.process.stdin.close()
        await asyncio.gather(*(one.ended() for one in started))


def measure(folder: Path, streams: int, tokens: int) -> dict[str, Any]:
    """One JSON line: tokens/s while all decode over X(m, b) = b / step with as many micro-batches as stages."""
    stamps, steps, batches = asyncio.run(_run(folder, streams, tokens))
    start, end = max(one[0] for one in stamps), min(one[-1] for one in stamps)
    found = sum(start < stamp <= end for one in stamps for stamp in one) / (end - start)
    measured = statistics.median(steps)
    rows = streams / STAGES
    return {
        "bench": "throughput of stages that wait / X(m, b)",
        "ratio": round(found * STEP_S / rows, 3),
        "ratio_to_measured_step": round(found * measured / rows, 3),
        "bar": 0.9,
        "tokens_per_s": round(found, 1),
        "x": round(rows / STEP_S, 1),
        "step_ms": STEP_S * 1e3,
        "step_alone_ms": round(measured * 1e3, 2),
        "stages": STAGES,
        "streams": streams,
        "micro_batches": batches,
        "tokens": tokens,
    }
