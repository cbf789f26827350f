"""`throughput.py --waiting`: real runner processes whose stages wait a while instead of computing.

Two cores compute at most two stages at once; a stage that waits needs none, so here all eight can be busy.
"""

from __future__ import annotations

import asyncio
import statistics
from pathlib import Path
from typing import Any

from runner_ring import runner_ring

from tests.integration import runners

STAGES = 8
STEP_S = 0.02


async def _run(folder: Path, streams: int, tokens: int) -> tuple[list[list[float]], list[float], list[float], int]:
    """(each stream's token times; with one stream: seconds of a stage's step, of a trip; micro-batches at most)."""
    model = runners.model_folder(folder, num_hidden_layers=STAGES, fake_step_seconds=STEP_S)
    async with runner_ring(
        model, STAGES, STAGES, slots=streams, context=256, max_chunk=16, delays=False, speculation=False
    ) as ring:
        await ring.stamps([1, 2, 3], 6, "alone")  # the calibration
        alone = (await ring.head()).hops
        steps = [report.engine_us / 1e6 for hop in alone for report in hop.reports]
        trips = [hop.total_us / 1e6 for hop in alone]
        decoding = [asyncio.create_task(ring.stamps([n % 90, 1 + n // 90, 5], tokens, f"w{n}")) for n in range(streams)]
        batches = 0
        while not all(task.done() for task in decoding):
            batches = max(batches, (await ring.head()).scheduling.micro_batches)
            await asyncio.sleep(0.5)
        return [task.result()[0] for task in decoding], steps, trips, batches


def measure(folder: Path, streams: int, tokens: int) -> dict[str, Any]:
    """One JSON line: tokens/s while all decode over X(m, b) = min(m b / trip, b / step), m one micro-batch a stage."""
    stamps, steps, trips, batches = asyncio.run(_run(folder, streams, tokens))
    start, end = max(one[0] for one in stamps), min(one[-1] for one in stamps)
    found = sum(start < stamp <= end for one in stamps for stamp in one) / (end - start)
    step, trip = statistics.median(steps), statistics.median(trips)
    best = min(streams / trip, streams / STAGES / step)
    return {
        "bench": "throughput of stages that wait / X(m, b)",
        "ratio": round(found / best, 3),
        "ratio_without_hops": round(found * STEP_S * STAGES / streams, 3),
        "bar": 0.9,
        "tokens_per_s": round(found, 1),
        "x": round(best, 1),
        "step_ms": STEP_S * 1e3,
        "step_alone_ms": round(step * 1e3, 2),
        "trip_alone_ms": round(trip * 1e3, 2),
        "stages": STAGES,
        "streams": streams,
        "micro_batches": batches,
        "tokens": tokens,
    }
