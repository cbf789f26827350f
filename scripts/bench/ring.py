#!/usr/bin/env python3
"""The ring's cost: (a) one node over HTTP against mlx-lm's own generate, (b) a hop against a bare gRPC hop, (c) where a
hop's time goes. Prints one JSON line for each part that was asked for.

    scripts/bench/ring.py [--part a|b|c|all] [--pairs N] [--keep FOLDER]

(a) runs real daemons and mlx-lm in a process of its own on the same folder, same BLAS, dtype and threads, in
interleaved pairs; both decode the same greedy tokens; a pair's ratio is ours over theirs in tokens/s. (b) and (c) read
the head's own reports of a three-stage ring whose engines compute, and measure the bare ring in the same run.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).parent))

import bare_hop  # noqa: E402
import make_checkpoint  # noqa: E402
from line_process import LineProcess  # noqa: E402

from tests.integration.harness import NodeProcess, nodes  # noqa: E402

# Llama-3.2-1B's layers, a quarter of them, with a smaller vocabulary: a step takes far more than the 5 ms below which
# the comparison would measure Python alone.
SHAPE_A = make_checkpoint.Shape(hidden=2048, layers=4, ffn=8192, heads=32, kv_heads=8, vocab=32000)
# A third of this computes for a few ms a step, which is what a hop has to live beside.
SHAPE_B = make_checkpoint.Shape(hidden=1024, layers=6, ffn=2048, heads=16, kv_heads=8, vocab=4000)
PROMPT = "The quick brown fox jumps over the lazy dog."
TOKENS = 48

REFERENCE = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from exo_node.engine.blas import preload_blas
blas = preload_blas()
import mlx.core as mx
from mlx_lm.utils import load_model
from mlx_lm.generate import generate_step
model, _ = load_model(Path({folder!r}))
for line in sys.stdin:
    request = json.loads(line)
    prompt, ids, stamps = mx.array(request["ids"]), [], []
    for token, _ in generate_step(prompt, model, max_tokens=request["tokens"]):
        ids.append(int(token))
        stamps.append(time.perf_counter())
    rate = (len(ids) - 1) / (stamps[-1] - stamps[0])
    print(json.dumps({{"rate": rate, "ids": ids, "blas": blas}}), flush=True)
"""


def ours(node: NodeProcess, model: str, ids: list[int], tokens: int) -> tuple[float, str]:
    """(tokens/s between the first and the last piece, text) of one streamed completion over HTTP.

    A plain client: what an SDK spends on its own objects (1-3 ms a token here) is not the ring's.
    """
    host, port = node.api.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=300)
    body = {"model": model, "prompt": ids, "max_tokens": tokens, "temperature": 0, "stream": True}
    connection.request(
        "POST",
        "/v1/completions",
        json.dumps({**body, "logit_bias": {"257": -100}}),
        {"Content-Type": "application/json"},
    )
    response = connection.getresponse()
    assert response.status == 200, response.read()
    stamps, pieces = [], []
    while line := response.readline():
        if line.startswith(b"data: {"):
            stamps.append(time.perf_counter())
            pieces.append(line[6:])
    connection.close()
    choices = [choice for piece in pieces for choice in json.loads(piece)["choices"]]
    texts = [choice["text"] for choice in choices]
    # One event a token, and the finish comes with the last one or in an event of its own.
    assert len([text for text in texts if text]) >= tokens - 1, texts
    return (tokens - 1) / (stamps[tokens - 1] - stamps[0]), "".join(texts)


