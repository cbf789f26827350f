#!/usr/bin/env python3
"""Full-precision, 8 bit and 4 bit weights on each engine: memory, speed, and how far logits move. One JSON line each.

A made Llama-3.2-1B shape of few layers, stored in bfloat16 and quantized on load; each load is a process of its own.
Speed is per second of CPU (all threads), so that a machine that is busy otherwise does not disturb it; memory is the
process's peak of anonymous memory while it loads and computes, less what it had before. `logit_error`: root mean square
difference from full precision on the same engine, over the root mean square of its logits.

    scripts/bench/quantized.py [--engine mlx|tinygrad|both] [--layers 4] [--vocab 32000]
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).parent))

PROMPT, DECODED, CONTEXT = 64, 12, 256


class Peak:
    """This process's peak of anonymous memory above what it was at the start, polled every 5 ms."""

    def __init__(self) -> None:
        self._start = self._now()
        self.bytes = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, self._now() - self._start)
            time.sleep(0.005)

    @staticmethod
    def _now() -> int:
        status = Path("/proc/self/status").read_text()
        return sum(int(found) * 1024 for found in re.findall(r"Rss(?:Anon|Shmem):\s+(\d+) kB", status))


def measure(folder: Path, engine_name: str, bits: int, logits_to: Path) -> dict[str, object]:
    """In a process of its own: load, a prompt in one row, then token by token."""
    from exo_node.engine.base import EngineRow, LoadPlan
    from exo_node.engine.blas import preload_blas
    from exo_node.engine.select import create_engine
    from exo_node.models.quantizing import shard_source
    from exo_node.models.spec import read_spec
    from exo_node.types import Shard

    if engine_name == "mlx":
        preload_blas()
    engine = create_engine(engine_name)
    spec = read_spec(folder, "made", bits)
    shard = Shard("made", 0, spec.n_layers, spec.n_layers)
    plan = LoadPlan(
        config=spec.config,
        shard=shard,
        is_head=True,
        compute_dtype="float32",
        slots=1,
        context=CONTEXT,
        max_chunk=PROMPT,
        device="CPU",
    )
    peak = Peak()
    began = time.process_time()
    report = engine.load(plan, shard_source(spec, shard, True, quantize=bits), lambda done, total: None)
    loaded = time.process_time() - began
    ids = np.random.default_rng(0).integers(0, spec.vocab_size, PROMPT + DECODED).astype(np.int32)

    def step(position: int, length: int) -> np.ndarray:
        row = EngineRow(0, position, length, ids[position : position + length], length)
        return engine.logits(engine.forward([row], None), [length - 1])

    began = time.process_time()
    outputs = [step(0, PROMPT)]
    prefilled = time.process_time() - began
    began = time.process_time()
    outputs += [step(PROMPT + i, 1) for i in range(DECODED)]
    decoded = time.process_time() - began
    np.save(logits_to, np.concatenate(outputs))
    return {
        "engine": engine_name,
        "bits": bits or "as stored (held in float32)",
        "weight_mb": round(report.weight_bytes / 1e6),
        "peak_mb": round(peak.bytes / 1e6),
        "load_cpu_s": round(loaded, 1),
        "prefill_tokens_per_cpu_s": round(PROMPT / prefilled, 1),
        "decode_tokens_per_cpu_s": round(DECODED / decoded, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("mlx", "tinygrad", "both"), default="both")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--one", nargs=3, metavar=("FOLDER", "BITS", "LOGITS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        folder, bits, logits = options.one
        print(json.dumps(measure(Path(folder), options.engine, int(bits), Path(logits))))
        return
    import make_checkpoint

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "made"
        shape = make_checkpoint.Shape(2048, options.layers, 8192, 32, 8, options.vocab, dtype="bfloat16")
        make_checkpoint.make(folder, shape)
        for engine in ("mlx", "tinygrad") if options.engine == "both" else (options.engine,):
            full: np.ndarray | None = None
            for bits in (0, 8, 4):
                logits = Path(scratch) / f"{bits}.npy"
                command = [sys.executable, __file__, "--engine", engine, "--one", str(folder), str(bits), str(logits)]
                row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                found = np.load(logits)
                full = found if full is None else full
                row["logit_error"] = round(float(np.sqrt(np.mean((found - full) ** 2) / np.mean(full**2))), 4)
                row["same_token"] = f"{(found.argmax(1) == full.argmax(1)).sum()} of {len(full)}"
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
