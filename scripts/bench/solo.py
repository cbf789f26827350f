"""One shard's engine in a process of its own, timed by itself: what a stage takes when nothing else runs."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from line_process import LineProcess

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from exo_node.ring.supervisor import runner_environment  # noqa: E402

WARM = 4  # steps before those that count: compiling, first touches


class Solo:
    """`of(rows)`: seconds and CPU-seconds of a step of so many decoding rows."""

    def __init__(
        self, folder: Path, shard: Mapping[str, Any], environment: Mapping[str, str], most: int, bits: int = 0
    ) -> None:
        """`shard`: one of an instance's (`start_layer`, `end_layer`, `n_layers`, `engine`); `most`: rows at once.

        The process has what a runner has beside `environment`: huge pages above all, 5 to 10 % of a step on a CPU.
        """
        environment = {**runner_environment(os.environ), **environment}
        begin = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import solo; solo.serve()"
        layers = [str(shard[name]) for name in ("start_layer", "end_layer", "n_layers")]
        self._process = LineProcess(begin, environment, str(folder), shard["engine"], *layers, str(most), str(bits))
        self._found: dict[int, tuple[float, float]] = {}

    def of(self, rows: int, steps: int = 9) -> tuple[float, float]:
        if rows not in self._found:
            answer = self._process.ask(rows=rows, steps=steps)
            self._found[rows] = answer["seconds"], answer["cpu_seconds"]
        return self._found[rows]

    def forget(self) -> None:
        """`of` measures anew."""
        self._found.clear()

    def again(self, rows: int, steps: int) -> float:
        """Seconds of a step, measured now: while others run, for instance."""
        return float(self._process.ask(rows=rows, steps=steps)["seconds"])

    def close(self) -> None:
        self._process.close()


def serve() -> None:
    """The process: loads the shard, then a step's times for each line."""
    parser = argparse.ArgumentParser()
    for name in ("folder", "engine", "start", "end", "layers", "most", "bits"):
        parser.add_argument(name, type=str if name in ("folder", "engine") else int)
    found = parser.parse_args()
    from exo_node.engine.base import LoadPlan
    from exo_node.engine.blas import preload_blas
    from exo_node.engine.select import create_engine
    from exo_node.models.quantizing import shard_source
    from exo_node.models.spec import read_spec
    from exo_node.types import Shard

    if found.engine == "mlx":
        preload_blas()
    engine, spec = create_engine(found.engine), read_spec(Path(found.folder), "solo", found.bits)
    shard, head = Shard("solo", found.start, found.end, found.layers), found.start == 0
    plan = LoadPlan(
        config=spec.config,
        shard=shard,
        is_head=head,
        compute_dtype="float32",
        slots=found.most,
        context=512,
        max_chunk=64,
        device="CPU",
    )
    engine.load(plan, shard_source(spec, shard, head, quantize=found.bits), lambda done, total: None)
    for line in sys.stdin:
        print(json.dumps(timed(engine, plan, **json.loads(line))), flush=True)


def timed(engine: Any, plan: Any, rows: int, steps: int) -> dict[str, float]:
    """Median seconds, mean CPU-seconds of a step of `rows` rows behind 32 tokens each; the head's with its logits."""
    import numpy as np

    from exo_node.engine.base import EngineRow, Hidden

    width, prompt = int(plan.config["hidden_size"]), 32

    def step(position: int, length: int, slots: range) -> None:
        ids = np.full(length, 65, np.int32) if plan.is_head else None
        made = [EngineRow(slot, position, length, ids, 1) for slot in slots]
        count = length * len(made)
        values = np.ones((count, width), np.float32)
        activation = engine.forward(made, None if plan.is_head else Hidden("float32", (count, width), values.tobytes()))
        if not plan.shard.is_last:
            engine.export(activation, "bfloat16")
        if plan.is_head:  # what comes home is one vector a row
            home = Hidden("float32", (len(made), width), values[: len(made)].tobytes())
            engine.logits(activation if plan.shard.is_last else home)
        elif plan.shard.is_last:
            engine.export(activation, "bfloat16")

    for slot in range(rows):
        engine.truncate(slot, 0)
        step(0, prompt, range(slot, slot + 1))
    seconds, begun = [], 0.0
    for number in range(WARM + steps):
        if number == WARM:
            begun = time.process_time()
        start = time.perf_counter()
        step(prompt + number, 1, range(rows))
        seconds.append(time.perf_counter() - start)
    return {
        "seconds": statistics.median(seconds[WARM:]),
        "cpu_seconds": (time.process_time() - begun) / steps,
    }
