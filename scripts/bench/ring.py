#!/usr/bin/env python3
"""What a hop of the ring costs (b) against a bare gRPC hop, and (c) where its time goes: a JSON line each.

    scripts/bench/ring.py [--tokens N] [--keep FOLDER] [--fast]

Both read the head's own reports of a three-stage ring whose engines compute; the bare ring is measured in the same run.
One node's tokens/s are decode.py's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import bare_hop
import make_checkpoint
from bench_nodes import BEGIN, PROMPT, hop_samples, nodes, percentile, place, tokens_of

# A third of this computes for a few ms a step, which is what a hop has to live beside.
SHAPE = make_checkpoint.Shape(hidden=1024, layers=6, ffn=2048, heads=16, kv_heads=8, vocab=4000)


def measure(folder: Path, work: Path, tokens: int) -> tuple[dict[str, Any], dict[str, Any]]:
    stages = 3
    arguments = ["--inference-engine", "mlx", "--models-dir", str(folder.parent)]
    # Beside OpenBLAS threads that spin on both cores every process waits for a core; one thread a runner leaves one.
    with nodes(work / "ring", *[arguments] * stages, env={"OPENBLAS_NUM_THREADS": "1"}) as cluster:
        instance = place(cluster[0], folder.name, [node.node_id for node in cluster])
        ids = [BEGIN, *PROMPT.encode()]
        tokens_of(cluster[0], folder.name, ids, 16)
        tokens_of(cluster[0], folder.name, ids, tokens)
        hops = hop_samples(cluster[0], instance["id"])
    per_hop = [sample["hop_us"] for sample in hops]
    engine_s = statistics.median(sample["engine_us"] for sample in hops) / 1e6
    bare = bare_hop.measure(stages, SHAPE.hidden * 4, engine_s, tokens)
    ratio = statistics.median(per_hop) / statistics.median(bare)
    b = {
        "bench": "ring.b cost of a hop / a bare grpc.aio stream hop with an executor hand-over",
        "ratio": round(ratio, 3),
        "p50_us": round(statistics.median(per_hop), 1),
        "p99_us": round(percentile(per_hop, 0.99), 1),
        "bare_p50_us": round(statistics.median(bare), 1),
        "bare_p99_us": round(percentile(bare, 0.99), 1),
        "engine_ms_per_stage": round(engine_s * 1000, 3),
        "steps": len(hops),
        "stages": stages,
    }
    names = ("queue_us", "codec_us", "wire_us")
    c = {
        "bench": "ring.c where a hop's microseconds go (p50 per hop)",
        **{name: round(statistics.median(sample[name] for sample in hops), 1) for name in names},
        "ratio": round(ratio, 3),
    }
    return b, c


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=400, help="steps of the measurement")
    parser.add_argument("--keep", type=Path, help="folder for the checkpoint (default: a temporary one)")
    parser.add_argument("--fast", action="store_true", help="few steps: shows that it runs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        folder = make_checkpoint.make((arguments.keep or work / "models") / "bench-b", SHAPE)
        for line in measure(folder, work, 60 if arguments.fast else arguments.tokens):
            print(json.dumps(line))
    sys.stdout.flush()
    os._exit(0)  # grpc's threads need no orderly end here


if __name__ == "__main__":
    main()
