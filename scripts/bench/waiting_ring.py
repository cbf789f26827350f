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


async def _run(folder: Path, streams: int, tokens: int) -> tuple[list[list[float]], list[float], int]:
    """(each stream's token times, seconds of a stage's step with one stream, micro-batches at most)."""
    model = runners.model_folder(folder, num_hidden_layers=STAGES, fake_step_seconds=STEP_S)
    async with runner_ring(
        model, STAGES, STAGES, slots=streams, context=256, max_chunk=16, delays=False, speculation=False
    ) as ring:
        await ring.stamps([1, 2, 3], 6, "alone")  # the calibration
        steps = [report.engine_us / 1e6 for hop in (await ring.head()).hops for report in hop.reports]
        decoding = [asyncio.create_task(ring.stamps([n % 90, 1 + n // 90, 5], tokens, f"w{n}")) for n in range(streams)]
        batches = 0
        while not all(task.done() for task in decoding):
            batches = max(batches, (await ring.head()).scheduling.micro_batches)
            await asyncio.sleep(0.5)
        return [task.result()[0] for task in decoding], steps, batches


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