def part_a(folder: Path, work: Path, pairs: int, threads: int) -> dict[str, Any]:
    ids = [256, *PROMPT.encode()]
    environment = {"OPENBLAS_NUM_THREADS": str(threads)}
    reference = LineProcess(REFERENCE.format(root=str(ROOT), folder=str(folder)), environment)  # mlx-lm's own generate
    try:
        with nodes(
            work / f"home-{threads}",
            ["--inference-engine", "mlx", "--models-dir", str(folder.parent)],
            env=environment,
        ) as (node,):
            place(node, folder.name, [node.node_id])
            ours(node, folder.name, ids, 8)
            reference.ask(ids=ids, tokens=8)
            ratios, mine, theirs = [], [], []
            for pair in range(pairs):
                if pair % 2:  # who goes first alternates
                    other = reference.ask(ids=ids, tokens=TOKENS)
                    rate, _ = ours(node, folder.name, ids, TOKENS)
                else:
                    rate, _ = ours(node, folder.name, ids, TOKENS)
                    other = reference.ask(ids=ids, tokens=TOKENS)
                ratios.append(rate / other["rate"])
                mine.append(rate)
                theirs.append(other["rate"])
            return {
                "bench": "ring.a one node over HTTP / mlx-lm generate",
                "ratio": round(statistics.median(ratios), 4),
                "ratio_min": round(min(ratios), 4),
                "ratio_max": round(max(ratios), 4),
                "tokens_per_s": round(statistics.median(mine), 2),
                "mlx_lm_tokens_per_s": round(statistics.median(theirs), 2),
                "step_ms": round(1000 / statistics.median(theirs), 2),
                "pairs": pairs,
                "threads": threads,
                "blas": other["blas"],
            }
    finally:
        reference.close()


def place(node: NodeProcess, model: str, node_ids: list[str]) -> dict[str, Any]:
    status, instance = node.request(
        "POST", "/v1/instances", {"model": model, "nodes": node_ids, "min_nodes": len(node_ids)}
    )
    if status != 200:
        raise SystemExit(f"cannot place {model}: {instance}")
    found: dict[str, Any] = instance
    return found


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def parts_b_c(folder: Path, work: Path, tokens: int) -> tuple[dict[str, Any], dict[str, Any]]:
    stages = 3
    arguments = ["--inference-engine", "mlx", "--models-dir", str(folder.parent)]
    # Beside OpenBLAS threads that spin on both cores every process waits for a core; one thread a runner leaves one.
    with nodes(work / "ring", *[arguments] * stages, env={"OPENBLAS_NUM_THREADS": "1"}) as cluster:
        instance = place(cluster[0], folder.name, [node.node_id for node in cluster])
        ids = [256, *PROMPT.encode()]
        ours(cluster[0], folder.name, ids, 16)
        ours(cluster[0], folder.name, ids, tokens)
        hops = hop_samples(cluster[0], instance["id"])
    per_hop = [sample["hop_us"] for sample in hops]
    engine_s = statistics.median(sample["engine_us"] for sample in hops) / 1e6
    bare = bare_hop.measure(stages, SHAPE_B.hidden * 4, engine_s, tokens)
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


def hop_samples(head: NodeProcess, instance_id: str) -> list[dict[str, float]]:
    """The head's last steps that took the whole ring, each as microseconds per hop.

    A trip's time is taken by the head from the start of its own part to the return; what the engines computed is taken
    off it.
    """
    status, stats = head.request("GET", f"/v1/instances/{instance_id}/stats")
    assert status == 200, stats
    found = []
    for sample in stats["stages"][0]["hops"]:
        stages = sample["stages"]
        hops = len(stages)
        engine, queue, codec = (sum(one[f"{name}_us"] for one in stages) for name in ("engine", "queue", "codec"))
        outside = sample["total_us"] - engine
        found.append(
            {
                "hop_us": outside / hops,
                "engine_us": engine / hops,
                "queue_us": queue / hops,
                "codec_us": codec / hops,
                "wire_us": (outside - queue - codec) / hops,
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["a", "b", "c", "all"], default="all")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="BLAS threads of both sides of (a)")
    parser.add_argument("--tokens", type=int, default=400, help="steps of the hop measurement")
    parser.add_argument("--keep", type=Path, help="folder for the checkpoints (default: a temporary one)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        models = arguments.keep or work / "models"
        if arguments.part in ("a", "all"):
            print(
                json.dumps(
                    part_a(make_checkpoint.make(models / "bench-a", SHAPE_A), work, arguments.pairs, arguments.threads)
                )
            )
        if arguments.part != "a":
            b, c = parts_b_c(make_checkpoint.make(models / "bench-b", SHAPE_B), work, arguments.tokens)
            for name, line in (("b", b), ("c", c)):
                if arguments.part in (name, "all"):
                    print(json.dumps(line))
    sys.stdout.flush()
    os._exit(0)  # grpc's threads need no orderly end here


if __name__ == "__main__":
    main()
